"""What a run will be, before money is spent on it: `medmt5 train … --gin.DRY_RUN=True`.

The train step is compiled for the real devices, from shapes alone: nothing is allocated, trained or written. For
devices that are not at hand, `medmt5 describe` predicts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from medmt5 import storage
from medmt5.batch import shapes as batch_shapes
from medmt5.checkpoints.manager import checkpoint_step, checkpoints_in, find_checkpoint, read_data
from medmt5.checkpoints.object_store import fetch_model, finished_steps
from medmt5.conversion.formats import detect_format
from medmt5.errors import InputError
from medmt5.model.mt5 import param_shapes
from medmt5.progress import short_number
from medmt5.tokenizer import Tokenizer
from medmt5.tokens import loader
from medmt5.tokens.copies import fetch_stores, has_mixture
from medmt5.tokens.mixture import Mixture
from medmt5.train import Experiment, check, data_facts, make_train_step, mesh_peak_flops, open_stores, step_flops
from medmt5.training import step as steps
from medmt5.training import trainable
from medmt5.training.data_facts import check_same_data
from medmt5.training.device_peaks import USUAL_MFU
from medmt5.training.goodput import duration


def make_plan(e: Experiment) -> str:
    """Returns the plan as text; raises InputError for what would stop the run before its first step."""
    mesh, tokenizer = check(e)
    _check_going_on(e, tokenizer)
    optimizer = trainable.keep_state_of(e.optimizer, e.trained)
    shapes, shardings = steps.state_shardings(e.model, optimizer, mesh, e.partitioning)
    inputs, targets = (e.feature_lengths[name] for name in ("inputs", "targets"))
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in batch_shapes(e.batch_size, inputs, targets, e.pack).items()
    }
    start = time.monotonic()
    compiled = make_train_step(e, mesh, shardings).lower(shapes, batch).compile()
    seconds = time.monotonic() - start
    start_step, source = _start(e)
    remaining = max(0, e.train_steps - start_step)
    device = mesh.devices.flat[0]
    flops, peak = step_flops(e), mesh_peak_flops(mesh, e.model.dtype)
    step_tokens = e.batch_size * (inputs + targets)
    sharded = "parameters split over data, " if e.partitioning.shard_parameters_over_data else ""
    kind = "packed rows" if e.pack else "examples"
    rows = {
        "model": f"{describe_model(e)}; computes in {e.model.dtype}",
        "devices": f"{mesh.size} x {device.device_kind}: data {mesh.shape['data']} x model {mesh.shape['model']}, "
        f"{sharded}{jax.process_count()} process{'es' * (jax.process_count() > 1)}",
        "memory": _memory(compiled, device),
        "compiled in": f"{seconds:.1f} s (the train step, once more if the cache does not have it)",
        "step": f"{e.batch_size} {kind} of {inputs} + {targets} tokens: {short_number(step_tokens)} tokens with "
        f"padding, {short_number(flops)}FLOP, {e.num_microbatches} microbatch{'es' * (e.num_microbatches > 1)}",
        "starts from": source,
        "steps": f"{start_step} to {e.train_steps}: {short_number(remaining * step_tokens)} tokens with padding, "
        f"{short_number(remaining * flops)}FLOP",
        "takes": _time(remaining * flops, peak),
        "data": _data(e, tokenizer),
        "writes": f"to {e.model_dir}: {_checkpoints(e, start_step)}; config.gin, model.json, "
        "vocabulary.model, metrics.jsonl, goodput.jsonl, train/ (TensorBoard)"
        + (", profile/" if e.profile_steps else ""),
    }
    width = max(map(len, rows))
    return "\n".join(f"# {name:<{width}}  {text}" for name, text in rows.items())


def _check_going_on(e: Experiment, tokenizer: Tokenizer) -> None:
    """Raises InputError where the run would go on with other data than its newest checkpoint was trained on. Of one on
    an object store training says so.
    """
    model_dir = Path(e.model_dir)
    if not model_dir.is_dir() or not checkpoints_in(model_dir) or not _has_stores(e):
        return
    try:
        saved = read_data(find_checkpoint(model_dir))
    except InputError:  # damaged: training says so, and goes on from an older one
        return
    root = fetch_stores(e.token_store, e.mixture, ("train", "dev"))
    mixture = Mixture.read(root, e.mixture)
    stores = {split: open_stores(mixture, root, split, tokenizer) for split in ("train", "dev")}
    check_same_data(saved, data_facts(e, mixture, stores), model_dir)


def _has_stores(e: Experiment) -> bool:
    return has_mixture(e.token_store, e.mixture) or (Path(e.token_store) / e.mixture).is_dir()


def describe_model(e: Experiment) -> str:
    """Returns one line about the model: parameters in all and without the vocabulary."""
    shapes = nn.unbox(param_shapes(e.model))
    trees = shapes, trainable.split(shapes, e.trained)[0]
    total, trained = (sum(x.size for x in jax.tree.leaves(tree)) for tree in trees)
    vocabulary = 2 * e.model.vocab_size * e.model.emb_dim
    line = f"{total / 1e6:.1f} M parameters, {(total - vocabulary) / 1e6:.1f} M without the vocabulary's two matrices"
    return line + (f", {trained / 1e6:.2f} M trained" if trained < total else "")


def _memory(compiled: Any, device: jax.Device) -> str:
    """Of one device, as XLA plans it: arguments (state, batch) and results that take their place count once."""
    sizes = compiled.memory_analysis()
    if sizes is None:
        return "XLA does not say"
    total = (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.generated_code_size_in_bytes
    )
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.process_index == jax.process_index() else None
    has = f", of {_gibibytes(limit)}" if limit else ""
    return (
        f"{_gibibytes(total)} a device while training{has}: state and batch "
        f"{_gibibytes(sizes.argument_size_in_bytes)}, temporary {_gibibytes(sizes.temp_size_in_bytes)}"
    )


def _start(e: Experiment) -> tuple[int, str]:
    """Returns the first step and what its weights come from, in the order that `train` looks."""
    if storage.is_url(e.model_dir):
        if steps_there := finished_steps(e.model_dir):
            return steps_there[-1], f"{e.model_dir}/checkpoint_{steps_there[-1]} (if it is whole; not read now)"
    elif Path(e.model_dir).is_dir():
        try:
            newest = find_checkpoint(Path(e.model_dir))
        except InputError:
            pass  # a MODEL_DIR without a checkpoint starts like a new one
        else:
            return checkpoint_step(newest), f"{newest} (if it is whole; not read now)"
    if e.initial_checkpoint_path:
        kind, folder = detect_format(fetch_model(e.initial_checkpoint_path))
        return 0, f"weights of {folder} ({kind})"
    return 0, f"fresh weights, RANDOM_SEED = {e.seed}"


def _time(flops: float, peak: float | None) -> str:
    if peak is None:
        return "unknown: the peak of these devices is not in our table"
    return (
        f"about {duration(flops / (USUAL_MFU * peak))} of training at an MFU of {USUAL_MFU:.0%} "
        f"({short_number(peak)}FLOP/s peak); scale by the MFU you see"
    )


def _data(e: Experiment, tokenizer: Tokenizer) -> str:
    if not _has_stores(e):
        return f"{e.mixture}: no token stores in {e.token_store} yet; `medmt5 tokens` will make them first"
    root = fetch_stores(e.token_store, e.mixture, ("train", "dev"))
    stores = open_stores(Mixture.read(root, e.mixture), root, "train", tokenizer)
    epochs, by_task = loader.epochs_per_step(
        stores, feature_lengths=e.feature_lengths, batch_size=e.batch_size, seed=e.seed, pack=e.pack
    )
    tasks = ", ".join(f"{task} {n * e.train_steps:.3g}" for task, n in by_task.items())
    return f"{e.mixture}: {epochs * e.train_steps:.3g} epochs in all {e.train_steps} steps ({tasks})"


def checkpoints_kept(e: Experiment, start_step: int) -> tuple[int, int]:
    """Returns how many checkpoints a run from `start_step` writes, and how many of them it keeps."""
    count = len({*range(start_step, e.train_steps, e.checkpoint_period), e.train_steps})
    return count, count if e.checkpoints_to_keep is None else min(count, e.checkpoints_to_keep)


def state_bytes(e: Experiment) -> int:
    """Returns the bytes of the state that a checkpoint holds, before it is compressed."""
    optimizer = trainable.keep_state_of(e.optimizer, e.trained)
    saved = steps.with_params(steps.state_shapes(e.model, optimizer), e.saved)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(saved))


def _checkpoints(e: Experiment, start_step: int) -> str:
    (count, kept), size = checkpoints_kept(e, start_step), state_bytes(e)
    return f"{count} checkpoints of at most {_gibibytes(size)}, {kept} kept ({_gibibytes(kept * size)} of disk)"


def _gibibytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
