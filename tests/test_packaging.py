"""What pip installs has all that the commands read, and finds it there; the repository's layout stays as it is."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the repository, unpacked."""
    folder = tmp_path_factory.mktemp("packaging")
    for name in ("gin", "medmt5"):
        shutil.copytree(ROOT / name, folder / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / "copy")
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(folder)]
    subprocess.run(command, cwd=folder / "copy", check=True)
    [file] = folder.glob("*.whl")
    zipfile.ZipFile(file).extractall(folder / "installed")
    return folder / "installed"


def files_in(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def test_every_file_of_the_package_and_every_gin_file_is_installed_and_no_other(wheel):
    expected = {f"medmt5/{name}" for name in files_in(ROOT / "medmt5")}
    expected |= {f"medmt5/gin/{name}" for name in files_in(ROOT / "gin")}
    metadata = {name for name in files_in(wheel) if ".dist-info/" in name}
    assert files_in(wheel) - metadata == expected
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)


def test_an_installed_medmt5_finds_recipes_and_what_they_include(wheel, tmp_path):
    program = "import sys; from medmt5.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONPATH": str(wheel)}

    def medmt5(*arguments):
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    told = medmt5("train", "--help").stdout
    recipes = [f"gin/recipe/{path.name}" for path in (ROOT / "gin/recipe").glob("*.gin")]
    assert recipes
    assert all(f"\n  {recipe} " in told for recipe in recipes)
    # The check before imports reads the whole recipe: it has no other fault than this one.
    places = ["--gin.MODEL_DIR=a", "--gin.TOKEN_STORE=a", "--gin.VOCABULARY=a"]
    result = medmt5("train", "--gin_file=gin/recipe/tiny_pretrain.gin", *places, "--gin.TRAIN_STEP=1")
    assert result.stderr == (
        "medmt5 train: --gin.TRAIN_STEP: nothing uses the macro TRAIN_STEP; did you mean TRAIN_STEPS?\n"
    )


def test_gin_and_the_folders_of_seqio_stay_where_their_users_look_for_them():
    for name in ("setup.py", "gin", "medmt5/tasks", "medmt5/mixtures", "launch", "tests", "README.md"):
        assert (ROOT / name).exists()
    assert not (ROOT / "medmt5/gin").exists()
