"""What a path holds, by its content, and all that there is to a model: weights, shape, vocabulary.

    a MODEL_DIR of ours (model.json, checkpoint_<step>/ with params.…), or one of its checkpoints
    a folder of Hugging Face's (config.json with safetensors)
    a MODEL_DIR with int8 weights (model.json, checkpoint_<step>/int8.safetensors)
    a checkpoint of T5X (legacy or Orbax, target.…), or a folder of them

Files that can run code when they are read (pickle, PyTorch's .bin) are never opened.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from medmt5.checkpoints.manager import checkpoint_step, find_checkpoint
from medmt5.conversion.adapters import open_model
from medmt5.conversion.huggingface import INDEX, SINGLE, HuggingFaceWeights, read_json
from medmt5.conversion.int8 import FILE, Int8Weights
from medmt5.conversion.parameters import check_parameters, config_of
from medmt5.conversion.safetensors import describe_content
from medmt5.conversion.t5x import is_t5x, open_t5x
from medmt5.conversion.weights import Weights
from medmt5.errors import InputError
from medmt5.model.mt5 import MT5Config
from medmt5.model_files import read_model_files

OURS, INT8, HUGGING_FACE, T5X = "medmt5", "int8", "huggingface", "t5x"
FORMATS = (HUGGING_FACE, OURS, INT8, T5X)
WITH_MODEL_FILES = (OURS, INT8)  # model.json and vocabulary.model lie beside the checkpoint

# Files of Hugging Face's that are not read -> how their owner makes safetensors of them, on a machine that trusts them.
OTHER_WEIGHTS = {
    "pytorch_model.bin": "",
    "pytorch_model.bin.index.json": "",
    "flax_model.msgpack": ", from_flax=True",
    "flax_model.msgpack.index.json": ", from_flax=True",
    "tf_model.h5": ", from_tf=True",
}
LENGTH = 512  # of inputs and targets where a format says nothing of them: mT5 takes any


class Source(NamedTuple):
    """A model that was found: `lengths` and `label_prompt` as in model.json, `vocabulary`: its SentencePiece model, if
    one lies there.
    """

    format: str
    path: Path
    weights: Weights
    config: MT5Config
    step: int
    lengths: dict[str, int]
    vocabulary: Path | None
    label_prompt: bool = True


def detect_format(path: Path) -> tuple[str, Path]:
    """Returns (format, the folder that holds the weights): of a folder of checkpoints the newest one.

    Raises InputError that says what is there instead, and what to do.
    """
    path = Path(path).absolute()
    if path.is_file():
        _refuse_file(path)
    if not path.is_dir():
        raise InputError(f"no such folder: {path}; give a MODEL_DIR, a Hugging Face folder or a T5X checkpoint")
    folders = [path]
    with contextlib.suppress(InputError):
        folders.append(find_checkpoint(path))
    folders += sorted(path.glob("checkpoint_[0-9]*"), key=_step)[-1:]
    for folder in folders:
        if is_t5x(folder):
            return T5X, folder
        if _is_ours(folder):
            return OURS, folder
        if (folder / FILE).is_file():
            return INT8, folder
    if (path / SINGLE).exists() or (path / INDEX).exists():
        return HUGGING_FACE, path
    for name, argument in OTHER_WEIGHTS.items():
        if (path / name).exists():
            raise InputError(f"{path} holds {name} and no safetensors. {_remedy(path, argument)}")
    shown = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
    raise InputError(
        f"{path} is no model that medmt5 reads; it holds {shown}. Give a MODEL_DIR or checkpoint of `medmt5 train`, a "
        "Hugging Face folder (config.json and model.safetensors) or a checkpoint folder of T5X"
    )


def open_source(path: Path) -> Source:
    """Opens what `detect_format` finds. Our own parameters are checked against their digests: that reads them once."""
    kind, folder = detect_format(path)
    if kind == HUGGING_FACE:
        theirs = HuggingFaceWeights(folder)
        vocabulary = folder / "spiece.model"
        lengths = _lengths(folder)
        return Source(kind, folder, theirs, theirs.config, 0, lengths, vocabulary if vocabulary.is_file() else None)
    if kind == T5X:
        t5x = open_t5x(folder)
        lengths = {"inputs": LENGTH, "targets": LENGTH}
        return Source(kind, folder, t5x, config_of(t5x.tensors(), folder), _step(folder), lengths, None)
    files = read_model_files(folder)

    def open_base(path: Path) -> Weights:
        from medmt5.conversion.vocabulary_fit import fit_rows  # which knows this module

        return fit_rows(open_source(path), files.tokenizer, files.config.vocab_size)

    weights: Weights
    if kind == INT8:
        weights = Int8Weights(folder, files.config)
    else:
        weights = open_model(folder, open_base)
        check_parameters(folder, weights.tensors(), files.config)
    return Source(
        kind,
        folder,
        weights,
        files.config,
        checkpoint_step(folder),
        files.feature_lengths,
        files.tokenizer.model_file,
        files.label_prompt,
    )


def _lengths(folder: Path) -> dict[str, int]:
    """What a tokenizer calls its maximum is a huge number where nobody set it."""
    file = folder / "tokenizer_config.json"
    most = read_json(file).get("model_max_length") if file.is_file() else None
    length = most if isinstance(most, int) and 0 < most <= 1 << 16 else LENGTH
    return {"inputs": length, "targets": length}


def _is_ours(folder: Path) -> bool:
    metadata = folder / "state" / "_METADATA"
    return metadata.is_file() and "('params', " in metadata.read_text(encoding="utf-8", errors="replace")


def _step(folder: Path) -> int:
    """Returns the step in a folder's name; 0 where it has another name."""
    with contextlib.suppress(InputError):
        return checkpoint_step(folder)
    return 0


def _refuse_file(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(512)
    if path.suffix == ".safetensors":
        raise InputError(f"{path} is one file; give its folder, with what lies beside it")
    argument = {".msgpack": ", from_flax=True", ".h5": ", from_tf=True"}.get(path.suffix, "")
    raise InputError(
        f"{path} is a file, and a model is a folder ({describe_content(start)}). {_remedy(path.parent, argument)}"
    )


def _remedy(folder: Path, argument: str) -> str:
    return (
        "medmt5 opens no pickle, msgpack or HDF5 of weights: they can run code, or need their framework. Where you "
        f'trust the file, with transformers installed: python -c "from transformers import AutoModelForSeq2SeqLM as M; '
        f"M.from_pretrained('{folder}'{argument}).save_pretrained('{folder}-safetensors')\""
    )
