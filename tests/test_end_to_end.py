"""The whole road on the sample, a few steps long: raw files to labelled text, and asked wrongly."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from medmt5 import cli
from medmt5.annotation.formats.brat import read_brat
from medmt5.annotation.repairs import Repairs
from medmt5.cli import main
from medmt5.errors import InputError
from medmt5.tokenizer import Tokenizer
from medmt5.training.metrics_log import read_metrics

ROOT = Path(__file__).resolve().parent.parent
# The parents' 8 virtual devices are for the tests of meshes.
ONE_DEVICE = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
ENVIRONMENT = os.environ | {"XLA_FLAGS": ONE_DEVICE, "PYTHONPATH": str(ROOT)}
pytestmark = pytest.mark.slow
HOSTILE = "Señor <Disease> </s> <extra_id_0>\u00a0had\u200b ni\u0303o & nephritis,\ttwice."


def run(*arguments):
    """Runs a command in this process, whose environment stays as it was; returns what it printed."""
    with mock.patch.dict(os.environ), contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([str(a) for a in arguments]) == 0
    return printed.getvalue()


def train_arguments(road, model_dir, recipe="tiny_finetune", **macros):
    """A model of one layer: the road is tested here, not the model."""
    macros = {
        "MODEL_DIR": model_dir,
        "TOKEN_STORE": road / "tokens",
        "VOCABULARY": road / "spiece.model",
        "TRAIN_STEPS": 6,
        "BATCH_SIZE": 8,
        "CHECKPOINT_PERIOD": 2,
        "CHECKPOINTS_TO_KEEP": None,
        "EVAL_PERIOD": 3,
        "EVAL_STEPS": 1,
        "LOG_PERIOD": 1,
        "partitioning.Partitioning.num_devices": 1,
    } | macros
    if "finetune" in recipe:
        macros = {"INITIAL_CHECKPOINT_PATH": None} | macros
    return ["train", f"--gin_file=gin/recipe/{recipe}.gin", *(f"--gin.{k}={v}" for k, v in macros.items())]


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A folder with the sample's raw files, corpus, vocabulary and token stores."""
    folder = tmp_path_factory.mktemp("road")
    run("sample", "--output", folder / "raw")
    run("corpus", "--data_dir", folder / "raw", "--output", folder / "corpus")
    run("vocabulary", "--corpus", folder / "corpus", "--size", 1000, "--output", folder / "spiece.model")
    tokens = ["tokens", "--token_store", folder / "tokens", "--vocabulary", folder / "spiece.model"]
    run(*tokens, "--mixture", "medical_corpus.all", "--corpus_dir", folder / "corpus")
    run(*tokens, "--mixture", "sample_multitask", "--data_dir", folder / "raw", "--tfds_data_dir", folder / "tfds")
    return folder


@pytest.fixture(scope="module")
def pretrained(road):
    run(*train_arguments(road, road / "pretrain", "tiny_pretrain"))
    return road / "pretrain"


@pytest.fixture(scope="module")
def finetuned(road, pretrained):
    run(*train_arguments(road, road / "finetune", INITIAL_CHECKPOINT_PATH=pretrained))
    return road / "finetune"


def final_arrays(model_dir, step=6):
    """Returns path -> array of everything a checkpoint holds, read without our code."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.restore(Path(model_dir).absolute() / f"checkpoint_{step}" / "state")
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_run_directory_stands_by_itself(pretrained):
    assert {"config.gin", "model.json", "vocabulary.model", "metrics.jsonl", "train"} <= set(os.listdir(pretrained))
    assert {f"checkpoint_{step}" for step in (0, 2, 4, 6)} <= set(os.listdir(pretrained))
    losses = [line["loss"] for line in read_metrics(pretrained / "metrics.jsonl") if "loss" in line]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_fine_tuning_starts_from_the_pretrained_weights(pretrained, finetuned):
    before, start = final_arrays(pretrained, 6), final_arrays(finetuned, 0)
    names = [name for name in before if name.startswith("['params']")]
    assert names
    assert all(np.array_equal(before[name], start[name]) for name in names)


def test_evaluation_parses_every_output_and_counts_every_gold_span(road, finetuned):
    arguments = ["--mixture", "sample_multitask", "--token_store", road / "tokens", "--max_sentences", 6, "--beam", 2]
    assert "Entity micro-F1" in run("evaluate", "--checkpoint", finetuned, *arguments)
    folder = finetuned / "evaluation" / "checkpoint_6"
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores["languages"]) == {"en", "es", "fr", "it"}
    lines = [json.loads(line) for file in folder.glob("*.test.jsonl") for line in file.read_text().splitlines()]
    assert len(lines) == 8 * 6
    assert sum(len(line["gold"]) for line in lines) == sum(s["gold"] for s in scores["tasks"].values())
    for line in lines:
        assert all(0 <= start < end <= len(line["words"]) for start, end, _ in line["predicted"])


def test_labelled_text_keeps_every_character_and_loads_no_tensorflow(finetuned, tmp_path):
    file = tmp_path / "documents.txt"
    file.write_text(f"{HOSTILE}\n\nLa nefritis. No fiebre.\n" + "word " * 300 + "\n", encoding="utf-8")
    code = (
        "import sys; from medmt5.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or ('tensorflow' in sys.modules) or ('seqio' in sys.modules))"
    )
    command = ["label", "--checkpoint", finetuned, "--labels", "Drug,Disease", "--beam", "2", "--input", file]
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [d["text"] for d in documents] == file.read_text(encoding="utf-8").split("\n")[:-1]
    for document in documents:
        for span in document["spans"]:
            assert document["text"][span["start"] : span["end"]] == span["text"]


def test_brat_html_and_text_are_written(finetuned, tmp_path):
    common = ["label", "--checkpoint", finetuned, "--labels", "Disease", "--beam", 1]
    (tmp_path / "note.txt").write_text("No nephritis & no fever.\nNo <b>asthma</b>.\n", encoding="utf-8")
    run(*common, "--input", tmp_path / "note.txt", "--format", "brat", "--output", tmp_path / "note.ann")
    repairs = Repairs()
    assert list(read_brat(tmp_path, "en", repairs=repairs))
    assert not repairs.counts
    page = run(*common, "--input", tmp_path / "note.txt", "--format", "html")
    assert "<b>" not in page
    assert "asthma" in page
    assert "fever" in run(*common, "--format", "text", "No fever.")


def test_the_report_is_one_file_about_all_runs(road, pretrained, finetuned):
    printed = run("report", "--run", f"a={finetuned}", "--run", f"b={pretrained}", "--output", road / "report.html")
    page = Path(printed.strip()).read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "MIXTURE_OR_TASK_NAME" in page


def test_a_changed_token_store_is_refused(road, pretrained, tmp_path, capsys):
    changed = tmp_path / "tokens"
    shutil.copytree(road / "tokens", changed)
    manifest = changed / "medical_corpus.en/train/manifest.json"
    manifest.write_text(manifest.read_text().replace('"digest": "', '"digest": "0'), encoding="utf-8")
    assert main(train_arguments(road, pretrained, "tiny_pretrain", TOKEN_STORE=changed, TRAIN_STEPS=8)) == 2
    errors = capsys.readouterr().err
    assert "the token stores changed" in errors
    assert "medical_corpus.en/train" in errors


def test_a_shard_that_changed_below_its_manifest_is_refused(road, pretrained, tmp_path, capsys):
    changed = tmp_path / "tokens"
    shutil.copytree(road / "tokens", changed)
    shard = next((changed / "medical_corpus.en/train").glob("data-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    for model_dir in (pretrained, tmp_path / "new"):
        arguments = train_arguments(road, model_dir, "tiny_pretrain", TOKEN_STORE=changed, TRAIN_STEPS=8)
        assert main(arguments) == 2
        assert f"{shard} is not as it was written" in capsys.readouterr().err


def test_wrong_input_is_one_message_and_no_traceback(road, finetuned, tmp_path, capsys):
    bad = tmp_path / "raw" / "sample_diseases" / "en"
    bad.mkdir(parents=True)
    (bad / "train.conll").write_text("The\tO\nnephritis\n", encoding="utf-8")
    for split in ("dev", "test"):
        (bad / f"{split}.conll").write_text("The\tO\n", encoding="utf-8")
    model = ["--checkpoint", finetuned]
    tokens = ["tokens", "--mixture", "sample_diseases.en", "--data_dir", tmp_path / "raw", "--tfds_data_dir",
              tmp_path / "tfds", "--token_store", tmp_path / "t", "--vocabulary", road / "spiece.model"]  # fmt: skip
    cases = [
        (train_arguments(road, tmp_path / "a", TRAIN_STEP=3), "did you mean TRAIN_STEPS?"),
        (train_arguments(road, tmp_path / "a", VOCABULARY=tmp_path / "no.model"), "no SentencePiece model at"),
        (train_arguments(road, tmp_path / "a", BATCH_SIZE=6, NUM_MICROBATCHES=4), "set it to a multiple of"),
        (train_arguments(road, tmp_path / "a", VOCAB_SIZE=512), "set VOCAB_SIZE to at least 1024"),
        (
            train_arguments(road, tmp_path / "a", INITIAL_CHECKPOINT_PATH="/nowhere"),
            "no such folder: /nowhere",
        ),
        (["train", "--gin_file=gin/nope.gin"], "no such gin file: gin/nope.gin"),
        (["label", *model, "--labels", "Diseas", "x"], "unknown label 'Diseas'; use one of Disease"),
        (["label", *model, "--labels", "Disease", "--input", tmp_path / "none.txt"], "no such file"),
        (["label", "--checkpoint", tmp_path, "--labels", "Disease", "x"], "is no model that medmt5 reads"),
        (["evaluate", *model, "--mixture", "nope", "--token_store", road / "tokens"], "no mixture or task nope"),
        (["corpus", "--data_dir", tmp_path / "empty", "--output", tmp_path / "c"], "empty"),
        (tokens, "train.conll:2"),
    ]
    for arguments, message in cases:
        with mock.patch.dict(os.environ):
            code = main([str(a) for a in arguments])
        errors = capsys.readouterr().err
        assert code == 2, arguments
        assert message in errors
        assert "Traceback" not in errors
        assert "nephritis" not in errors


def test_debug_shows_where_it_came_from(tmp_path, monkeypatch):
    """The error goes on to Python, which prints it."""
    monkeypatch.setattr(cli, "_log_plainly", lambda debug: None)  # it would stay so for other tests
    with pytest.raises(InputError, match="no such folder"):
        main(["label", "--debug", "--checkpoint", str(tmp_path / "x"), "--labels", "Disease", "text"])


@pytest.mark.parametrize(
    "command",
    [
        "sample",
        "corpus",
        "vocabulary",
        "tokens",
        "train",
        "describe",
        "doctor",
        "evaluate",
        "label",
        "serve",
        "convert",
        "average",
        "report",
        "demo",
    ],
)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  medmt5 {command} " in capsys.readouterr().out


def test_a_dry_run_prints_the_configuration_and_the_plan_and_writes_nothing(road, tmp_path):
    printed = run(*train_arguments(road, tmp_path / "m", "tiny_pretrain"), "--gin.DRY_RUN=True")
    assert "TRAIN_STEPS = 6" in printed
    assert "GiB a device while training" in printed
    assert not (tmp_path / "m").exists()
    assert Tokenizer(road / "spiece.model").num_pieces == 1000
