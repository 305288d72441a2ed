"""Plans of machines that are not there: shardings as reviewed, bytes and FLOPs as counted, no step outside of memory.

The tables in tests/golden/ are written anew by `UPDATE_GOLDEN=1 python -m pytest tests/test_describe.py`; a change of
them in a review shows what a change of the code does to each parameter.
"""

import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from medmt5 import config
from medmt5.batch import shapes as batch_shapes
from medmt5.cli import main
from medmt5.configuration.check import PLACEHOLDERS
from medmt5.describe import describe, parameter_table
from medmt5.errors import InputError
from medmt5.model import mt5
from medmt5.model.flops import train_step_flops
from medmt5.partitioning import Partitioning
from medmt5.training import optimizers, schedules, step_memory
from medmt5.training import step as steps

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/golden"
SIZES = sorted(path.stem for path in (ROOT / "gin/model").glob("*.gin"))
XL = "gin/recipe/medical_mt5_xl.gin"


def build(*files, **macros):
    bindings = [f"{name} = {value!r}" for name, value in macros.items()]
    return config.build("train.Experiment", files, bindings, placeholders=PLACEHOLDERS).value


@pytest.mark.parametrize("name", [*SIZES, "large_lora"])
def test_every_parameter_lies_where_the_reviewed_table_says(name):
    size, _, lora = name.partition("_")
    experiment = build(
        f"gin/model/{size}.gin",
        "gin/mesh/fsdp_tensor.gin",
        "gin/run/pretrain.gin",
        TASK_FEATURE_LENGTHS={"inputs": 32, "targets": 12},
        BATCH_SIZE=8,
        TRAIN_STEPS=1,
        NUM_MODEL_PARTITIONS=2,
        LORA_RANK=16 if lora else 0,
    )
    plan = describe(experiment, num_devices=8, device_kind="TPU v4")
    table = "parameter, shape, logical axes, sharding on mesh/fsdp_tensor.gin\n"
    for p in plan.parameters:
        cells = (" ".join("-" if x is None else str(x) for x in row) for row in (p.shape, p.axes, p.sharding))
        table += f"{p.name:56} | {' | '.join(cells)}\n"
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(table, encoding="utf-8")
    assert table == file.read_text(encoding="utf-8")


def test_bytes_a_device_are_those_of_the_arrays_themselves():
    rules = Partitioning(num_model_partitions=2, shard_parameters_over_data=True)
    experiment = build("gin/recipe/tiny_pretrain.gin")
    experiment = dataclasses.replace(experiment, partitioning=rules)
    plan = describe(experiment, num_devices=8, device_kind="cpu")
    mesh = rules.make_mesh()
    _, shardings = steps.state_shardings(experiment.model, experiment.optimizer, mesh, rules)
    state = steps.create_state(experiment.model, experiment.optimizer, 0, shardings)
    device = mesh.devices[1, 1]

    def count(tree):
        return sum(s.data.nbytes for x in jax.tree.leaves(tree) for s in x.addressable_shards if s.device == device)

    assert plan.memory.parameters == count(state.params) == sum(p.bytes_per_device for p in plan.parameters)
    assert plan.memory.optimizer_state == count(state.opt_state)
    of_parameters = sum(p.optimizer_bytes_per_device for p in plan.parameters)
    assert 0 <= plan.memory.optimizer_state - of_parameters < 100  # counters belong to no parameter
    assert all(p.optimizer_bytes_per_device > 0 for p in plan.parameters)


CONFIG = mt5.MT5Config(
    vocab_size=2048, emb_dim=256, num_heads=4, num_encoder_layers=8, num_decoder_layers=8, head_dim=64, mlp_dim=512
)


@pytest.fixture(scope="module")
def compiled_and_predicted(newer_generator):
    return partial(compile_and_predict, newer_generator)


def compile_and_predict(options, policy, rules, batch_size, num_microbatches=1):
    """Returns bytes a device by XLA's own account of the compiled step, and by `step_memory`."""
    model = dataclasses.replace(CONFIG, remat_policy=policy)
    optimizer, mesh = optimizers.adafactor(schedules.constant(0.001)), rules.make_mesh()
    shapes, shardings = steps.state_shardings(model, optimizer, mesh, rules)
    predicted = step_memory.predict(
        model, shapes, shardings, rules,
        batch_size=batch_size, inputs=256, targets=64, num_microbatches=num_microbatches,
    )  # fmt: skip
    step = steps.make_train_step(
        model, optimizer, steps.Objective(), seed=0, mesh=mesh, shardings=shardings, num_microbatches=num_microbatches
    )
    batch = {n: jax.ShapeDtypeStruct(s, d) for n, (s, d) in batch_shapes(batch_size, 256, 64).items()}
    m = step.lower(shapes, batch).compile(options).memory_analysis()
    used = m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    return used, predicted.total


@pytest.fixture(scope="module")
def one_device(compiled_and_predicted):
    return {policy: compiled_and_predicted(policy, Partitioning(num_devices=1), 8) for policy in mt5.REMAT_POLICIES}


@pytest.mark.slow
def test_memory_falls_with_the_remat_policy_as_it_was_predicted(one_device):
    for i in (0, 1):  # compiled, predicted
        assert one_device["full"][i] < one_device["minimal"][i] < one_device["none"][i]
    for policy, (used, predicted) in one_device.items():
        assert 0.75 * used < predicted < 1.3 * used, policy


@pytest.mark.slow
def test_memory_on_a_mesh_and_with_microbatches_is_predicted(one_device, compiled_and_predicted):
    mesh = Partitioning(num_model_partitions=2, shard_parameters_over_data=True)
    for arguments in [(mesh, 32), (Partitioning(num_devices=1), 32, 4)]:
        used, predicted = compiled_and_predicted("minimal", *arguments)
        assert 0.75 * used < predicted < 1.3 * used, arguments
    # four microbatches of 8 need the gradients twice, not the activations of 32
    assert used < 1.5 * one_device["minimal"][0]


def test_the_largest_model_on_a_pod_is_planned_within_two_gigabytes():
    program = (
        "import re, sys; from medmt5.cli import main; code = main(sys.argv[1:]);"
        # Not getrusage: its peak is inherited from the process that started this one.
        "peak = re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read()).group(1);"
        "print(int(peak) * 1024, file=sys.stderr); sys.exit(code)"
    )
    flags = ["--gin.BATCH_SIZE=1024", "--gin.TRAIN_STEPS=1000", "--gin.NUM_MODEL_PARTITIONS=8"]
    flags += ["--gin.TASK_FEATURE_LENGTHS={'inputs': 1024, 'targets': 229}", "--json"]
    files = ["gin/model/xxl.gin", "gin/mesh/fsdp_tensor.gin", "gin/run/pretrain.gin"]
    command = [sys.executable, "-c", program, "describe", *files, "--devices=1024", "--device_kind=TPU v4", *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert (plan["data"], plan["model"]) == (128, 8)
    assert abs(plan["num_parameters"] / 12921e6 - 1) < 1e-3
    assert int(result.stderr.splitlines()[-1]) < 2 * 2**30


def test_flops_time_and_tokens_of_the_papers_pre_training():
    plan = describe(build(XL), num_devices=64, device_kind="TPU v4", mfu=0.5)
    assert plan.flops_per_step == train_step_flops(build(XL).model, 64, 480, 108)
    assert plan.input_tokens_per_step == 30_720
    assert plan.input_tokens_per_step * plan.train_steps == pytest.approx(4.5e9, rel=1e-3)
    np.testing.assert_allclose(plan.seconds_per_step, plan.flops_per_step / (64 * 275e12 * 0.5))
    np.testing.assert_allclose(plan.hours, plan.seconds_per_step * 146_500 / 3600)


def test_what_does_not_fit_is_said_with_what_helps(capsys):
    assert main(["describe", XL, "--devices", "1", "--device_kind", "TPU v4", "--gin.BATCH_SIZE=16"]) == 0
    output = capsys.readouterr().out
    assert "decoder/logits_dense/kernel" in output
    assert "(embed, vocab)" in output
    assert "WARNING: that does not fit" in output
    assert main(["describe", XL, "--devices", "64", "--device_kind", "TPU v4"]) == 0
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "48", "--device_kind", "TPU v4"], "BATCH_SIZE = 64 is not a multiple of the 48 data shards"),
        (["--devices", "4", "--device_kind", "abacus"], "'abacus' is not known; use one that contains one of: h200"),
        (["--devices", "0", "--device_kind", "A100"], "--devices must be at least 1, not 0"),
        (["--devices", "4", "--device_kind", "A100", "--mfu", "40"], "--mfu is a share of the peak"),
        (["--devices", "4", "--gin.TRAIN_STEP=3"], "did you mean TRAIN_STEPS?"),
        (["--devices", "4", "--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_a_mistake_is_one_message(arguments, message, capsys):
    assert main(["describe", XL, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_shape_that_its_mesh_cannot_hold_names_the_parameter():
    experiment = build("gin/recipe/tiny_pretrain.gin", BATCH_SIZE=48)
    wide = dataclasses.replace(experiment, partitioning=Partitioning(shard_parameters_over_data=True))
    with pytest.raises(InputError, match=r"decoder/decoder_norm/scale \(128,\): 128 does not divide into the 48 parts"):
        describe(wide, num_devices=48, device_kind="TPU v4")


LORA = "gin/recipe/medical_mt5_large_lora.gin"


@pytest.mark.parametrize("kind", ["L4", "NVIDIA A10G", "NVIDIA GeForce RTX 4090"])
def test_adapters_of_mt5_large_are_trained_on_24_gigabytes(kind):
    plan = describe(build(LORA), num_devices=1, device_kind=kind)
    assert plan.device_memory_bytes == 24 * 2**30
    assert plan.fits
    trained = [p.name for p in plan.parameters if p.trained]
    assert {name.rpartition("/")[2] for name in trained} == {"lora_a", "lora_b", "kernel", "embedding"}
    # The gradients of all it trains are held at once: adapters, and two matrices of the vocabulary.
    adapters = sum(p.bytes_per_device for p in plan.parameters if "lora_" in p.name)
    assert plan.memory.embedding == adapters + 2 * 4 * 250112 * 1024 == 4 * plan.num_trained_parameters
    assert plan.memory.optimizer_state < 1.05 * adapters  # Adafactor keeps all of v of thin matrices, sums of others
    assert "frozen" in rendered(plan)


def test_what_is_frozen_needs_no_gradient_and_fewer_flops():
    whole = describe(build(LORA, LORA_RANK=0, TRAINABLE=None), num_devices=1, device_kind="L4")
    alone = describe(build(LORA, TRAINABLE=None), num_devices=1, device_kind="L4")
    gradients = 4 * (whole.num_parameters - alone.num_trained_parameters)  # bytes
    assert whole.num_trained_parameters == whole.num_parameters == alone.num_parameters - alone.num_trained_parameters
    assert whole.memory.embedding - alone.memory.embedding == gradients
    assert whole.memory.total - alone.memory.total > 0.95 * gradients
    assert 0.67 < alone.flops_per_step / whole.flops_per_step < 0.72  # two of three products, and the adapters' own


def rendered(plan):
    console = Console(width=200)
    with console.capture() as text:
        console.print(parameter_table(plan))
    return text.get()
