"""Configuration: every recipe and size builds, what nobody uses is refused, and a mistake names its fix."""

import json
from pathlib import Path

import jax
import pytest

from medmt5 import config
from medmt5.configuration.statements import parse_flags
from medmt5.errors import InputError
from medmt5.plan import describe_model
from medmt5.training import step as steps

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "gin/recipe").glob("*.gin"))
SIZES = sorted(path.stem for path in (ROOT / "gin/model").glob("*.gin"))
PLACES = ["MODEL_DIR = '/nowhere'", "TOKEN_STORE = '/nowhere'", "VOCABULARY = '/nowhere'"]
PLACES += ["INITIAL_CHECKPOINT_PATH = None"]
# Millions of parameters, of the published checkpoints (Xue et al. 2021; FLAN and T5X list the same).
PUBLISHED = {"small": 300.18, "base": 582.4, "large": 1229.58, "xl": 3742.6, "xxl": 12921}


def build(*files_and_bindings):
    files = [f for f in files_and_bindings if f.endswith(".gin")]
    bindings = [b for b in files_and_bindings if not b.endswith(".gin")]
    return config.build("train.Experiment", files, [*PLACES, *bindings])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_builds_and_its_state_has_a_shape(recipe):
    experiment = build(recipe).value
    optimizer = experiment.optimizer
    state = steps.state_shapes(experiment.model, optimizer)
    assert state.step.shape == ()


@pytest.mark.parametrize("size", SIZES)
def test_every_size_passes_eval_shape_of_init_and_step_on_a_mesh(size):
    experiment = build(
        f"gin/model/{size}.gin",
        "gin/mesh/fsdp_tensor.gin",
        "gin/run/pretrain.gin",
        "MIXTURE_OR_TASK_NAME = 'x'",
        "TASK_FEATURE_LENGTHS = {'inputs': 32, 'targets': 12}",
        "BATCH_SIZE = 8",
        "TRAIN_STEPS = 1",
        "NUM_MODEL_PARTITIONS = 2",
    ).value
    rules, mesh = experiment.partitioning, experiment.partitioning.make_mesh()
    optimizer = experiment.optimizer
    shapes, shardings = steps.state_shardings(experiment.model, optimizer, mesh, rules)
    jax.tree.map(lambda x, s: s.shard_shape(x.shape), shapes, shardings)  # raises where an axis does not divide
    if size in PUBLISHED:
        millions = sum(x.size for x in jax.tree.leaves(shapes.params)) / 1e6
        assert abs(millions - PUBLISHED[size]) / PUBLISHED[size] < 1e-3
    step = steps.make_train_step(
        experiment.model, optimizer, experiment.objective, seed=0, mesh=mesh, shardings=shardings
    )
    ints = jax.ShapeDtypeStruct((8, 12), "int32")
    batch = {
        "encoder_input_tokens": jax.ShapeDtypeStruct((8, 32), "int32"),
        "decoder_input_tokens": ints,
        "decoder_target_tokens": ints,
        "decoder_loss_weights": jax.ShapeDtypeStruct((8, 12), "float32"),
    }
    new_state, metrics = step.lower(shapes, batch).out_info
    assert jax.tree.map(lambda x: x.shape, new_state) == jax.tree.map(lambda x: x.shape, shapes)
    assert metrics["total"].shape == ()


def test_the_resolved_configuration_builds_the_same_experiment(tmp_path):
    built = build(RECIPES[0], "BATCH_SIZE = 24")
    file = tmp_path / "config.gin"
    file.write_text(built.resolved, encoding="utf-8")
    again = config.build("train.Experiment", [str(file)])
    assert again.value.batch_size == 24
    assert again.value.model == built.value.model
    assert again.resolved == built.resolved


def test_a_later_file_and_a_flag_win(tmp_path):
    file = tmp_path / "mine.gin"
    file.write_text("BATCH_SIZE = 16\nTRAIN_STEPS = 7\n", encoding="utf-8")
    experiment = build(RECIPES[0], str(file), "TRAIN_STEPS = 9").value
    assert (experiment.batch_size, experiment.train_steps) == (16, 9)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("TRAIN_STEP = 3", "nothing uses the macro TRAIN_STEP; did you mean TRAIN_STEPS?"),
        ("train.Experiment.bach_size = 3", "bach_size"),
        ("evaluation/train.Experiment.batch_size = 3", "nothing uses evaluation/train.Experiment.batch_size"),
        ("BATCH_SIZE = 0", "batch_size must be a whole number of at least 1, not 0"),
        ("TASK_FEATURE_LENGTHS = {'inputs': 3}", "'inputs' and 'targets', not"),
        ("ACTIVATION_DTYPE = 'fp16'", "'float32' or 'bfloat16', not 'fp16'"),
        ("BATCH_SIZE = (", "a bracket or quote is not closed"),
    ],
)
def test_a_mistake_is_one_message_that_names_it(binding, message):
    with pytest.raises(InputError) as error:
        build(RECIPES[0], binding)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_required_macros_are_all_named():
    with pytest.raises(InputError, match=r"--gin.MODEL_DIR=… --gin.TOKEN_STORE=… --gin.VOCABULARY=…"):
        config.build("train.Experiment", ["gin/recipe/tiny_pretrain.gin"])


def test_a_missing_file_says_where_it_was_looked_for():
    with pytest.raises(InputError, match=r"no such gin file: gin/nope.gin \(looked in the current folder"):
        config.build("train.Experiment", ["gin/nope.gin"])


def test_strings_need_no_inner_quotes_and_literals_stay_literals():
    flags = [
        "--gin.A=/x y",
        "--gin.B='/x'",
        "--gin.C=3",
        "--gin.D={'a': 1}",
        "--gin.E=None",
        "--gin.F=@m.f()",
        "--gin.G=1e-3",
    ]
    bindings, others = parse_flags([*flags, "other"])
    assert others == ["other"]
    assert bindings == ["A = '/x y'", "B = '/x'", "C = 3", "D = {'a': 1}", "E = None", "F = @m.f()", "G = 1e-3"]


def test_a_model_is_described_in_one_line():
    assert describe_model(build("gin/recipe/tiny_pretrain.gin").value).startswith("1.6 M parameters, 0.8 M without")


def test_gin_has_no_package_of_ours_in_its_way():
    assert not (ROOT / "gin/__init__.py").exists()
    assert json.dumps(SIZES) == json.dumps(sorted(["tiny", "small", "base", "large", "xl", "xxl"]))
