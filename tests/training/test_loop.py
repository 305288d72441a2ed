"""A run of a few steps, seen from outside: what it writes, what it says, and how it stops."""

import gzip
import json
import logging
import math
import shutil

import numpy as np
import pytest

from medmt5 import train
from medmt5.errors import InputError
from medmt5.plan import make_plan
from medmt5.tokens import loader
from medmt5.tokens.store import TokenStore
from medmt5.training import goodput, held_out, skipped_log
from medmt5.training.losses import Loss
from medmt5.training.metrics_log import TIMES, MetricsLog, read_metrics

pytestmark = pytest.mark.slow
TASKS = ("notes.en", "notes.es")


@pytest.fixture(scope="module")
def whole(experiment):
    """MODEL_DIR of a run that nothing happened to, of which three steps were traced."""
    e = experiment("whole", PROFILE_STEPS=3)
    train.train(e)
    return train.Path(e.model_dir)


def lines_of(model_dir, name="loss"):
    return [line for line in read_metrics(model_dir / "metrics.jsonl") if name in line]


def without_times(lines):
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def poison(monkeypatch, bad_steps):
    """Makes the loss of the batches of `bad_steps` infinite."""
    put = train._on_devices

    def on_devices(batches, mesh, check_stores):
        for step, batch in enumerate(put(batches, mesh, check_stores)):
            weights = batch["decoder_loss_weights"]
            yield batch | {"decoder_loss_weights": weights * (np.float32(np.inf) if step in bad_steps else 1)}

    monkeypatch.setattr(train, "_on_devices", on_devices)


def test_every_step_is_logged_once_and_in_order_with_what_a_person_asks_for(whole):
    lines = lines_of(whole)
    assert [line["step"] for line in lines] == list(range(1, 15))
    names = {"loss", "accuracy", "grad_norm", "learning_rate", "input_tokens", "target_tokens", "skipped", "epochs"}
    assert names | {f"epochs/{task}" for task in TASKS} | {"tokens_per_second", "steps_per_second"} <= set(lines[0])
    assert lines[7]["epochs"] == pytest.approx(8 * 4 / 32)
    assert lines[7]["epochs/notes.es"] == pytest.approx(8 * 4 * (12 / 32) / 12)
    assert all(line["skipped"] == 0 for line in lines)


def test_each_language_has_its_perplexity_at_every_evaluation(whole):
    lines = lines_of(whole, "eval_loss")
    assert [line["step"] for line in lines] == [0, 7, 14]
    for line in lines:
        for language in ("en", "es"):
            # Perplexity is of the text alone, loss has the z-loss in it.
            assert 0 < line[f"eval/{language}/perplexity"] <= math.exp(line[f"eval/{language}/loss"])
        assert line["eval_loss"] == pytest.approx((line["eval/en/loss"] + line["eval/es/loss"]) / 2)
        assert line["eval_accuracy"] == pytest.approx((line["eval/en/accuracy"] + line["eval/es/accuracy"]) / 2)


def test_evaluation_comes_before_the_step_that_follows_it(whole):
    order = [(line["step"], "eval_loss" in line) for line in read_metrics(whole / "metrics.jsonl")]
    assert order == sorted(order)


def test_the_goodput_of_a_run_adds_up_and_knows_its_end(whole):
    [run] = goodput.read_goodput(whole / goodput.FILE_NAME)
    assert (run["start_step"], run["step"], run["end"], run["lost_steps"]) == (0, 14, "finished", 0)
    assert sum(run["seconds"].values()) == pytest.approx(run["wall_seconds"], abs=0.01)
    assert min(run["seconds"][part] for part in ("compile", "step", "evaluation", "save", "data_wait")) > 0


def test_a_profile_holds_the_steps_asked_for(whole):
    [trace] = (whole / "profile").rglob("*.trace.json.gz")
    text = gzip.decompress(trace.read_bytes()).decode()
    steps = {e["args"]["step_num"] for e in json.loads(text)["traceEvents"] if e.get("name") == "train_step"}
    assert {int(step) for step in steps} == {10, 11, 12}


def test_a_step_that_is_not_finite_is_skipped_told_and_trained_on_from(experiment, whole, monkeypatch, capsys):
    poison(monkeypatch, {6})
    e = experiment("one_bad")
    train.train(e)
    assert "step 7 is skipped" in capsys.readouterr().err
    lines, undisturbed = lines_of(train.Path(e.model_dir), "skipped"), lines_of(whole)
    assert [line["step"] for line in lines if line["skipped"]] == [7]
    assert "loss" not in lines[6]
    assert without_times(lines[:6]) == without_times(undisturbed[:6])
    assert all(math.isfinite(line["loss"]) for line in lines[7:])
    [skipped] = read_metrics(train.Path(e.model_dir) / skipped_log.FILE_NAME)
    assert (skipped["step"], skipped["loss"]) == (7, None)
    assert len(skipped["examples"]) == 4


def test_too_many_in_a_row_stop_with_the_steps_and_the_examples_and_the_last_checkpoint_stays(
    experiment, monkeypatch, tokenizer
):
    poison(monkeypatch, set(range(7, 99)))
    e = experiment("all_bad", TRAIN_STEPS=30)
    with pytest.raises(InputError, match=r"steps 8 to 10 were all skipped .*weights are still those of step 7") as stop:
        train.train(e)
    assert "notes.e" in str(stop.value)
    folder = train.Path(e.model_dir)
    assert (folder / "checkpoint_5").is_dir()
    # Steps may have been dispatched before the news came, but nothing was saved after it.
    assert not (folder / "checkpoint_15").exists()
    assert [line["step"] for line in read_metrics(folder / skipped_log.FILE_NAME)] == [8, 9, 10]
    assert goodput.read_goodput(folder / goodput.FILE_NAME)[-1]["end"] == "failed"


def test_a_run_that_goes_on_ends_as_one_never_stopped_and_says_what_was_lost(experiment, whole, monkeypatch, caplog):
    """The run dies at step 13, its newest checkpoint is that of 10."""
    put = train._on_devices

    def dies(batches, mesh, check_stores):
        for step, batch in enumerate(put(batches, mesh, check_stores)):
            if step == 13:
                raise RuntimeError("died")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(train, "_on_devices", dies)
        with pytest.raises(RuntimeError):
            train.train(experiment("died"))
    with caplog.at_level(logging.INFO):
        train.train(e := experiment("died"))
    model_dir = train.Path(e.model_dir)
    first, second = goodput.read_goodput(model_dir / goodput.FILE_NAME)
    assert (first["end"], first["lost_steps"], second["start_step"]) == ("failed", first["step"] - 10, 10)
    assert first["lost_steps"] > 0
    assert first["seconds"]["lost_work"] > 0
    assert "are trained again" in caplog.text
    assert without_times(read_metrics(model_dir / "metrics.jsonl")) == without_times(
        read_metrics(whole / "metrics.jsonl")
    )


def test_a_dry_run_compiles_and_tells_and_writes_nothing(experiment, folder):
    e = experiment("dry", DRY_RUN=True)
    before = sorted(folder.rglob("*"))
    plan = make_plan(e)
    assert sorted(folder.rglob("*")) == before
    for part in ("parameters", "GiB a device", "FLOP", "1.75 epochs", "notes.es 1.75", "fresh weights", "checkpoints"):
        assert part in plan, plan
    assert "0 to 14" in plan


def test_a_packed_run_counts_examples_and_tokens_names_what_it_skips_and_resumes(experiment, folder, monkeypatch):
    macros = {"PACK": True, "TASK_FEATURE_LENGTHS": "{'inputs': 24, 'targets': 12}", "EVAL_PERIOD": 20}
    arguments = {
        "feature_lengths": {"inputs": 24, "targets": 12}, "batch_size": 4, "seed": 0, "pack": True,
    }  # fmt: skip
    stores = {task: TokenStore(folder / "tokens" / task / "train") for task in TASKS}
    rated = [(stores[TASKS[0]], 20.0), (stores[TASKS[1]], 12.0)]
    whole = experiment("packed", TRAIN_STEPS=8, **macros)
    train.train(whole)
    lines = lines_of(train.Path(whole.model_dir))
    for step, line in enumerate(lines):
        examples = loader.example_ids(rated, step, **arguments)
        lengths = np.array([stores[e["task"]].lengths[e["records"][0]] for e in examples])
        assert len(lengths) > 4
        assert [line["input_tokens"], line["target_tokens"]] == lengths.sum(axis=0).tolist()
    # Whole runs draw as many examples as their epochs say, give or take a few rows.
    drawn = sum(len(loader.example_ids(rated, step, **arguments)) for step in range(8))
    assert lines[-1]["epochs"] == pytest.approx(drawn / 32, abs=0.3)
    plan = make_plan(whole)
    assert "4 packed rows of 24 + 12 tokens" in plan
    assert f"{lines[-1]['epochs']:.3g} epochs" in plan

    poison(monkeypatch, {2})
    train.train(experiment("packed_bad", TRAIN_STEPS=4, **macros))
    [skipped] = read_metrics(folder / "packed_bad" / skipped_log.FILE_NAME)
    assert skipped["examples"] == loader.example_ids(rated, 2, **arguments)
    monkeypatch.undo()

    shutil.copytree(folder / "packed", folder / "packed_resumed", ignore=shutil.ignore_patterns("checkpoint_8"))
    train.train(experiment("packed_resumed", TRAIN_STEPS=8, **macros))
    assert without_times(lines_of(folder / "packed_resumed")) == without_times(lines)


def test_a_dry_run_knows_where_a_run_would_go_on(experiment, whole):
    plan = make_plan(experiment("whole", TRAIN_STEPS=20))
    assert "checkpoint_14" in plan
    assert "14 to 20" in plan


def test_a_perplexity_that_overflows_is_infinite_and_the_line_stays_json(tmp_path):
    metrics = held_out.summarize({"en": [Loss(1000.0, 2000.0, 2000.0, 0.0, 1.0, 2.0)]})
    assert metrics["eval/en/perplexity"] == math.inf
    assert metrics["eval_loss"] == 1000.0
    log = MetricsLog(tmp_path, 0)
    log.write(1, metrics)
    log.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {
        "step": 1,
        "eval/en/loss": 1000.0,
        "eval/en/accuracy": 0.5,
        "eval_loss": 1000.0,
        "eval_accuracy": 0.5,
    }


@pytest.mark.parametrize(
    ("macro", "value", "message"),
    [
        ("MAX_SKIPPED_STEPS", 0, "max_skipped_steps must be a whole number of at least 1"),
        ("PROFILE_STEPS", -1, "profile_steps must be a whole number of at least 0"),
        ("LOSS_SPIKE_FACTOR", 0.5, "LOSS_SPIKE_FACTOR must be None or a number above 1, not 0.5"),
    ],
)
def test_a_wrong_macro_is_named(experiment, macro, value, message):
    with pytest.raises(InputError, match=message):
        experiment("wrong", **{macro: value})
