"""The declaration that docs/adding_a_dataset.md explains line by line is one."""

import re
from pathlib import Path

import pytest

from medmt5 import languages
from medmt5.datasets.declarations.declaration import parse
from medmt5.datasets.reading import READERS

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def portuguese(tmp_path, monkeypatch):
    """The language of the other page."""
    page = (DOCS / "adding_a_language.md").read_text(encoding="utf-8")
    (tmp_path / "languages").mkdir()
    (tmp_path / "languages/pt.toml").write_text(re.search(r"```toml\n(code.*?)```", page, re.DOTALL)[1], "utf-8")
    monkeypatch.setenv("MEDMT5_EXTENSIONS", str(tmp_path))
    yield
    languages.language.load.cache_clear()


def test_the_declaration_of_the_page_is_read_as_the_page_says(portuguese, tmp_path):
    page = (DOCS / "adding_a_dataset.md").read_text(encoding="utf-8")
    file = tmp_path / "notas.toml"
    file.write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1], encoding="utf-8")
    dataset = parse(file)
    assert dataset.label_map == {"DOENCA": "Disease", "FARMACO": "Drug", "PROCEDIMENTO": None}
    assert dataset.splits == ("train", "dev", "test")
    [form] = dataset.forms
    assert form.format in READERS
    assert form.places("train", "pt")[0].as_posix() == "notas/pt/train.conll"
