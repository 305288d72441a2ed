"""Which row of a model belongs to which id: where weights and a vocabulary meet."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from medmt5.conversion.formats import HUGGING_FACE, WITH_MODEL_FILES, Source
from medmt5.conversion.views import RowsOf
from medmt5.conversion.vocabulary_files import added_label_rows, read_vocabulary
from medmt5.conversion.weights import Weights
from medmt5.errors import InputError
from medmt5.model_files import read_model_files
from medmt5.tokenizer import Tokenizer
from medmt5.vocabularies import vocabulary_file

SPARE_ROWS = 1024  # a vocabulary that leaves more rows than this unused is another model's
ROW_MULTIPLE = 128


def fit_rows(source: Source, tokenizer: Tokenizer, num_rows: int | None = None) -> Weights:
    """Returns the source's weights with a row for each id of `tokenizer`.

    Rows stay where they are (mT5 has 12 spare ones, which the first label tokens get), but those of label tokens go
    where `tokenizer` has the label: from a Hugging Face folder that has such tokens, and from a model of ours whose
    list of labels has another order. Rows that are not there are the mean of the pieces'.

    Args:
      num_rows: of the result; None = the source's own, or if the tokenizer needs more, the next multiple of 128.
    """
    there, pieces = source.config.vocab_size, tokenizer.num_pieces
    if there < pieces:
        raise InputError(
            f"{source.path} has {there} rows of the vocabulary, {tokenizer.model_file} {pieces} pieces: it is another "
            "model's vocabulary; give the one that it was trained with"
        )
    if num_rows is None:
        num_rows = there if there >= tokenizer.size else -(-tokenizer.size // ROW_MULTIPLE) * ROW_MULTIPLE
    rows = [i if i < there else -1 for i in range(num_rows)]
    if source.format == HUGGING_FACE:
        labels = added_label_rows(source.path, tokenizer)
        if max(labels, default=-1) >= 0:
            rows[pieces : tokenizer.size] = labels
    elif source.format in WITH_MODEL_FILES and not same_places(theirs := labels_of(source.path), tokenizer.labels):
        places = {label: pieces + 2 * i for i, label in enumerate(theirs)}
        firsts = [places.get(label, -1) for label in tokenizer.labels]
        rows[pieces : tokenizer.size] = [first + (first >= 0) * k for first in firsts for k in (0, 1)]
    return source.weights if rows == list(range(there)) else RowsOf(source.weights, rows, pieces)


def labels_of(checkpoint: Path) -> tuple[str, ...]:
    """Returns the labels that a checkpoint of ours was trained with; () for one that was moved away from model.json."""
    with contextlib.suppress(InputError):
        return read_model_files(checkpoint).tokenizer.labels
    return ()


def same_places(one: Sequence[str], other: Sequence[str]) -> bool:
    """Returns whether every label of the shorter list has the same place in the longer one."""
    return all(a == b for a, b in zip(one, other, strict=False))


def has_label_tokens(source: Source, tokenizer: Tokenizer) -> bool:
    """Returns whether the source can have tokens for the labels of `tokenizer`: a folder of Hugging Face's names those
    that it adds, other formats do not tell.
    """
    return source.format != HUGGING_FACE or max(added_label_rows(source.path, tokenizer), default=-1) >= 0


def check_same_pieces(path: Path, vocabulary: Path, tokenizer: Tokenizer) -> None:
    """Raises InputError where the model at `path` has another `vocabulary` than that of `tokenizer`."""
    if read_vocabulary(vocabulary) != tokenizer.model_file.read_bytes():
        raise InputError(
            f"the vocabulary of {path} is not {tokenizer.model_file}: its rows would belong to other pieces; "
            f"use {vocabulary} (see docs/conversion.md for T5's, which needs sentinels)"
        )


def check_size(source: Source, tokenizer: Tokenizer) -> None:
    """Raises InputError where the source has so many more rows than `tokenizer` ids that it must be another's."""
    if source.config.vocab_size - tokenizer.size > SPARE_ROWS:
        raise InputError(
            f"{source.path} has {source.config.vocab_size} rows, {tokenizer.model_file} only {tokenizer.num_pieces} "
            "pieces: it is another model's vocabulary; give the one that it was trained with"
        )


def make_tokenizer(source: Source, vocabulary: Path | None, target: Path, labels: Sequence[str]) -> Tokenizer:
    """Copies the source's SentencePiece model, or the one given, to `target` and returns its tokenizer.

    T5's own file has no sentinels: they are appended, at the ids that transformers gives them.
    """
    file = vocabulary_file(vocabulary) if vocabulary else source.vocabulary
    if file is None or not file.is_file():
        raise InputError(
            f"{file or source.path} has no SentencePiece model; give the vocabulary it was trained with: --vocabulary "
            "spiece.model (of mT5: --vocabulary mt5)"
        )
    target.write_bytes(read_vocabulary(file))
    tokenizer = Tokenizer(target, labels)
    if vocabulary is not None:
        check_size(source, tokenizer)
    return tokenizer
