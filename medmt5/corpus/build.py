"""Building a corpus: raw files -> readers -> filters -> deduplication -> shards and a manifest.

    data_dir/<globs of languages/xx.toml>  ->  output_dir/<lang>/<source>-00000.jsonl.zst, manifest.json

The steps are datatrove's, and `pipeline` gives them as a list. They are run here, not by datatrove's executor, which
starts a manager process even for one worker, writes to standard error, puts the values of variables (patients' text)
into the traceback of a failed task, and takes a task as finished whatever became of its inputs. The unit of work is a
language: duplicates are sought across its sources, and a finished language is skipped while its inputs and settings are
what they were (`<lang>/state.json`), and built anew when they are not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.jsonl import JsonlWriter
from loguru import logger as datatrove_logger
from rich.console import Console
from rich.progress import Progress

import medmt5
from medmt5 import languages
from medmt5.corpus import filters
from medmt5.corpus.deduplication import Duplicates
from medmt5.corpus.reader import Reader
from medmt5.corpus.store import FORMAT, MANIFEST
from medmt5.errors import InputError
from medmt5.languages import Language, Source

logger = logging.getLogger(__name__)
STATE = "state.json"
FILTERS = (filters.TooShort, filters.NotLetters, filters.RepeatedLines, filters.WrongLanguage)


@dataclass(frozen=True)
class Job:
    """What is to be done for one language; `files` holds, for each source present, names below `data_dir`."""

    data_dir: Path
    output_dir: Path
    language: Language
    files: dict[str, tuple[str, ...]]
    absent: tuple[str, ...]
    max_words_per_source: int | None

    @property
    def folder(self) -> Path:
        return self.output_dir / self.language.code

    def digest(self) -> str:
        """Returns a digest of all that decides the output: version, settings, and the files with size and time."""
        stats = [(name, (self.data_dir / name).stat()) for names in self.files.values() for name in names]
        language = asdict(self.language)
        del language["abbreviations"]  # of sentences; a corpus is made of documents
        language["quality"]["stop_words"] = sorted(self.language.quality.stop_words)
        settings = {
            "version": [medmt5.__version__, FORMAT],
            "language": language,
            "max_words_per_source": self.max_words_per_source,
            "files": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
            "sources": {source: len(names) for source, names in self.files.items()},
            "absent": self.absent,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def build_corpus(
    data_dir: str | Path,
    output_dir: str | Path,
    language_codes: Collection[str],
    sources: Collection[str] | None = None,
    max_words_per_source: int | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Builds the corpus of the languages named and returns its manifest, which tells of all that lies in `output_dir`.

    Args:
      data_dir: raw files, laid out as the globs of `medmt5/languages/*.toml` say.
      output_dir: the corpus; languages there that are not named stay.
      sources: names of sources; by default all that are present. An absent one is listed in the manifest.
      max_words_per_source: stops reading a source of a language when so many words are kept.
      workers: processes; more than the number of languages are of no use.

    Raises:
      InputError: an unknown language or source, no file of any source, or a damaged file.
    """
    data_dir, output_dir = Path(data_dir), Path(output_dir)
    chosen = [languages.load(code) for code in dict.fromkeys(language_codes)]
    if not chosen:
        raise InputError(f"a corpus needs a language: {', '.join(languages.codes())}")
    if (max_words_per_source is not None and max_words_per_source < 1) or workers < 1:
        raise InputError(f"max_words_per_source ({max_words_per_source}) and workers ({workers}) must be at least 1")
    jobs = [_job(data_dir, output_dir, language, sources, max_words_per_source) for language in chosen]
    if not any(job.files for job in jobs):
        globs = sorted({s.files for job in jobs for s in job.language.sources if s.name in job.absent})
        raise InputError(f"no raw text in {data_dir}: looked for {', '.join(globs)}")
    _run([job for job in jobs if not _is_finished(job)], workers)
    return _write_manifest(output_dir)


def pipeline(job: Job, source: Source, seen: set[bytes], on_file: Callable[[], None]) -> list[PipelineStep]:
    """Returns the steps that take one source of a language from raw files to its shard."""
    return [
        Reader(job.data_dir, job.files[source.name], source.format, job.language.code, on_file),
        *(step(job.language) for step in FILTERS),
        Duplicates(seen),
        WordCount(job.language, job.max_words_per_source),
        _writer(job.folder, job.language.code, source.name),
    ]


class WordCount(PipelineStep):
    """Counts what is kept, and ends the reading of a source when `limit` words are."""

    type, name = "COUNT", "WordCount"

    def __init__(self, language: Language, limit: int | None):
        super().__init__()
        self.language, self.limit = language, limit
        self.documents = self.words = 0

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            self.documents += 1
            self.words += self.language.count_words(document.text)
            yield document
            if self.limit and self.words >= self.limit:
                break


def _writer(folder: Path, lang: str, source: str) -> JsonlWriter:
    def as_record(writer: JsonlWriter, document: Document) -> dict[str, Any]:
        meta = document.metadata
        return {"id": document.id, "text": document.text, "lang": lang, "source": source, "meta": meta}

    return JsonlWriter(str(folder), f"{source}-${{rank}}.jsonl.zst", compression="zstd", adapter=as_record)


def _job(
    data_dir: Path, output_dir: Path, language: Language, sources: Collection[str] | None, max_words: int | None
) -> Job:
    known = {source.name for code in languages.codes() for source in languages.load(code).sources}
    if unknown := sorted(set(sources or ()) - known):
        raise InputError(f"unknown sources {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    files, absent = {}, []
    for source in language.sources:
        if sources is not None and source.name not in sources:
            continue
        paths = sorted(path for path in data_dir.glob(source.files) if path.is_file())
        if paths:
            files[source.name] = tuple(path.relative_to(data_dir).as_posix() for path in paths)
        else:
            absent.append(source.name)
    return Job(data_dir, output_dir, language, files, tuple(absent), max_words)


def _is_finished(job: Job) -> bool:
    state = _read_json(job.folder / STATE)
    if state is None:
        return False
    finished = state.get("digest") == job.digest() and all(
        (job.output_dir / s["file"]).is_file() for s in state["shards"]
    )
    outcome = "unchanged, kept" if finished else "inputs or settings changed, built anew"
    logger.info("%s: %s", job.language.code, outcome)
    return finished


def _run(jobs: Sequence[Job], workers: int) -> None:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        tasks = {job.language.code: progress.add_task(job.language.name, total=_count_files(job)) for job in jobs}
        if workers == 1 or len(jobs) < 2:
            for job in jobs:
                build_language(job, partial(progress.advance, tasks[job.language.code]))
            return
        # spawn: a fork would copy the threads' locks of rich and of whatever the caller has loaded.
        with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(build_language, job): job for job in jobs}
            for future in as_completed(futures):
                future.result()
                progress.advance(tasks[futures[future].language.code], _count_files(futures[future]))


def _count_files(job: Job) -> int:
    return sum(map(len, job.files.values()))


def build_language(job: Job, on_file: Callable[[], None] = lambda: None) -> None:
    """Writes the shards of one language, then its state; a run that is killed leaves no state and starts again."""
    datatrove_logger.disable("datatrove")  # what it says, file by file, on standard error is in the manifest
    digest = job.digest()  # before reading: what changes meanwhile makes the next build start anew
    (job.folder / STATE).unlink(missing_ok=True)
    for stale in job.folder.glob("*-?????.jsonl.zst"):
        stale.unlink()
    seen: set[bytes] = set()
    report: dict[str, Any] = {}
    shards = []
    for source in (source for source in job.language.sources if source.name in job.files):
        steps = pipeline(job, source, seen, on_file)
        for _ in reduce(lambda data, step: step(data), steps, None):
            pass
        counted = next(step for step in steps if isinstance(step, WordCount))
        report[source.name] = {
            "licence": source.licence,
            "documents": counted.documents,
            "words": counted.words,
            "expected_words": source.expected_words,
            "dropped": _dropped(steps),
        }
        shard = job.folder / f"{source.name}-00000.jsonl.zst"
        if counted.documents:
            name = shard.relative_to(job.output_dir).as_posix()
            shards.append({"file": name, "documents": counted.documents, "sha256": _sha256(shard)})
    state = {"digest": digest, "sources": report, "absent": list(job.absent), "shards": shards}
    job.folder.mkdir(parents=True, exist_ok=True)
    _write_json(job.folder / STATE, state)


def _dropped(steps: Sequence[PipelineStep]) -> dict[str, int]:
    """Returns reason -> documents, from datatrove's statistics of the steps."""
    prefix, counts = "dropped_", Counter[str]()
    for step in steps:
        for label, metric in step.stats.stats.items():
            if label.startswith(prefix):
                counts[label.removeprefix(prefix)] += int(metric.total)
    return dict(sorted(counts.items()))


def _write_manifest(output_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    shards: list[dict[str, Any]] = []
    for path in sorted(output_dir.glob(f"*/{STATE}")):
        state = _read_json(path)
        if state is None:
            continue
        total = {key: sum(source[key] for source in state["sources"].values()) for key in ("documents", "words")}
        found[path.parent.name] = {**total, "sources": state["sources"], "absent": state["absent"]}
        shards += state["shards"]
    total = {key: sum(language[key] for language in found.values()) for key in ("documents", "words")}
    manifest = {"format": FORMAT, **total, "languages": found, "shards": shards}
    _write_json(output_dir / MANIFEST, manifest)
    return manifest


def _read_json(path: Path) -> dict[str, Any] | None:
    """Returns what `path` holds, None where it is missing or damaged: the work is then done again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(path: Path, value: Any) -> None:
    """Writes in one piece: a reader sees the old file or the new one."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
