"""Reading a corpus that `medmt5.corpus.build` made: `<lang>/<source>-00000.jsonl.zst` and `manifest.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medmt5 import storage
from medmt5.corpus.compression import open_stream
from medmt5.errors import InputError

MANIFEST = "manifest.json"
FORMAT = 1


def fetch_corpus(place: str | Path) -> Path:
    """Returns the folder to read a corpus from: `place` on a disk; of an object store its copy, checked by sha256.

    Raises InputError for one that is unfinished: without the manifest, which is written last.
    """
    storage.check(place)
    if not storage.is_url(place):
        return Path(place)
    url = str(place).rstrip("/")
    if MANIFEST not in storage.list_objects(url):
        raise InputError(
            f"no finished corpus in {url}: it has no {MANIFEST}, which is written last; it is being written, or the "
            f"writing was interrupted: medmt5 corpus --output {url} … makes it"
        )
    sha256s = {shard["file"]: shard["sha256"] for shard in read_manifest(storage.fetch(url, [MANIFEST]))["shards"]}
    return storage.fetch(url, sha256s.keys(), sha256s)


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """Returns the manifest of a corpus: documents, words and drops a language and source, and the shards."""
    path = Path(directory) / MANIFEST
    if not path.is_file():
        raise InputError(f"no corpus in {directory}: it has no {MANIFEST}; make one: medmt5 corpus --help")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}; make the corpus again") from error
    if manifest.get("format") != FORMAT:
        raise InputError(f"{path}: format must be {FORMAT}, not {manifest.get('format')!r}; make the corpus again")
    return manifest


def read_corpus(directory: str | Path, lang: str) -> Iterator[dict[str, Any]]:
    """Yields the documents of a language, `{"id", "text", "lang", "source", "meta"}`, in the order of the manifest."""
    manifest = read_manifest(directory)
    if lang not in manifest["languages"]:
        raise InputError(f"no language {lang!r} in the corpus {directory}: it has {', '.join(manifest['languages'])}")
    for shard in manifest["shards"]:
        if shard["file"].startswith(f"{lang}/"):
            yield from _read_shard(Path(directory) / shard["file"])


def _read_shard(path: Path) -> Iterator[dict[str, Any]]:
    with open_stream(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                document = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not JSON: {error}; make the corpus again") from error
            yield document


def corpus_languages(directory: str | Path) -> tuple[str, ...]:
    """Returns the codes of the languages in a corpus."""
    return tuple(read_manifest(directory)["languages"])
