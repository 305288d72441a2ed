"""`medmt5 data`: the data sets there are, what they hold, and whether they are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medmt5.datasets.declarations import DATASETS, VARIANTS, LabelledDataset
from medmt5.datasets.declarations.declaration import PARTS, UNITS, Counts
from medmt5.datasets.raw_files import find_files


def print_list(folder: Path | None, long: bool, console: Console | None = None) -> None:
    """Prints a table of all data sets, a line a language; with `long` also citations, addresses and variants.

    Args:
      folder: the data directory; None = it is not told what is there.
    """
    console = console or Console()
    table = Table("set", "labels", *PARTS, "licence", "there")
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True  # a name that is cut cannot be given to `medmt5 data check`
    for dataset in DATASETS:
        for lang in dataset.languages:
            sizes = [_size(dataset, lang, part) for part in PARTS]
            labels = ", ".join(dataset.labels)
            table.add_row(f"{dataset.name}.{lang}", labels, *sizes, dataset.licence, presence(dataset, lang, folder))
        table.add_section()
    console.print(table)
    if folder is None:
        console.print("Give --data_dir, or set MEDMT5_DATA_DIR, to see what is there.", highlight=False)
    for dataset in DATASETS if long else [d for d in DATASETS if folder and _missing(d, folder)]:
        for line in _describe(dataset, long):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def presence(dataset: LabelledDataset, lang: str, folder: Path | None) -> str:
    """Returns "yes", "no", or which parts are missing; "?" without a folder."""
    if folder is None:
        return "?"
    files = find_files(dataset, lang, folder)
    missing = [part for part in dataset.parts if part not in files.paths]
    return "no" if not files.paths else f"no {', '.join(missing)}" if missing else "yes"


def _missing(dataset: LabelledDataset, folder: Path) -> bool:
    return any(presence(dataset, lang, folder) != "yes" for lang in dataset.languages)


def _size(dataset: LabelledDataset, lang: str, part: str) -> str:
    if part == "dev" and dataset.dev_share:
        return f"{dataset.dev_share:.0%} of train"
    published = dataset.published.get(lang, {}).get(part, {})
    return "\n".join(_counts(published)) if published else "yes" if part in dataset.parts else ""


def _counts(published: Counts) -> Sequence[str]:
    spans = sum(number for key, number in published.items() if key not in UNITS)
    units = [f"{published[unit]:,} {unit}" for unit in UNITS if unit in published and unit != "words"]
    return [*units, *([f"{spans:,} spans"] if spans else [])]


def _describe(dataset: LabelledDataset, long: bool) -> list[str]:
    lines = [f"\n{dataset.name}", f"  to get it: {dataset.get}"]
    if long:
        variants = ", ".join(variant.name for variant in VARIANTS if variant.variant_of == dataset.name)
        lines += [f"  homepage: {dataset.homepage}", f"  citation: {dataset.citation}"]
        lines += [f"  variants: {variants}"] if variants else []
    return lines
