"""The token store: what a task yields, tokenised once, on disk for random access.

A store is a folder (docs/architecture.md): ArrayRecord shards, `lengths.npy`, `gold.jsonl` for labelled sets, and a
manifest that holds the sha256 of each. It is built beside its place and renamed into it, so that one that is there is
whole. It does not shuffle, mix or pad: `loader` does.

What a store holds are records: pairs, or documents. A pair is one entry of an ArrayRecord file; documents are laid end
to end and cut into entries of `BLOCK_TOKENS`, for an entry costs more to find than to decode, and every look into a
file more the more entries it has. So text is read in few entries, however long or short the documents are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import threading
import uuid
from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from medmt5.annotation.example import LabelledExample
from medmt5.errors import InputError
from medmt5.tokenizer import Tokenizer

FORMAT = 2
MANIFEST, LENGTHS, GOLD = "manifest.json", "lengths.npy", "gold.jsonl"
FEATURES = {"span_corruption": ("targets",), "pairs": ("inputs", "targets")}
"""Objective -> features of a record, in order."""
SHARD_TOKENS = 1 << 27  # half a gigabyte before compression
BLOCK_TOKENS = 4096  # of text in an entry


class StoreWriter:
    """Writes one store, as a context manager; the folder appears, or is replaced, when the block ends without an error.

    Args:
      directory: the store, `TOKEN_STORE/<task>/<split>`.
      objective: a key of `FEATURES`.
      tokenizer: what made the ids.
      preprocessors: the names of the steps that made the examples.
      source_digest: changes when the raw data does; lets a builder see that a store is stale.
      metadata: what else the manifest says of the data: how it was repaired, what was left out.
      shard_tokens: a shard is closed once it holds so many.
    """

    def __init__(
        self,
        directory: Path,
        *,
        task: str,
        split: str,
        objective: str,
        tokenizer: Tokenizer,
        preprocessors: Sequence[str] = (),
        source_digest: str = "",
        metadata: Mapping[str, Any] | None = None,
        shard_tokens: int = SHARD_TOKENS,
    ):
        self.directory = Path(directory)
        self.features = FEATURES[objective]
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "task": task,
            "split": split,
            "objective": objective,
            "features": list(self.features),
            "vocabulary": {
                "sha256": tokenizer.sha256,
                "pieces": tokenizer.num_pieces,
                "labels": list(tokenizer.labels),
            },
            "preprocessors": list(preprocessors),
            "source_digest": source_digest,
            **(metadata or {}),
        }
        self._shard_tokens = shard_tokens
        self._lengths = array("i")  # of all features, example after example
        self._text: list[np.ndarray] = []  # documents or ends of them that do not fill a block yet
        self._shards: list[int] = []  # entries of each

    def __enter__(self) -> StoreWriter:
        # A name of its own: hosts that build the same store at the same time do not meet before the rename.
        self._building = self.directory.with_name(f".{self.directory.name}.{uuid.uuid4().hex}.part")
        self._building.mkdir(parents=True)
        self._gold = (self._building / GOLD).open("w", encoding="utf-8")
        self._num_gold = 0
        self._open_shard()
        return self

    def write(self, example: Mapping[str, Sequence[int] | np.ndarray], gold: LabelledExample | None = None) -> None:
        """Appends a record: its features' ids, and for labelled sets what it was made of."""
        arrays = [np.asarray(example[feature], "<i4") for feature in self.features]
        self._lengths.extend(map(len, arrays))
        if self.features == ("targets",):
            self._text += arrays
            self._write_blocks(sum(map(len, self._text)) // BLOCK_TOKENS)
        else:
            entry = b"".join(struct.pack("<I", len(ids)) + ids.tobytes() for ids in arrays)
            self._write_entry(entry, sum(map(len, arrays)))
        if gold is not None:
            self._gold.write(json.dumps(gold.to_json(), ensure_ascii=False) + "\n")
            self._num_gold += 1

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None and any(map(len, self._text)):
                self._write_blocks(1)  # the last one, shorter
            self._writer.close()
            self._gold.close()
            if kind is None:
                self._finish()
                self._move_into_place()
        finally:
            shutil.rmtree(self._building, ignore_errors=True)  # what is left of a build that failed

    def _write_blocks(self, count: int) -> None:
        if count:
            text = np.concatenate(self._text)
            for start in range(0, count * BLOCK_TOKENS, BLOCK_TOKENS):
                block = text[start : start + BLOCK_TOKENS]
                self._write_entry(block.tobytes(), len(block))
            self._text = [text[count * BLOCK_TOKENS :]]

    def _write_entry(self, entry: bytes, tokens: int) -> None:
        if self._tokens_in_shard >= self._shard_tokens:
            self._writer.close()
            self._open_shard()
        self._writer.write(entry)
        self._tokens_in_shard += tokens
        self._shards[-1] += 1

    def _open_shard(self) -> None:
        self._shards.append(0)
        # One entry a group: what random access needs.
        self._writer = ArrayRecordWriter(str(self._building / f"{len(self._shards) - 1}.part"), "group_size:1")
        self._tokens_in_shard = 0

    def _finish(self) -> None:
        lengths = np.array(self._lengths, np.int32).reshape(-1, len(self.features))
        if self._num_gold not in (0, len(lengths)):
            raise ValueError(f"{self._num_gold} of {len(lengths)} examples have gold annotation; give all or none")
        np.save(self._building / LENGTHS, lengths)
        shards = []
        for number, entries in enumerate(self._shards):
            name = f"data-{number:05d}-of-{len(self._shards):05d}.array_record"
            (self._building / f"{number}.part").rename(self._building / name)
            shards.append({"file": name, "entries": entries, "sha256": _sha256(self._building / name)})
        if not self._num_gold:
            (self._building / GOLD).unlink()
        totals = lengths.sum(axis=0, dtype=np.int64).tolist()
        self._manifest |= {
            "examples": len(lengths),
            "tokens": dict(zip(self.features, totals, strict=True)),
            "shards": shards,
            "lengths_sha256": _sha256(self._building / LENGTHS),
            "gold_sha256": _sha256(self._building / GOLD) if self._num_gold else None,
        }
        self._manifest["digest"] = _digest(self._manifest)
        (self._building / MANIFEST).write_text(json.dumps(self._manifest, indent=1) + "\n", encoding="utf-8")

    def _move_into_place(self) -> None:
        old = self._building.with_suffix(".old")
        if self.directory.exists():
            self.directory.rename(old)
        self._building.rename(self.directory)
        shutil.rmtree(old, ignore_errors=True)


class TokenStore:
    """A store on disk, read only. `store[i]` is {feature: [length] int32}; reading from several threads is safe."""

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self.manifest = self._read_manifest()
        self.features: tuple[str, ...] = tuple(self.manifest["features"])
        self.digest: str = self.manifest["digest"]
        self.name = f"{self.manifest['task']}/{self.manifest['split']}"
        self.num_tokens = sum(self.manifest["tokens"].values())
        for name in manifest_sha256s(self.manifest):
            if not (self.directory / name).is_file():
                raise InputError(f"{self.directory / name} is missing; {self._remake()}")
        shards = self.manifest["shards"]
        self._last_entries = np.cumsum([shard["entries"] for shard in shards]) - 1
        self._readers: list[ArrayRecordReader | None] = [None] * len(shards)
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return self.manifest["examples"]

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return self.read(np.array([i]))[0]

    @property
    def label_prompt(self) -> bool | None:
        """Whether inputs begin with label tokens, as the first one tells; None for a store that has no labels."""
        if not self.manifest.get("gold_sha256") or not len(self):
            return None
        return bool(np.any(self[0]["inputs"][:1] >= self.manifest["vocabulary"]["pieces"]))

    def read(self, records: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Returns {feature: [length] int32} for each of `records` [n], faster than one by one."""
        if self.features == ("targets",):
            ends = self._ends[records]
            return [{"targets": text} for text in self.read_text(ends - self.lengths[records, 0], ends)]
        examples = []
        for entry in self._read_entries(records):
            words = np.frombuffer(entry, "<i4")
            example, start = {}, 0
            for feature in self.features:
                end = start + 1 + int(words[start])
                example[feature] = words[start + 1 : end]
                start = end
            examples.append(example)
        return examples

    def read_text(self, starts: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
        """Returns the tokens `start` to `end`, exclusive, of the documents laid end to end, for each of [n] such.

        They are views, [end - start] int32 each, of what was read.
        """
        blocks = [
            np.arange(start, end) for start, end in zip(starts // BLOCK_TOKENS, -(-ends // BLOCK_TOKENS), strict=True)
        ]
        needed = np.unique(np.concatenate(blocks))
        text = np.frombuffer(b"".join(self._read_entries(needed)), "<i4")
        # The blocks of one stretch of text are neighbours among those needed; only the last of all may be shorter.
        offsets = np.searchsorted(needed, starts // BLOCK_TOKENS) * BLOCK_TOKENS + starts % BLOCK_TOKENS
        return [text[at : at + length] for at, length in zip(offsets, ends - starts, strict=True)]

    def records_of(self, start: int, end: int) -> tuple[int, int]:
        """Returns the first and the last document of the tokens `start` to `end`, exclusive."""
        first, last = np.searchsorted(self._ends, [start, end - 1], side="right")
        return int(first), int(last)

    @cached_property
    def lengths(self) -> np.ndarray:
        """[records, features] int32, in the order of `features`."""
        return np.load(self.directory / LENGTHS, allow_pickle=False, mmap_mode="r" if len(self) else None)

    @cached_property
    def _ends(self) -> np.ndarray:
        """[documents] int64: where each ends when they are laid end to end."""
        return np.cumsum(self.lengths[:, 0], dtype=np.int64)

    def _read_entries(self, numbers: np.ndarray) -> list[bytes]:
        """Returns the entries of the ArrayRecord files, [n], each file asked once."""
        entries: list[bytes] = [b""] * len(numbers)
        of_shard = np.searchsorted(self._last_entries, numbers)
        for shard in np.unique(of_shard):
            at = np.flatnonzero(of_shard == shard)
            first = self._last_entries[shard] + 1 - self.manifest["shards"][shard]["entries"]
            for i, entry in zip(at, self._reader(shard).read((numbers[at] - first).tolist()), strict=True):
                entries[i] = entry
        return entries

    def _reader(self, shard: int) -> ArrayRecordReader:
        with self._opening:
            if self._readers[shard] is None:
                path = self.directory / self.manifest["shards"][shard]["file"]
                # No read-ahead, for what is read next is elsewhere.
                self._readers[shard] = ArrayRecordReader(
                    str(path), options="readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=1 << 15
                )
        return self._readers[shard]

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Raises InputError unless the store's ids mean the same to `tokenizer`; more labels at its end change none."""
        stored = self.manifest["vocabulary"]
        if stored["sha256"] != tokenizer.sha256:
            raise InputError(
                f"{self.directory} was made with another vocabulary (sha256 {stored['sha256'][:12]}…) than "
                f"{tokenizer.model_file} ({tokenizer.sha256[:12]}…); name the right one, or {self._remake()}"
            )
        if tuple(stored["labels"]) != tuple(tokenizer.labels[: len(stored["labels"])]):
            raise InputError(
                f"{self.directory} was made for the labels {', '.join(stored['labels'])}, the vocabulary has "
                f"{', '.join(tokenizer.labels)}; {self._remake()}"
            )

    def verify(self) -> None:
        """Reads every file and raises InputError naming the first one that is not as it was written."""
        for name, sha256 in manifest_sha256s(self.manifest).items():
            path = self.directory / name
            if _sha256(path) != sha256:
                raise InputError(f"{path} is not as it was written (its sha256 differs); {self._remake()}")
        if _digest(self.manifest) != self.digest:
            raise InputError(f"{self.directory / MANIFEST} was changed by hand; {self._remake()}")

    def _read_manifest(self) -> dict[str, Any]:
        path = self.directory / MANIFEST
        if not path.is_file():
            raise InputError(f"no token store at {self.directory}; {self._remake()}")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            version = manifest["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not the manifest of a token store ({error!r}); {self._remake()}") from error
        if version != FORMAT:
            raise InputError(f"{path} has format {version}, this version reads {FORMAT}; {self._remake()}")
        return manifest

    def _remake(self) -> str:
        root, task = self.directory.parent.parent, self.directory.parent.name
        return f"make it again: medmt5 tokens --mixture {task} --token_store {root} …"


def manifest_sha256s(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns the sha256 of every file of a store but the manifest itself."""
    files = {shard["file"]: shard["sha256"] for shard in manifest["shards"]}
    files[LENGTHS] = manifest["lengths_sha256"]
    return files | ({GOLD: manifest["gold_sha256"]} if manifest["gold_sha256"] else {})


def read_gold(directory: Path) -> list[LabelledExample]:
    """Returns the labelled examples of a store, example i of the store being number i."""
    path = Path(directory) / GOLD
    if not path.is_file():
        raise InputError(f"{directory} has no {GOLD}: only stores of sequence labelling hold gold annotation")
    with path.open(encoding="utf-8") as lines:
        return [LabelledExample.from_json(json.loads(line)) for line in lines]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
