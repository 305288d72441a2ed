"""Train steps of medmt5 and of upstream T5X from the same weights on the same batches: their losses, step by step.

    python benchmarks/t5x_loss.py --run pretrain --token_store tokens --vocabulary spiece.model

Ours is gin/model, gin/mesh/one_device.gin and gin/run, T5X's is gin/t5x, both under the same macros, in float32 and
without dropout (`--gin.NAME=VALUE` sets a macro for both). Weights are drawn by us and reach T5X in a T5X checkpoint;
those it ends with reach us the same way. Batches are the token store's. The last line is one JSON object.

Exit code 1: a loss differs by more than 1e-4. 2: T5X cannot be imported (docs/from_t5x.md).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medmt5 import config, partitioning, train
from medmt5.configuration.statements import parse_flags
from medmt5.conversion.parameters import by_name
from medmt5.conversion.t5x import open_t5x, write_t5x_legacy
from medmt5.conversion.weights import TensorInfo, Weights
from medmt5.tokens import loader
from medmt5.tokens.mixture import Mixture
from medmt5.training import step as steps

TOLERANCE = 1e-4
# On CPUs T5X ignores num_partitions, and would cut parameters into as many parts as there are virtual devices.
DATA_PARALLEL = [
    "partitioning.PjitPartitioner.num_partitions = None",
    "partitioning.PjitPartitioner.model_parallel_submesh = (1, 1, 1, 1)",
]
# Tasks, lengths and batches of the demo's recipes.
RUNS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "MIXTURE_OR_TASK_NAME": "medical_corpus.all",
        "TASK_FEATURE_LENGTHS": {"inputs": 96, "targets": 28},
        "BATCH_SIZE": 16,
    },
    "finetune": {
        "MIXTURE_OR_TASK_NAME": "sample_multitask",
        "TASK_FEATURE_LENGTHS": {"inputs": 44, "targets": 44},
        "BATCH_SIZE": 32,
    },
}
SHARED = {"VOCAB_SIZE": 3072, "ACTIVATION_DTYPE": "float32", "DROPOUT_RATE": 0.0, "MODEL_DIR": "unset"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=RUNS, default="pretrain", help="a file of gin/run and of gin/t5x")
    parser.add_argument("--model", default="tiny", help="a file of gin/model and of gin/t5x/model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--token_store", required=True, metavar="DIR")
    parser.add_argument("--vocabulary", required=True, metavar="FILE")
    args, rest = parser.parse_known_args()
    bindings, others = parse_flags(rest)
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if importlib.util.find_spec("t5x") is None:
        print("upstream T5X is not importable here; docs/from_t5x.md says how to install it", file=sys.stderr)
        return 2
    result = compare(args.run, args.model, args.steps, args.token_store, args.vocabulary, bindings)
    print(json.dumps(result))
    return int(not result["largest_difference"] <= TOLERANCE)  # nan is no agreement


def compare(
    run: str, model: str, num_steps: int, token_store: str, vocabulary: str, bindings: list[str]
) -> dict[str, Any]:
    """Returns both sides' losses of `num_steps` steps, and how far losses and final weights are apart."""
    macros = SHARED | {"TRAIN_STEPS": num_steps} | RUNS[run]
    bound = [f"{name} = {value!r}" for name, value in macros.items()] + bindings
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "checkpoint_0"
        ours = Ours(run, model, [*bound, f"TOKEN_STORE = {token_store!r}", f"VOCABULARY = {vocabulary!r}"])
        batches = [ours.batches[number] for number in range(num_steps)]
        write_t5x_legacy(start, InMemory(ours.weights()), scanned=False, step=0)
        os.environ["MEDMT5_VOCABULARY"] = vocabulary
        theirs = T5X(run, model, [*bound, f"INITIAL_CHECKPOINT_PATH = {str(start)!r}"], batches[0])
        losses = [(ours.step(batch), theirs.step(batch)) for batch in batches]
        end = theirs.weights(Path(folder) / "end")
        return {
            "run": run,
            "model": model,
            **_facts(batches),
            "medmt5": [ours for ours, _ in losses],
            "t5x": [theirs for _, theirs in losses],
            "largest_difference": float(np.abs(np.diff(losses)).max()),
            "tolerance": TOLERANCE,
            "weights_largest_difference": max(_distance(x, end.read(name)) for name, x in ours.weights().items()),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint", "seqio", "medmt5")},
            },
        }


class InMemory:
    """Arrays as `Weights`."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._arrays = arrays

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(array.shape, array.dtype.name) for name, array in self._arrays.items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        return self._arrays[name][index or ...]


class Ours:
    """medmt5's train step of an experiment, its state and its batches."""

    def __init__(self, run: str, model: str, bindings: list[str]):
        files = [f"gin/model/{model}.gin", "gin/mesh/one_device.gin", f"gin/run/{run}.gin"]
        e = config.build("train.Experiment", files, [*bindings, "INITIAL_CHECKPOINT_PATH = None"]).value
        self._mesh, tokenizer = train.check(e)
        _, shardings = steps.state_shardings(e.model, e.optimizer, self._mesh, e.partitioning)
        self._state = steps.create_state(e.model, e.optimizer, e.seed, shardings)
        self._train_step = train.make_train_step(e, self._mesh, shardings)
        root = Path(e.token_store)
        self.batches = loader.make_batches(
            train.open_stores(Mixture.read(root, e.mixture), root, "train", tokenizer),
            feature_lengths=e.feature_lengths,
            batch_size=e.batch_size,
            seed=e.seed,
            pack=e.pack,
            sentinel_ids=tokenizer.sentinel_ids,
        )

    def step(self, batch: dict[str, np.ndarray]) -> float:
        self._state, metrics = self._train_step(self._state, partitioning.put_batch(batch, self._mesh))
        return float(metrics["total"] / metrics["weight"])

    def weights(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(leaf) for name, leaf in by_name(self._state.params).items()}


def parse_t5x(gin_files: list[str], bindings: list[str]) -> None:
    """Leaves gin as it is within `python -m t5x.train`, `t5x.eval` or `t5x.infer` before it calls anything."""
    import gin

    gin.clear_config()  # it may be locked, and modules of T5X register themselves

    import t5x
    from t5x import eval as evaluation
    from t5x import infer, train

    main = sys.modules["__main__"]  # where T5X's files look for the program
    main.train, main.evaluate, main.infer = train.train, evaluation.evaluate, infer.infer  # type: ignore[attr-defined]
    for folder in (Path(__file__).resolve().parent.parent, Path(t5x.__path__[0]).parent):
        gin.add_config_file_search_path(str(folder))
    gin.parse_config_files_and_bindings(gin_files, bindings)


class T5X:
    """T5X's trainer of what gin/t5x makes."""

    def __init__(self, run: str, model: str, bindings: list[str], batch: dict[str, np.ndarray]):
        parse_t5x([f"gin/t5x/model/{model}.gin", f"gin/t5x/{run}.gin"], [*bindings, *DATA_PARALLEL])

        import jax
        from t5x import utils

        import gin

        t5x_model = gin.get_configurable("models.EncoderDecoderModel")()
        self._partitioner = gin.get_configurable("partitioning.PjitPartitioner")()
        initializer = utils.TrainStateInitializer(
            optimizer_def=t5x_model.optimizer_def,
            init_fn=t5x_model.get_initial_variables,
            input_shapes={name: array.shape for name, array in batch.items()},
            input_types={name: array.dtype for name, array in batch.items()},
            partitioner=self._partitioner,
        )
        restore = gin.get_configurable("utils.RestoreCheckpointConfig")()
        self._trainer = gin.get_configurable("trainer.Trainer")(
            model=t5x_model,
            train_state=initializer.from_checkpoint([restore], init_rng=jax.random.PRNGKey(0)),
            partitioner=self._partitioner,
            eval_names=(),
            summary_dir=None,
            train_state_axes=initializer.train_state_axes,
            rng=jax.random.PRNGKey(0),
        )

    def step(self, batch: dict[str, np.ndarray]) -> float:
        metrics = self._trainer.train(iter([batch]), 1).result()
        return float(metrics["loss"].value)

    def weights(self, folder: Path) -> Weights:
        """Returns the weights as we read them of a checkpoint that T5X writes."""
        from t5x import checkpoints

        folder.mkdir()
        state = self._trainer.train_state
        manager = checkpoints.OrbaxCheckpointManagerInterface(str(folder), state, self._partitioner)
        manager.save(state)
        manager.wait_until_finished()
        manager.close()
        self._trainer.close()
        return open_t5x(folder / f"checkpoint_{int(state.step)}")


def _facts(batches: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    targets = sum(int(batch["decoder_loss_weights"].sum()) for batch in batches)
    return {"rows": len(batches[0]["decoder_loss_weights"]), "target_tokens": targets}


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, as a share of the array's largest value."""
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


if __name__ == "__main__":
    sys.exit(main())
