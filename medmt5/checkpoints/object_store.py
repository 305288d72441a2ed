"""Checkpoints on object stores: written and read there by Orbax and TensorStore, every process its own shards.

    MODEL_DIR/checkpoint_<step>/commit_success.txt   put last: without it a checkpoint is unfinished, and not read

A store has no rename by which a checkpoint could appear, so Orbax marks it. What is unfinished goes when the next run
starts; of a checkpoint that is deleted the mark goes first.

Orbax 0.12 knows where the arrays of a gs:// checkpoint go, and takes s3:// for a folder of the disk. TensorStore knows
S3, so `_name_s3` puts its name for the place where Orbax asks for one.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint._src.serialization import tensorstore_utils

from medmt5 import storage
from medmt5.errors import InputError

MARK = "commit_success.txt"
CHECKPOINT = re.compile(r"checkpoint_(\d+)")
MODEL_FILES = ("model.json", "vocabulary.model")
COPIED_TOO = ("config.gin",)  # for the model card


def open_directory(directory: str | Path) -> Any:
    """Returns MODEL_DIR as Orbax wants it: a path of etils on a store, of the disk an absolute one."""
    if not storage.is_url(directory):
        return Path(directory).absolute()
    storage.check(directory)
    _name_s3()
    return epath.Path(str(directory).rstrip("/"))


def manager_options(directory: str | Path) -> dict[str, Any]:
    """Returns how Orbax finishes a checkpoint. On a store it clears nothing away, since it takes every folder without
    the mark for a save that broke off (`remove_unfinished`), and deletes none, since it leaves the mark to the end.
    """
    if not storage.is_url(directory):
        return {"cleanup_tmp_directories": True}
    mode = ocp.options.AtomicityMode.COMMIT_FILE
    return {"atomicity_options": ocp.options.AtomicityOptions(mode=mode)}


def remove_unfinished(directory: str | Path) -> None:
    """Deletes what is left of saves that were interrupted; on a disk Orbax does."""
    if not storage.is_url(directory):
        return
    url, there = str(directory).rstrip("/"), storage.list_objects(str(directory))
    folders = {name.partition("/")[0] for name in there}
    with storage.opened(url) as store:
        for folder in folders:
            if CHECKPOINT.fullmatch(folder) and f"{folder}/{MARK}" not in there:
                store.rm(f"{url}/{folder}", recursive=True)


def delete_checkpoint(checkpoint: Any) -> None:
    """Deletes a checkpoint of a store, its mark first: one that is half deleted is unfinished."""
    (checkpoint / MARK).unlink(missing_ok=True)
    checkpoint.rmtree(missing_ok=True)


def rename_checkpoint(checkpoint: Any, target: Any) -> None:
    """Renames a checkpoint; on a store, object by object."""
    if not storage.is_url(str(checkpoint)):
        checkpoint.rename(target)
        return
    names = storage.list_objects(str(checkpoint))
    with storage.opened(str(checkpoint)) as store:
        for name in names:
            store.cp_file(f"{checkpoint}/{name}", f"{target}/{name}")
    delete_checkpoint(checkpoint)


def finished_steps(directory: str | Path) -> list[int]:
    """Returns the steps of the finished checkpoints of a MODEL_DIR on a store, in order."""
    return sorted(_marked(storage.list_objects(str(directory))))


def fetch_model(place: str | Path) -> Path:
    """Returns the folder to read a model from: `place` on a disk; of a MODEL_DIR on a store the copy of its newest
    finished checkpoint, of a checkpoint its own, with what belongs to it; of another folder (Hugging Face, T5X) all.

    Raises InputError when nothing is there, or it is unfinished.
    """
    storage.check(place)
    if not storage.is_url(place):
        return Path(place)
    url = str(place).rstrip("/")
    parent, _, name = url.rpartition("/")
    if CHECKPOINT.fullmatch(name) and MODEL_FILES[0] in (objects := storage.list_objects(parent)):
        return _fetch_checkpoint(parent, name, objects)
    objects = storage.list_objects(url)
    if not objects:
        raise InputError(f"nothing lies in {url}; give a MODEL_DIR, one checkpoint_<step> in it, or a model's folder")
    if MODEL_FILES[0] not in objects:
        return storage.fetch(url)
    steps = _marked(objects)
    if not steps:
        raise InputError(
            f"no finished checkpoint in {url}: a finished one has {MARK}, which is written last; wait for the run, or "
            "put an empty one into a checkpoint that you have copied there and know to be whole"
        )
    return _fetch_checkpoint(url, f"checkpoint_{max(steps)}", objects)


def _marked(objects: Iterable[str]) -> set[int]:
    """Returns the steps of the finished checkpoints among objects of a MODEL_DIR."""
    names = (name.partition("/") for name in objects)
    return {int(match[1]) for name, _, rest in names if rest == MARK and (match := CHECKPOINT.fullmatch(name))}


def _fetch_checkpoint(url: str, checkpoint: str, objects: dict[str, storage.Object]) -> Path:
    if f"{checkpoint}/{MARK}" not in objects:
        finished = ", ".join(f"checkpoint_{step}" for step in sorted(_marked(objects))) or "none"
        raise InputError(f"{url}/{checkpoint} is unfinished: it has no {MARK}; finished in {url}: {finished}")
    beside = {*MODEL_FILES, *COPIED_TOO, f"evaluation/{checkpoint}/scores.json"} & objects.keys()
    storage.fetch(url, {name for name in objects if name.startswith(f"{checkpoint}/")} | beside)
    return storage.copy_of(url) / checkpoint


@functools.cache
def _name_s3() -> None:
    of_the_disk = tensorstore_utils.build_kvstore_tspec

    def build_kvstore_tspec(directory: str, name: str | None = None, **options: Any) -> dict[str, Any]:
        if not directory.startswith("s3:/"):
            return of_the_disk(directory, name, **options)
        spec = of_the_disk(f"/{directory.removeprefix('s3:').strip('/')}", name, **options)
        if spec["driver"] != "ocdbt":
            return _on_s3(spec["path"])
        spec.pop("manifest", None)  # of a disk: written in another way than the rest
        return spec | {"base": _on_s3(spec["base"]["path"])}

    tensorstore_utils.build_kvstore_tspec = build_kvstore_tspec


def _on_s3(path: str) -> dict[str, Any]:
    """Returns TensorStore's name for /BUCKET/NAME; endpoint, region and keys from where s3fs has them, too."""
    bucket, _, name = path.lstrip("/").partition("/")
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": name}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    elif region:
        spec["aws_region"] = region
    if os.environ.get("AWS_ACCESS_KEY_ID"):  # or TensorStore looks for files of keys first, and complains of each
        spec["aws_credentials"] = {"type": "environment"}
    return spec
