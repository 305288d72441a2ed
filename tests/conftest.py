"""Fixtures of several packages: a small vocabulary, and the folder of real data if there is one."""

import os
from pathlib import Path

import pytest

from medmt5.tokenizer import Tokenizer, train_vocabulary

SYLLABLES = (
    "car",
    "di",
    "ne",
    "phri",
    "tis",
    "he",
    "pa",
    "to",
    "ma",
    "in",
    "su",
    "fi",
    "cien",
    "cia",
    "os",
    "teo",
    "lo",
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary of 600 pieces, byte fallback and sentinels included, of made-up medical words."""
    words = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]
    lines = [" ".join(words[i : i + 12]) + "." for i in range(0, len(words), 12)]
    return Tokenizer(train_vocabulary(lines, tmp_path_factory.mktemp("vocabulary") / "spiece.model", size=600))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """$MEDMT5_REAL_DATA: benchmarks and raw samples as their owners distribute them."""
    folder = os.environ.get("MEDMT5_REAL_DATA")
    if not folder:
        pytest.skip("MEDMT5_REAL_DATA is not set: no folder with real data to read")
    return Path(folder)
