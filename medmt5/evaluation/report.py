"""One HTML file about one or more runs: losses, F1 with intervals, kinds of errors, differences, seeds, examples.

The file stands alone: no network, no script; everything that comes from data is escaped by the template. It holds
sentences of the test set, so it is as confidential as they are. What a run does not have yet is said, not left out.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from medmt5.annotation.labels import known_labels
from medmt5.annotation.spans import Span
from medmt5.errors import InputError
from medmt5.evaluation import tables
from medmt5.evaluation.comparison import KINDS, Case, Kind, compare_spans
from medmt5.evaluation.curves import draw_losses
from medmt5.evaluation.marked_text import HUES
from medmt5.evaluation.partial_scores import WAYS
from medmt5.evaluation.results import Prediction
from medmt5.evaluation.runs import Run, compare_runs, seeds_rows

EXAMPLES_PER_LANGUAGE = 6
CORRECT_PER_LANGUAGE = 2
"""Of the examples of a language, how many to take from sentences without an error: to see what goes well, too."""
LONGEST_EXAMPLE = 60
"""Words; longer sentences are shown only where a language has no others."""
SEED = 0
SIGNS: dict[Kind, str] = {
    "correct": "✓",
    "wrong label": "≠",
    "wrong boundary": "↔",
    "split": "÷",
    "merged": "∪",
    "tangled": "≈",
    "missed": "○",
    "spurious": "+",
}


@dataclass(frozen=True)
class Part:
    """A stretch of words of an example; outside spans it has no label. `note` says what is wrong with the span."""

    text: str
    label: str = ""
    kind: Kind = "correct"
    note: str = ""


@dataclass(frozen=True)
class Example:
    """A sentence with its gold spans and what each run made of it."""

    task: str
    id: str
    gold: list[Part]
    runs: list[tuple[Run, list[Part], bool]]


def write_report(output: Path, runs: Sequence[tuple[str, Path]], title: str) -> Path:
    """Writes the report and returns its path.

    Args:
      runs: name and MODEL_DIR, whose newest evaluation is shown, or MODEL_DIR/checkpoint_<step> for that one's. Runs of
        the same name are seeds of one model. Models after the first are compared with it, by their first seeds.
    """
    loaded = _load_runs(runs)
    for run in loaded:
        if not run.model_dir.is_dir():
            raise InputError(
                f"run {run.name!r}: no folder {run.model_dir}; give a MODEL_DIR that medmt5 train has written to"
            )
    scored = [run for run in loaded if run.scores]
    environment = Environment(
        loader=PackageLoader("medmt5.evaluation", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    rows = {
        by: tables.f1_rows([run.scores for run in scored if run.scores], by) for by in ("languages", "tasks", "lengths")
    }
    models: defaultdict[str, list[Run]] = defaultdict(list)
    for run in scored:
        models[run.model].append(run)
    firsts = [members[0] for members in models.values()]
    seeds = {model: members for model, members in models.items() if len(members) > 1}
    page = environment.get_template("report.html.j2").render(
        title=title,
        runs=loaded,
        scored=scored,
        charts=_charts(loaded),
        rows=rows,
        comparable=all(len(row.gold) == 1 for row in rows["languages"]),
        ways=WAYS,
        kinds=KINDS,
        first=firsts[0] if firsts else None,
        differences=[(other, compare_runs(firsts[0], other)) for other in firsts[1:]],
        seeds=seeds,
        seeds_rows=seeds_rows(list(seeds.values())),
        examples=_choose_examples(scored),
        signs=SIGNS,
        hues={label: HUES[i % len(HUES)] for i, label in enumerate(known_labels())},
        ALL=tables.ALL,
        UNDEFINED=tables.UNDEFINED,
    )
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(output.name + ".part")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(output)
    return output


def _load_runs(runs: Sequence[tuple[str, Path]]) -> list[Run]:
    times = Counter(name for name, _ in runs)
    seen: Counter[str] = Counter()
    loaded = []
    for number, (name, path) in enumerate(runs):
        seen[name] += 1
        loaded.append(Run(number, f"{name} {seen[name]}" if times[name] > 1 else name, Path(path), name))
        if (name, path) in runs[:number]:
            raise InputError(f"run {name!r} is given twice with {path}; runs of one name are its seeds, name each once")
    return loaded


def _charts(runs: Sequence[Run]) -> list[tuple[str | None, list[Run], Markup]]:
    """Returns (mixture, its runs, picture): a loss can be compared with another one of the same mixture only."""
    by_mixture: defaultdict[str | None, list[Run]] = defaultdict(list)
    for run in runs:
        if run.last_loss is not None:
            by_mixture[run.mixture].append(run)
    return [
        (
            mixture,
            members,
            Markup(draw_losses({run.number: run.metrics for run in members}, f"Loss by step, chart {i}")),
        )
        for i, (mixture, members) in enumerate(by_mixture.items(), start=1)
    ]


def _choose_examples(runs: Sequence[Run]) -> dict[str, list[Example]]:
    """Returns language -> examples, equally many a language, those with errors first; the same ones at each call."""
    predictions = [run.predictions for run in runs]
    shared = set.intersection(*map(set, predictions)) if predictions else set()
    by_language: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for key in sorted(shared):
        by_language[predictions[0][key].lang].append(key)

    chosen = {}
    for lang, keys in sorted(by_language.items()):
        random.Random(SEED).shuffle(keys)
        keys.sort(key=lambda key: len(predictions[0][key].words) > LONGEST_EXAMPLE)
        wrong = [key for key in keys if any(set(run[key].gold) != set(run[key].predicted) for run in predictions)]
        right = [key for key in keys if predictions[0][key].gold and key not in set(wrong)]
        num_wrong = max(EXAMPLES_PER_LANGUAGE - CORRECT_PER_LANGUAGE, EXAMPLES_PER_LANGUAGE - len(right))
        keys = wrong[:num_wrong] + right[: EXAMPLES_PER_LANGUAGE - min(num_wrong, len(wrong))]
        chosen[lang] = [
            _example(
                *key, [(run, run_predictions[key]) for run, run_predictions in zip(runs, predictions, strict=True)]
            )
            for key in keys
        ]
    return chosen


def _example(task: str, id: str, predictions: Sequence[tuple[Run, Prediction]]) -> Example:
    _, first = predictions[0]
    shown = [(run, compare_spans(prediction.gold, prediction.predicted)) for run, prediction in predictions]
    return Example(
        task,
        id,
        _parts(first.words, compare_spans(first.gold, first.gold)),
        [(run, _parts(first.words, cases), all(c.kind == "correct" for c in cases)) for run, cases in shown],
    )


def _parts(words: Sequence[str], cases: Sequence[Case]) -> list[Part]:
    def text(start: int, end: int) -> str:
        return " ".join(words[start:end])

    parts = []
    position = 0
    for case in cases:
        for span in case.predicted or case.gold:
            parts.append(Part(text(position, span.start)))
            parts.append(Part(text(span.start, span.end), span.label, case.kind, _note(span, case, text)))
            position = span.end
    parts.append(Part(text(position, len(words))))
    return [part for part in parts if part.text]


def _note(span: Span, case: Case, text: Callable[[int, int], str]) -> str:
    """Returns what stands behind the label of a predicted (or missed) span."""
    gold = " and ".join(
        f"“{text(other.start, other.end)}”{f' ({other.label})' if other.label != span.label else ''}"
        for other in case.gold
    )
    notes: dict[Kind, str] = {
        "correct": "",
        "wrong label": f", is {case.gold[0].label}" if case.gold else "",
        "wrong boundary": f", is {gold}",
        "split": f", part of {gold}",
        "merged": f", is {gold}",
        "tangled": f", mixes {gold}",
        "missed": ", missed",
        "spurious": ", not annotated",
    }
    return notes[case.kind]
