"""What makes a MODEL_DIR usable by itself: `model.json` and `vocabulary.model` beside the checkpoints."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medmt5.errors import InputError
from medmt5.model.mt5 import MT5Config
from medmt5.tokenizer import Tokenizer

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A model's shape, its tokenizer and the lengths it was trained with ({"inputs": n, "targets": n} tokens).

    label_prompt: see `trained_model.TrainedModel`.
    """

    config: MT5Config
    tokenizer: Tokenizer
    feature_lengths: dict[str, int]
    label_prompt: bool = True


def write_model_files(model_dir: Path, files: ModelFiles) -> None:
    vocabulary, content = model_dir / "vocabulary.model", files.tokenizer.model_file.read_bytes()
    if not vocabulary.exists() or vocabulary.read_bytes() != content:
        write_whole(vocabulary, content)
    facts = {
        "format": FORMAT,
        "model": files.config.to_json(),
        "feature_lengths": files.feature_lengths,
        "vocabulary": {
            "sha256": files.tokenizer.sha256,
            "pieces": files.tokenizer.num_pieces,
            "labels": files.tokenizer.labels,
        },
        "label_prompt": files.label_prompt,
    }
    write_whole(model_dir / "model.json", (json.dumps(facts, indent=1) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it: a process killed on the way leaves the old one, or the new."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(path)


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Yields a folder beside `target` that gets its name when the block ends well, and goes when it does not.

    What a killed process left of it is removed first.
    """
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} is no folder to write {target.name} into; make it first")
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_model_files(path: Path) -> ModelFiles:
    """Reads them from a MODEL_DIR or from one of its checkpoint folders."""
    path = Path(path)
    model_dir = path if (path / "model.json").is_file() else path.parent
    file = model_dir / "model.json"
    if not file.is_file():
        raise InputError(f"no model.json in {path} or above it; give a MODEL_DIR that `medmt5 train` has written to")
    facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if facts.get("format") != FORMAT:
        raise InputError(
            f"{file} has format {facts.get('format')}, this version reads {FORMAT}; use the medmt5 that wrote it"
        )
    tokenizer = Tokenizer(model_dir / "vocabulary.model", labels=facts["vocabulary"]["labels"])
    if tokenizer.sha256 != facts["vocabulary"]["sha256"]:
        raise InputError(
            f"{model_dir / 'vocabulary.model'} is not the vocabulary this model was trained with; restore the "
            "original file"
        )
    # Models from before the key was written have the prompt.
    prompt = facts.get("label_prompt", True)
    return ModelFiles(MT5Config(**facts["model"]), tokenizer, facts["feature_lengths"], prompt)


def check_vocabulary_fits(config: MT5Config, tokenizer: Tokenizer) -> None:
    """Raises InputError unless every id has a row."""
    if tokenizer.size > config.vocab_size:
        rows = -(-tokenizer.size // 128) * 128
        raise InputError(
            f"the vocabulary has {tokenizer.num_pieces} pieces and {2 * len(tokenizer.labels)} label tokens, the "
            "model VOCAB_SIZE = "
            f"{config.vocab_size} rows; set VOCAB_SIZE to at least {tokenizer.size}, e.g. {rows}"
        )
