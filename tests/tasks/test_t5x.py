"""gin/t5x under upstream T5X: configurations build, steps equal ours, checkpoints go both ways.

Skipped where T5X cannot be imported (docs/from_t5x.md says how to install it).
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("t5x") is None:
    pytest.skip(
        "upstream T5X is not importable: gin/t5x is not run, and losses are not compared", allow_module_level=True
    )

ROOT = Path(__file__).resolve().parent.parent.parent
_spec = importlib.util.spec_from_file_location("t5x_loss", ROOT / "benchmarks" / "t5x_loss.py")
t5x_loss = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(t5x_loss)

TASKS = {"pretrain": "medical_corpus.es", "finetune": "sample_diseases.en"}
LENGTHS = {"pretrain": {"inputs": 48, "targets": 20}, "finetune": {"inputs": 24, "targets": 24}}


@pytest.mark.parametrize("run", TASKS)
def test_steps_equal_ours_and_weights_go_both_ways(environment, tokenizer, run):
    from medmt5.tasks.caching import build_mixture  # loads TensorFlow: not where all is skipped

    task = TASKS[run]
    build_mixture(task, environment / "tokens", tokenizer)
    bindings = [
        f"MIXTURE_OR_TASK_NAME = {task!r}",
        f"TASK_FEATURE_LENGTHS = {LENGTHS[run]!r}",
        "BATCH_SIZE = 8",  # a row for each virtual device
        "VOCAB_SIZE = 640",
        "LEARNING_RATE = 0.01",
        "WARMUP_STEPS = 2",
    ]
    result = t5x_loss.compare(run, "tiny", 3, str(environment / "tokens"), str(tokenizer.model_file), bindings)
    assert len(result["t5x"]) == 3
    np.testing.assert_allclose(result["medmt5"], result["t5x"], rtol=0, atol=1e-4)
    assert result["weights_largest_difference"] < 1e-4
    assert len(set(result["medmt5"])) == 3, "nothing was learnt"


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large", "xl", "xxl"])
def test_a_model_file_makes_our_model(size):
    import gin
    from medmt5 import config

    files = [f"gin/model/{size}.gin", "gin/mesh/one_device.gin", "gin/run/pretrain.gin"]
    macros = ["MIXTURE_OR_TASK_NAME = ''", "TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 8}", "BATCH_SIZE = 8"]
    macros += ["TRAIN_STEPS = 1", "MODEL_DIR = ''"]
    ours = config.build("train.Experiment", files, [*macros, "TOKEN_STORE = ''", "VOCABULARY = ''"]).value.model
    t5x_loss.parse_t5x([f"gin/t5x/model/{size}.gin", "gin/t5x/pretrain.gin"], macros)
    theirs = gin.get_configurable("network.T5Config")()
    names = ["vocab_size", "emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers", "head_dim", "mlp_dim"]
    assert {n: getattr(theirs, n) for n in names} == {n: getattr(ours, n) for n in names}
    assert (theirs.dtype, theirs.dropout_rate) == (ours.dtype, ours.dropout_rate)
    assert (theirs.mlp_activations, theirs.logits_via_embedding) == (("gelu", "linear"), False)


@pytest.mark.parametrize("run", ["pretrain", "finetune", "eval", "infer"])
def test_a_run_file_is_whole(run):
    """Every function is called with parameters that it has, and no macro is left but those its header names."""
    import gin

    needed = {"MODEL_DIR": "''", "MIXTURE_OR_TASK_NAME": "'sample_multitask'", "TASK_FEATURE_LENGTHS": "{}"}
    needed |= {"TRAIN_STEPS": "1", "BATCH_SIZE": "8", "INITIAL_CHECKPOINT_PATH": "''", "CHECKPOINT_PATH": "''"}
    needed |= {"EVAL_OUTPUT_DIR": "''", "INFER_OUTPUT_DIR": "''"}
    header = (ROOT / f"gin/t5x/{run}.gin").read_text(encoding="utf-8").partition("from __gin__")[0]
    macros = [f"{name} = {value}" for name, value in needed.items() if name in header]
    t5x_loss.parse_t5x(["gin/t5x/model/small.gin", f"gin/t5x/{run}.gin"], macros)
    bindings = gin.get_bindings({"eval": "evaluate", "infer": "infer"}.get(run, "train"))  # calls what they call
    assert type(bindings["model"].output_vocabulary).__name__ == "LabelVocabulary"
    if run != "eval":
        assert "check_vocabulary" in repr(bindings["verify_matching_vocabs_fn"])
