"""What the user's own folder adds to the package's, and what it may not."""

import os
import subprocess
import sys

import pytest

from medmt5.errors import InputError
from medmt5.extensions import find_toml


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    for name in ("en", "es"):
        (folder / f"{name}.toml").touch()
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    folder = tmp_path / "own/languages"
    folder.mkdir(parents=True)
    monkeypatch.setenv("MEDMT5_EXTENSIONS", str(folder.parent))
    return folder


def test_without_a_folder_of_ones_own_there_is_what_the_package_has(package, monkeypatch):
    monkeypatch.delenv("MEDMT5_EXTENSIONS", raising=False)
    assert find_toml(package, "languages") == {name: package / f"{name}.toml" for name in ("en", "es")}


def test_ones_own_are_among_the_packages_by_name(package, own):
    (own / "eo.toml").touch()
    (own / "notes.txt").touch()
    assert list(find_toml(package, "languages")) == ["en", "eo", "es"]
    assert list(find_toml(package, "datasets")) == ["en", "es"]


def test_what_the_package_has_is_not_replaced(package, own):
    (own / "es.toml").touch()
    with pytest.raises(InputError, match=r"own/languages/es\.toml: medmt5 has 'es' in languages already; give"):
        find_toml(package, "languages")


def test_a_folder_that_is_not_there_is_told(package, monkeypatch):
    monkeypatch.setenv("MEDMT5_EXTENSIONS", "/nowhere")
    with pytest.raises(InputError, match=r"MEDMT5_EXTENSIONS must name a folder of .*, not '/nowhere'"):
        find_toml(package, "languages")


def test_a_faulty_declaration_of_ones_own_is_one_message(own):
    """By the command line, in a process of its own: declarations are read once."""
    (own.parent / "datasets").mkdir()
    (own.parent / "datasets/mine.toml").write_text('name = "mine"\ncolour = "red"\n', encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "medmt5.cli", "data"], env=os.environ, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "datasets/mine.toml: unknown keys colour; known are name" in run.stderr
    assert "Traceback" not in run.stderr
