"""Two processes train the run that one process trains, and read each other's checkpoints."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from medmt5.cli import main
from medmt5.conversion.command import convert
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import StoreWriter
from medmt5.training.metrics_log import read_metrics

ROOT = Path(__file__).resolve().parent.parent
SEVERAL = "import json, sys; from medmt5.cli import main; sys.exit(max(main(a) for a in json.loads(sys.argv[1])))"


@pytest.fixture(scope="module")
def data(tmp_path_factory, tokenizer):
    """A folder of token stores: two tasks of random documents."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for task in ("one", "two"):
        for split in ("train", "dev"):
            with StoreWriter(
                root / task / split, task=task, split=split, objective="span_corruption", tokenizer=tokenizer
            ) as writer:
                for length in rng.integers(5, 60, 30):
                    writer.write({"targets": rng.integers(300, 500, length)})
    Mixture("both", (("one", 1.0), ("two", 2.0))).write(root)
    return root


def arguments(data, tokenizer, model_dir, train_steps, *more):
    """`medmt5 train` of one encoder and one decoder layer, wide enough for Adafactor to factor its statistics."""
    macros = {
        "MODEL_DIR": model_dir,
        "TOKEN_STORE": data,
        "VOCABULARY": tokenizer.model_file,
        "MIXTURE_OR_TASK_NAME": "both",
        "NUM_MODEL_PARTITIONS": 2,
        "partitioning.Partitioning.num_devices": 4,  # in one process, or two each in two
        "VOCAB_SIZE": 640,
        "TASK_FEATURE_LENGTHS": "{'inputs': 24, 'targets': 10}",
        "BATCH_SIZE": 16,
        "TRAIN_STEPS": train_steps,
        "DROPOUT_RATE": 0.1,
        "LOG_PERIOD": 1,
        "EVAL_PERIOD": 2,
        "EVAL_STEPS": 1,
        "CHECKPOINT_PERIOD": 2,
        "CHECKPOINTS_TO_KEEP": None,
        "mt5.MT5Config.num_encoder_layers": 1,
        "mt5.MT5Config.num_decoder_layers": 1,
    }
    files = ("model/tiny", "mesh/fsdp_tensor", "run/pretrain")
    flags = [f"--gin_file=gin/{name}.gin" for name in files]
    return ["train", *flags, *(f"--gin.{name}={value}" for name, value in macros.items()), *more]


def run_two(folder, *commands):
    """Runs each list of arguments in turn, in two processes of 2 devices that stay connected."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    processes, logs = [], []
    try:
        for index in range(2):
            first = [*commands[0], f"--coordinator_address={address}", "--process_count=2", f"--process_index={index}"]
            program = [sys.executable, "-c", SEVERAL, json.dumps([first, *commands[1:]])]
            logs.append(folder / f"process_{index}.log")
            with logs[-1].open("w", encoding="utf-8") as log:  # a pipe that nobody reads would stop both
                processes.append(subprocess.Popen(program, cwd=ROOT, env=environment, stderr=log))
        codes = [process.wait(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    outputs = [log.read_text(encoding="utf-8") for log in logs]
    assert codes == [0, 0], "\n\n".join(output[-3000:] for output in outputs)
    return outputs


def arrays(model_dir, step):
    """Returns path -> numpy array of everything a checkpoint holds, however many processes wrote it."""
    folder = model_dir / f"checkpoint_{step}" / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(folder).item_metadata.tree
        numpy_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        tree = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=numpy_arrays))
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def assert_close(actual, expected):
    """Sums over devices are made in another order: float32 rounding, 1e-5 of each array's largest value."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max() + 1e-9
        np.testing.assert_allclose(actual[name] / scale, value / scale, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def runs(data, tokenizer, tmp_path_factory):
    """Runs of 6 steps: `one` process; `two` processes to step 4, then one; `back`: one process to 2, then two.

    `back` is what is left of `one` when it dies after step 2. `foreign`: two processes begin with a Hugging Face folder
    of `one`.
    """
    root = tmp_path_factory.mktemp("runs")
    one, two, back, foreign = root / "one", root / "two", root / "back", root / "foreign"

    def train(model_dir, steps):
        assert main([str(a) for a in arguments(data, tokenizer, model_dir, steps)]) == 0

    train(one, 6)
    shutil.copytree(one, back, ignore=shutil.ignore_patterns("checkpoint_4", "checkpoint_6"))
    convert(one, root / "huggingface", "huggingface")
    begin = f"--gin.INITIAL_CHECKPOINT_PATH={root / 'huggingface'}"
    outputs = run_two(
        root,
        [str(a) for a in arguments(data, tokenizer, two, 4)],
        [str(a) for a in arguments(data, tokenizer, back, 6)],
        [str(a) for a in arguments(data, tokenizer, foreign, 1, begin)],
    )
    train(two, 6)
    return one, two, back, foreign, outputs


@pytest.mark.slow
def test_two_processes_equal_one_in_losses_gradients_parameters_and_optimizer_state(runs):
    one, two, *_ = runs
    start, same_start = arrays(one, 0), arrays(two, 0)
    assert all(np.array_equal(start[name], same_start[name]) for name in start)  # bitwise
    for step in (2, 4):
        assert_close(arrays(two, step), arrays(one, step))
    assert_same_metrics(two, one)


@pytest.mark.slow
def test_checkpoints_of_two_processes_are_read_by_one_and_the_reverse(runs):
    one, two, back, *_ = runs
    for model_dir in (two, back):
        assert_close(arrays(model_dir, 6), arrays(one, 6))
        assert_same_metrics(model_dir, one)


@pytest.mark.slow
def test_two_processes_begin_with_a_model_of_hugging_face(runs):
    one, _, _, foreign, _ = runs
    expected, found = arrays(one, 6), arrays(foreign, 0)
    names = [name for name in expected if name.startswith("['params']")]
    assert len(names) > 10
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.slow
def test_one_process_writes_and_prints(runs):
    _, two, _, _, (first, second) = runs
    assert {"config.gin", "model.json", "vocabulary.model", "metrics.jsonl", "train"} <= set(os.listdir(two))
    assert "step 4/4" in first
    assert "step" not in second.replace("[Gloo]", "")
    assert len(list((two / "train").iterdir())) == 2  # one file of events a start


def assert_same_metrics(actual, expected):
    a, b = read_metrics(actual / "metrics.jsonl"), read_metrics(expected / "metrics.jsonl")
    assert [line["step"] for line in a] == [line["step"] for line in b]
    assert {"loss", "grad_norm", "eval_loss"} <= {name for line in a for name in line}
    for x, y in zip(a, b, strict=True):
        for name in {"loss", "grad_norm", "eval_loss", "accuracy", "target_tokens"} & y.keys():
            np.testing.assert_allclose(x[name], y[name], rtol=1e-5, err_msg=f"step {y['step']} {name}")


def test_incomplete_or_wrong_flags_name_what_is_wrong(data, tokenizer, tmp_path, capsys):
    train = [str(a) for a in arguments(data, tokenizer, tmp_path / "x", 1)]
    for flags, message in [
        (["--process_count=2"], "--coordinator_address, --process_index missing"),
        (["--coordinator_address=host", "--process_count=2", "--process_index=0"], "HOST:PORT of process 0"),
        (["--coordinator_address=h:1", "--process_count=2", "--process_index=2"], "counts from 0 to 1, not 2"),
    ]:
        assert main([*train, *flags]) == 2
        assert message in capsys.readouterr().err
