"""Training: `python -m medmt5.train --gin_file=gin/recipe/tiny_pretrain.gin --gin.MODEL_DIR=runs/a …`, or `medmt5
train`.

Pre-training and fine-tuning are one program; a gin file fills `Experiment`, `train` runs it. TensorFlow is never loaded
here: token stores that are missing are made by another process, `medmt5 tokens`.
"""

from __future__ import annotations

from medmt5.environment import prepare_process

if __name__ == "__main__":
    # Before JAX is imported: `prepare_process` may start the process again, and a mistake in the configuration is told
    # at once. gin files name `medmt5.train`; running as __main__ would be a second copy of this module.
    import sys

    from medmt5.cli import main

    prepare_process()
    sys.exit(main(["train", *sys.argv[1:]]))

import dataclasses
import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import optax

from medmt5 import partitioning, processes
from medmt5.batch import Batch
from medmt5.checkpoints import adapters
from medmt5.checkpoints.manager import CONFIG, CheckpointManager
from medmt5.checkpoints.object_store import fetch_model
from medmt5.conversion.formats import detect_format
from medmt5.conversion.initial import load_params
from medmt5.errors import InputError
from medmt5.model.flops import train_step_flops
from medmt5.model.lora import NO_LORA
from medmt5.model.mt5 import MT5Config
from medmt5.model_files import ModelFiles, check_vocabulary_fits, write_model_files, write_whole
from medmt5.partitioning import Partitioning
from medmt5.progress import TrainingProgress
from medmt5.tokenizer import Tokenizer
from medmt5.tokens import loader
from medmt5.tokens.copies import fetch_stores, has_mixture
from medmt5.tokens.mixture import Mixture, language_of
from medmt5.tokens.store import TokenStore
from medmt5.tokens.verification import verify_stores
from medmt5.training import step as steps
from medmt5.training import trainable
from medmt5.training.base import put_on_base
from medmt5.training.data_facts import check_same_data
from medmt5.training.device_peaks import peak_flops
from medmt5.training.goodput import Clock, GoodputLog
from medmt5.training.held_out import make_evaluate
from medmt5.training.loop import Periods, run_loop
from medmt5.training.metrics_log import MetricsLog
from medmt5.training.monitor import Monitor, Utilisation
from medmt5.training.preemption import Preempted
from medmt5.training.profile import Profile
from medmt5.training.run_folder import RunFolder, open_run_folder
from medmt5.training.skipped_log import SkippedLog
from medmt5.training.trainable import Rules

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
    pack: bool
    train_steps: int
    model: MT5Config
    partitioning: Partitioning
    trainable: Rules | None
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
    max_skipped_steps: int
    loss_spike_factor: float | None
    profile_steps: int
    dry_run: bool

    def __post_init__(self):
        counts = ("batch_size", "train_steps", "num_microbatches", "eval_period", "checkpoint_period", "log_period")
        for name in (*counts, "max_skipped_steps", "profile_steps"):
            value, least = getattr(self, name), int(name != "profile_steps")
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if self.loss_spike_factor is not None and not self.loss_spike_factor > 1:
            raise InputError(
                f"LOSS_SPIKE_FACTOR must be None or a number above 1, not {self.loss_spike_factor!r}: a loss that many "
                "times the running mean is skipped"
            )
        if set(self.feature_lengths) != {"inputs", "targets"}:
            raise InputError(
                "TASK_FEATURE_LENGTHS must give the lengths of 'inputs' and 'targets', not "
                f"{sorted(self.feature_lengths)}"
            )

    @cached_property
    def trained(self) -> frozenset[str] | None:
        """Paths of the trained parameters; None = all."""
        return trainable.trained_parameters(self.model, self.trainable)

    @property
    def saved(self) -> frozenset[str] | None:
        """Paths of the parameters that checkpoints hold: with adapters the trained ones, else all."""
        return self.trained if self.model.lora.rank else None


def train(experiment: Experiment, resolved_config: str | None = None) -> steps.TrainState:
    """Runs `experiment` to its last step, from where its MODEL_DIR stands, and returns the final state.

    `resolved_config` is written to MODEL_DIR/config.gin, and into each checkpoint. Raises InputError when another
    process trains in MODEL_DIR.
    """
    with open_run_folder(experiment.model_dir) as folder:
        return _train(experiment, resolved_config, folder)


def _train(experiment: Experiment, resolved_config: str | None, folder: RunFolder) -> steps.TrainState:
    e = experiment
    clock = Clock()
    # 1. Everything that can be wrong is checked before anything is compiled.
    mesh, tokenizer = check(e)
    initial = detect_format(fetch_model(e.initial_checkpoint_path))[1] if e.initial_checkpoint_path else None

    # 2. Data: token stores, and batches as a function of the step.
    mixture, root = _open_mixture(e)
    stores = {split: open_stores(mixture, root, split, tokenizer) for split in ("train", "dev")}
    shape: dict[str, Any] = {"feature_lengths": e.feature_lengths, "batch_size": e.batch_size, "pack": e.pack}
    batches = make_batches(stores["train"], tokenizer, mesh, **shape, seed=e.seed)

    # 3. Shapes, shardings, then the state: resume, else import, else from scratch. The order matters.
    optimizer = trainable.keep_state_of(e.optimizer, e.trained)
    saved = partial(steps.with_params, names=e.saved)
    shapes, shardings = steps.state_shardings(e.model, optimizer, mesh, e.partitioning)
    partitioning.check_parameters_divide(shapes.params, shardings.params)
    model_dir = folder.path
    checkpoints = CheckpointManager(e.model_dir, e.checkpoints_to_keep, resolved_config, before_save=folder.publish)
    facts = data_facts(e, mixture, stores)
    processes.require_same(facts["stores"] | facts["batches"], "token stores and batches")
    with clock.spend("restore"):
        restored = checkpoints.restore_newest(saved(shapes), saved(shardings))
    if restored is not None:
        start_step, state, data = restored
        check_same_data(data, facts, e.model_dir)
        logger.info("going on from step %d of %s", start_step, e.model_dir)
    else:
        start_step, data, state = 0, {}, steps.create_state(e.model, optimizer, e.seed, shardings)
        if initial is not None and not e.model.lora.rank:
            with clock.spend("restore"):
                state = state.replace(params=_load_plain(e, tokenizer, initial, shapes.params, shardings.params))
            logger.info("parameters from %s", initial)
    if e.model.lora.rank:
        assert initial is not None  # checked above
        layout: dict[str, Any] = {"lora": e.model.lora, "trained": e.trained, "shapes": shapes, "shardings": shardings}
        with clock.spend("restore"):
            state, record = put_on_base(
                state, initial, adapters.record_in(data), load=partial(_load_plain, e, tokenizer), **layout
            )
        facts["adapters"] = dataclasses.asdict(record)
        logger.info("adapters on %s", initial)
    check_stores = verify_stores([store for split in stores.values() for store, _ in split])
    first = processes.is_first()
    if first:
        has_prompt = {store.label_prompt for store, _ in stores["train"]} - {None} != {False}
        write_model_files(model_dir, ModelFiles(e.model, tokenizer, e.feature_lengths, has_prompt))
        if resolved_config is not None:
            write_whole(model_dir / CONFIG, resolved_config.encode())

    # 4. The loop. One process of all writes and shows; every process stops where it must.
    log = MetricsLog(model_dir, start_step, active=first)
    goodput = GoodputLog(model_dir, clock, start_step=start_step, reached_step=log.reached_step, active=first)
    if goodput.steps_to_repeat:
        logger.info("%d steps after it were trained by an earlier run and are trained again", goodput.steps_to_repeat)
    examples_of = partial(loader.example_ids, stores["train"], seed=e.seed, **shape)
    end = "failed"
    with checkpoints, TrainingProgress(model_dir.name, start_step, e.train_steps, active=first) as show:
        monitor = Monitor(
            log=log,
            show=show,
            clock=clock,
            goodput=goodput,
            skipped=SkippedLog(model_dir, start_step, e.max_skipped_steps, examples_of, active=first),
            utilisation=_utilisation(e, mesh),
            log_period=e.log_period,
            train_steps=e.train_steps,
            start_step=start_step,
            learning_rate=e.schedule,
            epochs=_epochs_by_metric(*loader.epochs_per_step(stores["train"], seed=e.seed, **shape)),
        )
        try:
            state = run_loop(
                state,
                start_step=start_step,
                train_steps=e.train_steps,
                train_step=make_train_step(e, mesh, shardings),
                batches=_on_devices(loader.iterate(batches, start_step), mesh, check_stores),
                evaluate=_make_evaluate(e, stores["dev"], tokenizer, shape, mesh, shardings, clock),
                checkpoints=checkpoints,
                data_state=lambda step: {"next_step": step, **facts},
                saved=saved,
                periods=Periods(e.eval_period, e.checkpoint_period),
                monitor=monitor,
                clock=clock,
                profile=Profile(model_dir / "profile", e.profile_steps, start_step, e.train_steps),
            )
            end = "finished"
        except Preempted:
            end = "preempted"
            raise
        finally:
            log.close()
            for line in goodput.close(monitor.step, end):
                show.tell(line)
    return state


def _load_plain(e: Experiment, tokenizer: Tokenizer, path: Path, shapes: Any, shardings: Any) -> Any:
    """Returns the parameters in `path`, of any format, for the model without adapters."""
    return load_params(path, dataclasses.replace(e.model, lora=NO_LORA), tokenizer, shapes, shardings)


def check(e: Experiment) -> tuple[jax.sharding.Mesh, Tokenizer]:
    """Returns the mesh and the tokenizer; raises InputError where they, the model and the batch do not fit."""
    mesh = e.partitioning.make_mesh()
    dimensions = {"num_heads": e.model.num_heads, "mlp_dim": e.model.mlp_dim, "VOCAB_SIZE": e.model.vocab_size}
    partitioning.check_divisible(mesh, batch_size=e.batch_size, dimensions=dimensions)
    steps.check_microbatches(e.batch_size, mesh.shape["data"], e.num_microbatches)
    if e.model.lora.rank and not e.initial_checkpoint_path:
        raise InputError(
            f"LORA_RANK = {e.model.lora.rank} needs INITIAL_CHECKPOINT_PATH: checkpoints hold the adapters alone, so "
            "their base must lie somewhere; name one, or set LORA_RANK to 0"
        )
    tokenizer = Tokenizer(e.vocabulary)
    check_vocabulary_fits(e.model, tokenizer)
    return mesh, tokenizer


def make_train_step(e: Experiment, mesh: jax.sharding.Mesh, shardings: steps.TrainState) -> Any:
    """Returns the jitted train step of the experiment."""
    return steps.make_train_step(
        e.model,
        e.optimizer,
        e.objective,
        seed=e.seed,
        mesh=mesh,
        shardings=shardings,
        num_microbatches=e.num_microbatches,
        loss_spike_factor=e.loss_spike_factor,
        trained=e.trained,
    )


def step_flops(e: Experiment) -> int:
    """Returns the floating-point operations of a train step on a global batch, padding counted like any token."""
    lengths = e.feature_lengths["inputs"], e.feature_lengths["targets"]
    return train_step_flops(e.model, e.batch_size, *lengths, e.trained)


def mesh_peak_flops(mesh: jax.sharding.Mesh, dtype: str) -> float | None:
    """Returns the peak FLOP/s of all devices of the mesh, None if unknown; measured on a CPU, in about a second.

    All virtual devices of a CPU share the cores that one product is measured on.
    """
    device = mesh.devices.flat[0]
    peak = peak_flops(device, dtype)
    count = jax.process_count() if device.platform == "cpu" else mesh.size
    return None if peak is None else peak * count


def _utilisation(e: Experiment, mesh: jax.sharding.Mesh) -> Utilisation:
    # Where the peak has to be measured, only a run that lasts is worth the second.
    after_seconds = 10.0 if mesh.devices.flat[0].platform == "cpu" else 0.0
    return Utilisation(step_flops(e), partial(mesh_peak_flops, mesh, e.model.dtype), after_seconds)


def _epochs_by_metric(mixture: float, tasks: dict[str, float]) -> dict[str, float]:
    return {"epochs": mixture} | ({f"epochs/{task}": n for task, n in tasks.items()} if len(tasks) > 1 else {})


def _open_mixture(e: Experiment) -> tuple[Mixture, Path]:
    """Returns the mixture's description and the folder of its stores; what is missing of it is made by `medmt5 tokens`,
    in a process of its own.
    """
    if not has_mixture(e.token_store, e.mixture) and jax.process_count() == 1:  # several would all build it
        command = [
            sys.executable,
            "-m",
            "medmt5.cli",
            "tokens",
            f"--mixture={e.mixture}",
            f"--vocabulary={e.vocabulary}",
        ]
        command += [f"--token_store={e.token_store}"]
        logger.info("token stores of %s are made first: %s", e.mixture, " ".join(command[1:]))
        if subprocess.run(command, check=False).returncode:
            raise InputError(f"the token stores of {e.mixture} could not be made (see above)")
    root = fetch_stores(e.token_store, e.mixture, ("train", "dev"))
    return Mixture.read(root, e.mixture), root


def open_stores(mixture: Mixture, root: Path, split: str, tokenizer: Tokenizer) -> list[tuple[TokenStore, float]]:
    """Opens the stores of a split of the tasks that are trained on; one that a task does not have is left out, except
    for training.
    """
    if not mixture.trained_on:
        raise InputError(
            f"{mixture.name} is for evaluation: its tasks have no train split, or a rate of 0; train on another mixture"
        )
    stores = []
    for task, rate in mixture.trained_on:
        directory = root / task / split
        if split != "train" and not directory.is_dir():
            continue
        store = TokenStore(directory)
        store.check_vocabulary(tokenizer)
        stores.append((store, rate))
    return stores


def data_facts(e: Experiment, mixture: Mixture, stores: dict[str, list[tuple[TokenStore, float]]]) -> dict[str, Any]:
    """Returns `training.data_facts` of a run; nothing but what JSON keeps."""
    digests = {f"{s.manifest['task']}/{split}": s.digest for split in stores for s, _ in stores[split]}
    batches = {
        "BATCH_SIZE": e.batch_size,
        "PACK": e.pack,
        "RANDOM_SEED": e.seed,
        "TASK_FEATURE_LENGTHS": dict(e.feature_lengths),
        "the rates of the mixture": dict(mixture.trained_on),
    }
    return {"stores": digests, "batches": batches}


def make_batches(
    stores: list[tuple[TokenStore, float]], tokenizer: Tokenizer, mesh: jax.sharding.Mesh, **arguments: Any
) -> Any:
    """Returns this process's rows of the batches."""
    share = partitioning.process_share(mesh)
    return loader.make_batches(stores, host=share, sentinel_ids=tokenizer.sentinel_ids, **arguments)


def _make_evaluate(
    e: Experiment, stores, tokenizer: Tokenizer, shape: dict[str, Any], mesh, shardings, clock: Clock
) -> Callable[[steps.TrainState], dict[str, float]]:
    """Returns state -> metrics over `eval_steps` fixed batches a language of the dev split; {} without one.

    A language whose dev split is smaller than that is gone through once.
    """
    # Perplexity is that of the text, so without smoothing.
    objective = dataclasses.replace(e.objective, label_smoothing=0.0)
    eval_step = steps.make_eval_step(e.model, objective, mesh=mesh, shardings=shardings)
    by_language: dict[str, list[tuple[TokenStore, float]]] = {}
    for store, rate in stores:
        by_language.setdefault(language_of(store.manifest["task"]), []).append((store, rate))

    def fixed_batches(stores) -> list[Callable[[], dict[str, Any]]]:
        batches = make_batches(stores, tokenizer, mesh, **shape, seed=0)
        epoch, _ = loader.epochs_per_step(stores, **shape, seed=0)
        count = min(e.eval_steps, math.ceil(1 / epoch))
        return [partial(_put, batches, i, mesh) for i in range(count)]

    batches = {language: fixed_batches(stores) for language, stores in sorted(by_language.items())}
    return make_evaluate(eval_step, batches, clock)


def _put(batches: Any, step: int, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    return partitioning.put_batch(batches[step], mesh)


def _on_devices(
    batches: Iterator[Batch], mesh: jax.sharding.Mesh, check_stores: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    for batch in batches:
        check_stores()
        yield partitioning.put_batch(dict(batch), mesh)
