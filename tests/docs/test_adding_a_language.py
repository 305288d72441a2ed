"""docs/adding_a_language.md, followed to the letter: its files are written and its commands run, in an empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/adding_a_language.md"
FILE = re.compile(r"^`(?P<path>[^`\n]+)`:\n\n```\w*\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
# All commands in one process, where a shell would start one for each.
PROGRAM = """
import json, os, sys
from medmt5.cli import main
for name, *arguments in json.load(sys.stdin):
    if name == "export":
        os.environ.update(argument.split("=", 1) for argument in arguments)
    elif name != "medmt5" or main(arguments):
        sys.exit(f"failed: {name} {arguments}")
"""
COMMANDS = re.compile(r"^```sh\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder in which the page was followed, and what its commands printed."""
    folder = tmp_path_factory.mktemp("page")
    page = PAGE.read_text(encoding="utf-8")
    for match in FILE.finditer(page):
        path = folder / match["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(match["content"], encoding="utf-8")
    lines = "".join(match["content"] for match in COMMANDS.finditer(page)).replace("\\\n", " ").splitlines()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MEDMT5_")}
    clean["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder, env=clean | {"PYTHONPATH": str(ROOT)}, input=json.dumps([shlex.split(line) for line in lines]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run.stdout


def test_the_page_writes_what_it_speaks_of_and_leaves_no_block_out():
    page = PAGE.read_text(encoding="utf-8")
    paths = [match["path"] for match in FILE.finditer(page)]
    assert "mine/languages/pt.toml" in paths
    assert len(paths) + len(COMMANDS.findall(page)) == page.count("\n```") // 2


@pytest.mark.slow
def test_the_text_becomes_a_corpus_and_a_store(followed):
    folder, _ = followed
    manifest = json.loads((folder / "corpus/manifest.json").read_text(encoding="utf-8"))
    raw = (folder / "data/pt/notes/invented.jsonl").read_text(encoding="utf-8").splitlines()
    assert manifest["languages"]["pt"]["documents"] == len(raw)
    store = json.loads((folder / "tokens/medical_corpus.pt/train/manifest.json").read_text(encoding="utf-8"))
    assert store["objective"] == "span_corruption"
    assert store["tokens"]["targets"] > 500


@pytest.mark.slow
def test_the_labelled_set_is_a_store_with_its_own_labels(followed):
    folder, _ = followed
    gold = (folder / "tokens/notas.pt/train/gold.jsonl").read_text(encoding="utf-8").splitlines()
    labels = {label for line in gold for _, _, label in json.loads(line)["spans"]}
    assert len(gold) == 5
    assert labels == {"Disease", "Drug", "Exame"}


@pytest.mark.slow
def test_a_model_is_trained_scored_and_labels(followed):
    folder, printed = followed
    scores = json.loads((folder / "finetuned/evaluation/checkpoint_6/scores.json").read_text(encoding="utf-8"))
    assert scores["languages"].keys() == {"pt"}
    assert scores["tasks"]["notas.pt"]["gold"] == 2
    model = json.loads((folder / "finetuned/model.json").read_text(encoding="utf-8"))
    assert model["vocabulary"]["labels"][-1] == "Exame"
    labelled = json.loads(printed.strip().splitlines()[-1])
    assert labelled["text"] == "A Dra. Silva viu o doente. Tem asma."
