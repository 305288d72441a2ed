"""Vocabularies in and out of Hugging Face folders: spiece.model, tokenizer_config.json, tokenizer.json.

tokenizer.json is written too, because what transformers makes of spiece.model by itself has no byte fallback: unknown
characters would get other ids than SentencePiece's. A model file is a protocol buffer; the few fields that are needed
are read, and pieces appended, by its wire format.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medmt5.conversion.huggingface import read_json
from medmt5.conversion.safetensors import describe_content
from medmt5.errors import InputError
from medmt5.tokenizer import NUM_SENTINELS, Tokenizer

PIECES, TRAINER, NORMALIZER = 1, 2, 3  # fields of sentencepiece's ModelProto
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6  # types of a piece
T5_PIECES = 32_000  # of T5's and Flan-T5's file, to which transformers adds the sentinels
UNREACHABLE = -1e6  # a score that no segmentation wins with


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_inputs: int) -> None:
    """Writes a tokenizer that `transformers.AutoTokenizer` loads, with the label tokens at our ids."""
    data = tokenizer.model_file.read_bytes()
    (folder / "spiece.model").write_bytes(data)
    added = {i: tokenizer.piece_text(i) for i in range(tokenizer.num_pieces, tokenizer.size)}
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    names = {0: "pad_token", 1: "eos_token", 2: "unk_token"}
    entries = [
        {"id": i, **_token(text, special=i in names)}
        for i, text in ({i: special[name] for i, name in names.items()} | added).items()
    ]
    _write(folder / "tokenizer.json", _fast_tokenizer(data, entries))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_inputs,
            "clean_up_tokenization_spaces": False,
            **special,
            "added_tokens_decoder": {str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in entries},
        },
    )
    _write(folder / "special_tokens_map.json", special)
    _write(folder / "added_tokens.json", {text: i for i, text in added.items()})


def _token(text: str, special: bool) -> dict[str, Any]:
    return {
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _fast_tokenizer(data: bytes, added: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what the library `tokenizers` reads: SentencePiece's normalisation, unigrams and byte fallback."""
    pieces = [_piece(value) for number, value in fields(data) if number == PIECES]
    charsmap = next((v for n, v in fields(_field(data, NORMALIZER)) if n == 2), b"")
    normalizers: list[dict[str, Any]] = [
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ]
    if charsmap:
        encoded = base64.b64encode(charsmap).decode("ascii")
        normalizers.insert(0, {"type": "Precompiled", "precompiled_charsmap": encoded})
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    eos = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": spaces,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [a, eos],
            "pair": [a, eos, b, eos],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]},
        "model": {
            "type": "Unigram",
            "unk_id": 2,
            # Control and byte pieces never match text in SentencePiece; here any piece would, but for its score
            # (which works where the vocabulary has pieces for "<" and "x", as mT5's has).
            "vocab": [[p, UNREACHABLE if kind in (UNKNOWN, CONTROL, BYTE) else s] for p, s, kind in pieces],
            "byte_fallback": True,
        },
    }


def added_label_rows(folder: Path, tokenizer: Tokenizer) -> list[int]:
    """Returns the folder's row of each label token, in the order of our ids; -1 where it has no such token.

    Raises InputError for added tokens that are no labels: their rows would be lost.
    """
    ids = _added_tokens(folder)
    texts = [tokenizer.piece_text(i) for i in range(tokenizer.num_pieces, tokenizer.size)]
    unknown = [text for text, i in sorted(ids.items()) if i >= tokenizer.num_pieces and text not in texts]
    if unknown:
        raise InputError(
            f"{folder} adds the tokens {', '.join(unknown[:8])}, which are no labels of this vocabulary "
            f"({', '.join(tokenizer.labels)}): their rows would be lost"
        )
    return [ids.get(text, -1) for text in texts]


def _added_tokens(folder: Path) -> dict[str, int]:
    """Returns the ids of tokens that the folder adds to its pieces, by text."""
    added: dict[str, int] = {}
    if (folder / "added_tokens.json").is_file():
        added |= read_json(folder / "added_tokens.json")
    if (folder / "tokenizer_config.json").is_file():
        decoder = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        added |= {entry["content"]: int(i) for i, entry in decoder.items()}
    return added


def read_vocabulary(file: Path) -> bytes:
    """Returns a SentencePiece model, `with_sentinels`; raises InputError that says what the file is instead."""
    data = file.read_bytes()
    try:
        return with_sentinels(data)
    except InputError as error:
        raise InputError(f"{file}: {error}; {describe_content(data[:512])}") from None


def with_sentinels(data: bytes) -> bytes:
    """Returns T5's model file (32,000 pieces) with `<extra_id_99>` … `<extra_id_0>` appended; others as they are."""
    texts = [_piece(value)[0] for number, value in fields(data) if number == PIECES]
    if len(texts) != T5_PIECES or any(text.lstrip("▁") == "<extra_id_0>" for text in texts[-NUM_SENTINELS:]):
        return data
    sentinels = [f"<extra_id_{i}>".encode() for i in reversed(range(NUM_SENTINELS))]
    return data + b"".join(_bytes_field(PIECES, _bytes_field(1, text) + bytes([3 << 3, CONTROL])) for text in sentinels)


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yields (number, value) of the fields of a protocol buffer message: bytes or numbers, floats as 4 bytes."""
    at = 0
    try:
        while at < len(data):
            key, at = _varint(data, at)
            kind = key & 7
            value: Any
            if kind == 0:
                value, at = _varint(data, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                value, at = data[at : at + size], at + size
            elif kind == 2:
                size, at = _varint(data, at)
                value, at = data[at : at + size], at + size
            else:
                raise ValueError(f"wire type {kind}")
            if at > len(data):
                raise IndexError
            yield key >> 3, value
    except (IndexError, ValueError) as error:
        raise InputError("the vocabulary is no SentencePiece model, or cut short") from error


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _field(data: bytes, wanted: int) -> bytes:
    return next((value for number, value in fields(data) if number == wanted), b"")


def _piece(data: bytes) -> tuple[str, float, int]:
    """Returns (text, score, type); 1 is the type of an ordinary piece."""
    found = dict(fields(data))
    return found[1].decode(), struct.unpack("<f", found.get(2, bytes(4)))[0], found.get(3, 1)


def _bytes_field(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
