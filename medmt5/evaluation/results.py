"""The files of a run that tell how it went: predictions and scores, and the metrics that training wrote.

Layout and fields are those of docs/architecture.md. Files appear whole or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmt5 import storage
from medmt5.annotation.spans import Span
from medmt5.errors import InputError

ABOUT_A_RUN = ("metrics.jsonl", "config.gin")
CHECKPOINT = re.compile(r"checkpoint_(\d+)")


@dataclass(frozen=True)
class Prediction:
    """A sentence with its gold and predicted word spans.

    `score` is the search's score of the prediction, `document` the id of the document that the sentence stands in.
    """

    id: str
    lang: str
    words: tuple[str, ...]
    gold: tuple[Span, ...]
    predicted: tuple[Span, ...]
    score: float
    document: str


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Writes `<task>.<split>.jsonl`, a sentence a line."""
    _write(path, (json.dumps(vars(prediction), ensure_ascii=False) + "\n" for prediction in predictions))


def read_predictions(path: Path) -> list[Prediction]:
    """Returns what `write_predictions` wrote; InputError for a file of an older version, without documents."""
    try:
        return [
            Prediction(
                line["id"],
                line["lang"],
                tuple(line["words"]),
                tuple(Span(*span) for span in line["gold"]),
                tuple(Span(*span) for span in line["predicted"]),
                line["score"],
                line["document"],
            )
            for line in _read_lines(path)
        ]
    except KeyError as error:
        raise InputError(f"{path}: a sentence without the field {error}; run medmt5 evaluate again") from None


def write_scores(path: Path, results: Mapping[str, Any]) -> None:
    """Writes `scores.json`."""
    _write(path, [json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False), "\n"])


def read_scores(path: Path) -> dict[str, Any]:
    """Returns what `write_scores` wrote."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg}); run medmt5 evaluate again") from error


def read_metrics(model_dir: Path) -> list[dict[str, float]]:
    """Returns the lines of `metrics.jsonl`, none without a file; a last line that a crash cut short is left out."""
    path = model_dir / "metrics.jsonl"
    return list(_read_lines(path, cut_short=True)) if path.is_file() else []


def fetch_results(place: str | Path) -> Path:
    """Returns where the files about a run lie: `place`, a MODEL_DIR or one of its checkpoints, on a disk; of an object
    store the copy of those files, without checkpoints.
    """
    storage.check(place)
    if not storage.is_url(place):
        return Path(place)
    url, _, name = str(place).rstrip("/").rpartition("/")
    checkpoint = name if CHECKPOINT.fullmatch(name) else ""
    model_dir = url if checkpoint else f"{url}/{name}"
    there = storage.list_objects(model_dir)
    names = {name for name in there if name in ABOUT_A_RUN or name.startswith("evaluation/")}
    folder = storage.fetch(model_dir, names)
    for old in {name for name in storage.files_in(folder) if name.startswith("evaluation/")} - names:
        (folder / old).unlink()
    return folder / checkpoint


def find_evaluation(path: Path) -> Path | None:
    """Returns the newest evaluation of a MODEL_DIR, or that of one checkpoint for MODEL_DIR/checkpoint_<step>."""
    if CHECKPOINT.fullmatch(path.name):
        folder = path.parent / "evaluation" / path.name
        return folder if (folder / "scores.json").is_file() else None
    steps = {
        int(match[1]): folder
        for folder in (path / "evaluation").glob("checkpoint_*")
        if (match := CHECKPOINT.fullmatch(folder.name)) and (folder / "scores.json").is_file()
    }
    return steps[max(steps)] if steps else None


def _write(path: Path, parts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(parts)
    temporary.replace(path)


def _read_lines(path: Path, cut_short: bool = False) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                if cut_short and not line.endswith("\n"):
                    return
                raise InputError(
                    f"{path}:{number}: not JSON ({error.msg}); the file is damaged, write it again"
                ) from error
