"""Training: `python -m medmt5.train --gin_file=gin/recipe/tiny_pretrain.gin --gin.MODEL_DIR=runs/a …`, or `medmt5
train`.

Pre-training and fine-tuning are one program; a gin file fills `Experiment`, `train` runs it. TensorFlow is never loaded
here: token stores that are missing are made by another process, `medmt5 tokens`.
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax
from flax import linen as nn

from medmt5 import partitioning, processes
from medmt5.batch import Batch
from medmt5.checkpoints.manager import CheckpointManager, find_checkpoint, restore_params
from medmt5.errors import InputError
from medmt5.model.mt5 import MT5Config
from medmt5.model_files import ModelFiles, check_vocabulary_fits, write_model_files
from medmt5.partitioning import Partitioning
from medmt5.progress import training_progress
from medmt5.tokenizer import Tokenizer
from medmt5.tokens import loader
from medmt5.tokens.mixture import Mixture, mixture_file
from medmt5.tokens.store import TokenStore
from medmt5.training import step as steps
from medmt5.training.loop import Periods, run_loop
from medmt5.training.metrics_log import MetricsLog

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One training run. The gin macros of `gin/run/train.gin` explain each field."""

    model_dir: str
    mixture: str
    token_store: str
    vocabulary: str
    feature_lengths: dict[str, int]
    batch_size: int
    train_steps: int
    model: MT5Config
    partitioning: Partitioning
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    objective: steps.Objective
    initial_checkpoint_path: str | None
    num_microbatches: int
    eval_period: int
    eval_steps: int
    checkpoint_period: int
    checkpoints_to_keep: int | None
    log_period: int
    seed: int

    def __post_init__(self):
        for name in ("batch_size", "train_steps", "num_microbatches", "eval_period", "checkpoint_period", "log_period"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
        if set(self.feature_lengths) != {"inputs", "targets"}:
            raise InputError(
                "TASK_FEATURE_LENGTHS must give the lengths of 'inputs' and 'targets', not "
                f"{sorted(self.feature_lengths)}"
            )


def train(experiment: Experiment, resolved_config: str = "") -> steps.TrainState:
    """Runs `experiment` to its last step, from where its MODEL_DIR stands, and returns the final state.

    `resolved_config` is written to MODEL_DIR/config.gin.
    """
    e = experiment
    # 1. Everything that can be wrong is checked before anything is compiled.
    mesh = e.partitioning.make_mesh()
    dimensions = {"num_heads": e.model.num_heads, "mlp_dim": e.model.mlp_dim, "VOCAB_SIZE": e.model.vocab_size}
    partitioning.check_divisible(mesh, batch_size=e.batch_size, dimensions=dimensions)
    steps.check_microbatches(e.batch_size, mesh.shape["data"], e.num_microbatches)
    tokenizer = Tokenizer(e.vocabulary)
    check_vocabulary_fits(e.model, tokenizer)
    initial = find_checkpoint(Path(e.initial_checkpoint_path)) if e.initial_checkpoint_path else None

    # 2. Data: token stores, and batches as a function of the step.
    mixture = _open_mixture(e)
    stores = {split: _open_stores(mixture, Path(e.token_store), split, tokenizer) for split in ("train", "dev")}
    make_batches = partial(
        loader.make_batches,
        feature_lengths=e.feature_lengths,
        batch_size=e.batch_size,
        sentinel_ids=tokenizer.sentinel_ids,
        host=partitioning.process_share(mesh),
    )
    batches = make_batches(stores["train"], seed=e.seed)

    # 3. Shapes, shardings, then the state: resume, else import, else from scratch. The order matters.
    optimizer = e.optimizer
    shapes, shardings = steps.state_shardings(e.model, optimizer, mesh, e.partitioning)
    partitioning.check_parameters_divide(shapes.params, shardings.params)
    model_dir = Path(e.model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointManager(model_dir, keep=e.checkpoints_to_keep)
    data_digests = {f"{task}/{split}": s.digest for split in stores for task, s, _ in _named(mixture, stores[split])}
    restored = checkpoints.restore_newest(shapes, shardings)
    if restored is not None:
        start_step, state, data = restored
        _check_same_data(data["stores"], data_digests, model_dir)
        logger.info("going on from step %d of %s", start_step, model_dir)
    else:
        start_step, state = 0, steps.create_state(e.model, optimizer, e.seed, shardings)
        if initial is not None:
            state = state.replace(params=restore_params(initial, shapes.params, shardings.params))
            logger.info("parameters from %s", initial)
    if processes.is_first():
        write_model_files(model_dir, ModelFiles(e.model, tokenizer, e.feature_lengths))
    if resolved_config and processes.is_first():
        (model_dir / "config.gin").write_text(resolved_config, encoding="utf-8")

    # 4. The loop.
    train_step = steps.make_train_step(
        e.model,
        optimizer,
        e.objective,
        seed=e.seed,
        mesh=mesh,
        shardings=shardings,
        num_microbatches=e.num_microbatches,
    )
    log = MetricsLog(model_dir, start_step, writes=processes.is_first())
    name = Path(e.model_dir).name
    with training_progress(name, start_step, e.train_steps, shown=processes.is_first()) as report:
        state = run_loop(
            state,
            start_step=start_step,
            train_steps=e.train_steps,
            train_step=train_step,
            batches=_on_devices(loader.iterate(batches, start_step), mesh),
            evaluate=_make_evaluate(e, stores["dev"], make_batches, mesh, shardings),
            learning_rate=e.schedule,
            checkpoints=checkpoints,
            data_state=lambda step: {"next_step": step, "stores": data_digests},
            log=log,
            periods=Periods(e.log_period, e.eval_period, e.checkpoint_period),
            report=report,
        )
    log.close()
    checkpoints.close()
    return state


def _open_mixture(e: Experiment) -> Mixture:
    """Opens the mixture's description; what is missing of it is made by `medmt5 tokens`, in a process of its own."""
    root = Path(e.token_store)
    if not mixture_file(root, e.mixture).is_file() and jax.process_count() == 1:  # several would all build it
        command = [
            sys.executable,
            "-m",
            "medmt5.cli",
            "tokens",
            f"--mixture={e.mixture}",
            f"--vocabulary={e.vocabulary}",
        ]
        command += [f"--token_store={root}"]
        logger.info("token stores of %s are made first: %s", e.mixture, " ".join(command[1:]))
        if subprocess.run(command, check=False).returncode:
            raise InputError(f"the token stores of {e.mixture} could not be made (see above)")
    return Mixture.read(root, e.mixture)


def _open_stores(mixture: Mixture, root: Path, split: str, tokenizer: Tokenizer) -> list[tuple[TokenStore, float]]:
    """Opens the stores of a split; one that a task does not have is left out, except for training."""
    stores = []
    for task, rate in mixture.tasks:
        directory = root / task / split
        if split != "train" and not directory.is_dir():
            continue
        store = TokenStore(directory)
        store.check_vocabulary(tokenizer)
        stores.append((store, rate))
    return stores


def _named(mixture: Mixture, stores: list[tuple[TokenStore, float]]) -> Iterator[tuple[str, TokenStore, float]]:
    for store, rate in stores:
        yield store.manifest["task"], store, rate


def _check_same_data(saved: dict[str, str], now: dict[str, str], model_dir: Path) -> None:
    changed = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    if changed:
        raise InputError(
            f"the token stores changed since {model_dir} was started: {', '.join(changed)}; restore them, or "
            "start in another MODEL_DIR "
            "with INITIAL_CHECKPOINT_PATH"
        )


def _make_evaluate(
    e: Experiment, stores, make_batches, mesh, shardings
) -> Callable[[steps.TrainState], dict[str, float]]:
    """Returns state -> {"eval_loss", "eval_accuracy"} over `eval_steps` fixed batches of the dev split; {} without
    one.
    """
    if not stores:
        return lambda state: {}
    eval_step = steps.make_eval_step(e.model, e.objective, mesh=mesh, shardings=shardings)
    batches = make_batches(stores, seed=0)

    def evaluate(state: steps.TrainState) -> dict[str, float]:
        sums = [eval_step(state.params, partitioning.put_batch(batches[i], mesh)) for i in range(e.eval_steps)]
        total = jax.device_get(jax.tree.map(lambda *x: sum(x), *sums))
        return {"eval_loss": float(total.total / total.weight), "eval_accuracy": float(total.correct / total.weight)}

    return evaluate


def _on_devices(batches: Iterator[Batch], mesh: jax.sharding.Mesh) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield partitioning.put_batch(dict(batch), mesh)


def describe(experiment: Experiment) -> str:
    """Returns one line about the model: parameters in all and without the vocabulary."""
    shapes = jax.eval_shape(lambda: nn.unbox(steps.init_state(experiment.model, experiment.optimizer, 0).params))
    total = sum(x.size for x in jax.tree.leaves(shapes))
    vocabulary = 2 * experiment.model.vocab_size * experiment.model.emb_dim
    return f"{total / 1e6:.1f} M parameters, {(total - vocabulary) / 1e6:.1f} M without the vocabulary's two matrices"


if __name__ == "__main__":
    # gin files name `medmt5.train`; running as __main__ would be a second copy of this module.
    from medmt5.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
