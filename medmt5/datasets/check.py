"""`medmt5 data check`: reads data sets whole and accounts for every number.

What is counted must be what the declaration says was published, or differ by exactly what the declared repairs change,
each made exactly as often as declared. There is no tolerance. Besides, it tells what leaked from tests (`leakage`).
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.repairs import Repairs
from medmt5.datasets.declarations import DATASETS, VARIANTS, LabelledDataset, find
from medmt5.datasets.declarations.declaration import UNITS, Counts
from medmt5.datasets.leakage import DOCUMENT, EXACT, NEAR, find_leaks
from medmt5.datasets.raw_files import DATA_DIR, RawFiles, data_folder, find_files, where_to_put
from medmt5.datasets.reading import read_part
from medmt5.datasets.splits import is_dev
from medmt5.errors import InputError

COMPARED = {"conll": ("sentences", "words"), "inline_tags": ("sentences",), "xmi": ("sentences",)}
"""What a format comes divided into. Elsewhere we divide, so that the owners count other sentences and words."""

Key = tuple[str, str]
"""Data set, language."""


@dataclass
class PartReport:
    """What was found in one part of a data set, or in the dev split taken from its "train" (`published` None)."""

    set: str
    part: str
    counts: Counts
    published: Counts | None
    repairs: Repairs = field(default_factory=Repairs)
    problems: list[str] = field(default_factory=list)

    @property
    def differences(self) -> dict[str, int]:
        """Unit or label -> our number less the published one, where they differ."""
        compared = {key: self.counts.get(key, 0) - number for key, number in (self.published or {}).items()}
        return {key: difference for key, difference in compared.items() if difference}


@dataclass
class Report:
    """What `medmt5 data check` tells.

    Attributes:
      leaks: "set.language" -> split -> kind -> sentences that a test has too.
      absent: "set.language part" -> how to get it.
      failures: "set.language" -> why it could not be read.
    """

    parts: list[PartReport] = field(default_factory=list)
    leaks: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return bool(self.parts) and not self.failures and not any(part.problems for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        parts = [
            {
                "set": part.set,
                "part": part.part,
                "counts": part.counts,
                "published": part.published,
                "repairs": part.repairs.to_json(),
                "problems": part.problems,
            }
            for part in self.parts
        ]
        rest = {"leaks": self.leaks, "absent": self.absent, "failures": self.failures}
        return {"passed": self.passed, "parts": parts, **rest}


def run_check(names: Sequence[str], folder: Path | None, json_file: Path | None) -> int:
    """Checks the named sets (none = all), prints tables; returns 0 if all is accounted for, else 1.

    Raises:
      InputError: an unknown name, no data directory.
    """
    place = data_folder(folder)
    if not place.is_dir():
        raise InputError(f"no folder {place}; --data_dir, or {DATA_DIR}, must name the one that holds the data sets")
    report = check([find(name) for name in names] or [*DATASETS, *(v for v in VARIANTS if not v.clean)], place)
    if json_file:
        json_file.write_text(json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print_report(report)
    return 0 if report.passed else 1


def check(datasets: Iterable[LabelledDataset], folder: Path) -> Report:
    """Reads what is there of the data sets below `folder`."""
    report = Report()
    tests: dict[Key, list[LabelledExample]] = {}
    for dataset in datasets:
        for lang in dataset.languages:
            try:
                _check_language(dataset, lang, folder, tests, report)
            except InputError as error:
                report.failures[f"{dataset.name}.{lang}"] = str(error)
    return report


def count(examples: Iterable[LabelledExample]) -> dict[str, int]:
    """Returns unit or label -> how many; no documents where the examples know none."""
    counts: Counter[str] = Counter()
    documents = set()
    for example in examples:
        counts["sentences"] += 1
        counts["words"] += len(example.words)
        counts.update(span.label for span in example.spans)
        if example.document != example.id:
            documents.add(example.document)
    return ({"documents": len(documents)} if documents else {}) | dict(counts)


def find_problems(dataset: LabelledDataset, lang: str, part: PartReport) -> list[str]:
    """Returns what is not accounted for."""
    declared = [d for d in dataset.differences if (d.lang, d.part) == (lang, part.part)]
    expected: Counter[str] = Counter()
    problems = []
    for difference in declared:
        expected.update(difference.changes)
        if (times := part.repairs.counts[difference.repair]) != difference.times:
            problems.append(f"{difference.repair}: {times} times, declared {difference.times}")
    for key in part.published or {}:
        if (found := part.differences.get(key, 0)) != expected[key]:
            problems.append(f"{key}: {found:+,} to the published number, of which repairs explain {expected[key]:+,}")
    return problems


def _check_language(
    dataset: LabelledDataset, lang: str, folder: Path, tests: dict[Key, list[LabelledExample]], report: Report
) -> None:
    name = f"{dataset.name}.{lang}"
    files = find_files(dataset, lang, folder)
    examples: dict[str, list[LabelledExample]] = {}
    for part in dataset.parts:
        if part not in files.paths:
            report.absent[f"{name} {part}"] = where_to_put(dataset, lang, part, files.form, folder)
            continue
        repairs = Repairs()
        examples[part] = list(read_part(dataset, lang, files, part, repairs))
        published = _comparable(dataset.published.get(lang, {}).get(part, {}), files)
        found = PartReport(name, part, count(examples[part]), published, repairs)
        found.problems = find_problems(dataset, lang, found)
        report.parts.append(found)
        if part == "train" and dataset.dev_share:
            dev = [example for example in examples[part] if is_dev(example.document, dataset.dev_share)]
            report.parts.append(PartReport(name, "dev of train", count(dev), None))
    if dataset.has_test:
        tests[dataset.name, lang] = examples.get("test", [])
        others = [*([dataset] if "test" in dataset.parts else []), *map(find, dataset.scored_with)]
        known = [_test(other, lang, folder, tests) for other in others]
        if all(known):
            texts = [example for test in known for example in test]
            report.leaks[name] = {
                part: dict(Counter(find_leaks(found, texts).values()))
                for part, found in examples.items()
                if part != "test"
            }


def _test(
    dataset: LabelledDataset, lang: str, folder: Path, tests: dict[Key, list[LabelledExample]]
) -> list[LabelledExample]:
    key = (dataset.name, lang)
    if key not in tests:
        files = find_files(dataset, lang, folder)
        tests[key] = list(read_part(dataset, lang, files, "test", Repairs())) if "test" in files.paths else []
    return tests[key]


def _comparable(published: Counts, files: RawFiles) -> dict[str, int]:
    not_ours = {"sentences", "words"} - set(COMPARED.get(files.form.format, ()))
    return {key: number for key, number in published.items() if key not in not_ours}


def print_report(report: Report, console: Console | None = None) -> None:
    """Prints the tables: counts, repairs, leaks, what is absent, what failed. No text of the data."""
    console = console or Console()
    console.print(_never_cut(_counts_table(report.parts)))
    if any(part.repairs.counts for part in report.parts):
        console.print(_never_cut(_repairs_table(report.parts)))
    if report.leaks:
        console.print(_never_cut(_leaks_table(report.leaks)))
    absent: defaultdict[str, list[str]] = defaultdict(list)  # data set -> its languages and parts
    for name in report.absent:
        absent[name.partition(".")[0]].append(name)
    missing = {", ".join(names): report.absent[names[0]] for names in absent.values()}
    for title, entries in (("Not there", missing), ("Could not be read", report.failures)):
        if entries:
            console.print(f"\n{title}:", highlight=False)
        for name, text in entries.items():
            console.print(f"  {name}: {text}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        "\nEverything that is there was read, and every deviation is accounted for."
        if report.passed
        else "\nNot everything could be read or accounted for."
        if report.parts or report.failures
        else "\nNothing was read: none of these data sets is there.",
        highlight=False,
    )


def _counts_table(parts: Sequence[PartReport]) -> Table:
    table = Table("set", "part", *UNITS, "spans", "published", title="What was read")
    for name in UNITS:
        next(column for column in table.columns if column.header == name).justify = "right"
    for part in parts:
        differences = part.differences

        def show(key: str, counts: Counts = part.counts, differences: Mapping[str, int] = differences) -> str:
            more = f" ({differences[key]:+,})" if key in differences else ""
            return f"{counts[key]:,}{more}" if key in counts else ""

        labels = [key for key in part.counts if key not in UNITS]
        spans = "\n".join(f"{label} {show(label)}" for label in sorted(labels))
        verdict = "" if not part.published else "accounted for" if differences else "equal"
        table.add_row(part.set, part.part, *map(show, UNITS), spans, "\n".join(part.problems) or verdict)
    return table


def _repairs_table(parts: Sequence[PartReport]) -> Table:
    table = Table("set", "part", "repaired or dropped", "count", "first places", title="What was repaired or dropped")
    table.columns[3].justify = "right"
    for part in parts:
        for kind, number in part.repairs.counts.most_common():
            places = "\n".join(_short(place) for place in part.repairs.places[kind])
            table.add_row(part.set, part.part, kind, f"{number:,}", places)
    return table


def _never_cut(table: Table) -> Table:
    """Lets narrow terminals fold long names and places instead of cutting them."""
    for column in table.columns:
        column.overflow = "fold"
    return table


def _short(place: str) -> str:
    return os.sep.join(Path(place).parts[-2:])


def _leaks_table(leaks: Mapping[str, Mapping[str, Counts]]) -> Table:
    kinds = {EXACT: "word for word", NEAR: "nearly so", DOCUMENT: "in a document that is"}
    table = Table("set", "split", *kinds.values(), title="Sentences that a test has too")
    for name, splits in leaks.items():
        for split, numbers in splits.items():
            table.add_row(name, split, *(f"{numbers.get(kind, 0):,}" for kind in kinds))
    return table
