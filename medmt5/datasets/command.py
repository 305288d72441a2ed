"""The arguments of `medmt5 data`. What they call is imported when it runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

FOLDER = (
    "the data directory: a folder a data set, as its owners lay it out (or a folder that has it as benchmarks/); "
    "default: $MEDMT5_DATA_DIR"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `medmt5 data` and its commands `check` and `get`."""
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help=FOLDER)
    parser.add_argument("--long", action="store_true", help="also how to get each, citations and variants")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    check = _add(commands, "check", "Read data sets whole and account for every number.", "e3c diann --data_dir raw")
    check.add_argument(
        "name", nargs="*", metavar="NAME", help="a data set or variant, as `medmt5 data --long` lists it"
    )
    check.add_argument("--all", action="store_true", help="every data set, in every form")
    check.add_argument("--json", type=Path, metavar="FILE", help="write what was found there too")
    check.add_argument("--data_dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=FOLDER)
    check.set_defaults(run=_check, parser=check)

    get = _add(commands, "get", "Fetch what its owners offer at a stable address, by sha256.", "diann --data_dir raw")
    get.add_argument("name", metavar="NAME", help="a data set or variant, as `medmt5 data --long` lists it")
    get.add_argument("--data_dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=FOLDER)
    get.set_defaults(run=_get)


def _add(commands, name: str, help: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=help,
        description=help,
        epilog=f"example:\n  medmt5 data {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_list(args, rest) -> None:
    """Runs `medmt5 data`."""
    from medmt5.datasets.listing import print_list
    from medmt5.datasets.raw_files import DATA_DIR, data_folder
    from medmt5.errors import InputError

    there = args.data_dir or os.environ.get(DATA_DIR)
    folder = data_folder(there) if there else None
    if folder and not folder.is_dir():
        raise InputError(f"no folder {folder}; --data_dir, or {DATA_DIR}, must name the one that holds the data sets")
    print_list(folder, args.long)


def _check(args, rest) -> int:
    from medmt5.datasets.check import run_check

    if args.all == bool(args.name):
        args.parser.error("name data sets, or give --all")
    return run_check(args.name, args.data_dir, args.json)


def _get(args, rest) -> None:
    from medmt5.datasets.declarations import find
    from medmt5.datasets.download import get
    from medmt5.datasets.raw_files import data_folder

    get(find(args.name), data_folder(args.data_dir))
