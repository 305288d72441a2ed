"""Places on object stores, s3://BUCKET/… and gs://BUCKET/…, through copies on this machine's disk.

Every program here reads and writes files. What it reads of a store is copied below `cache_root` first, each object once
while it stays what it is; what it writes is written there and then put on the store. Checkpoints of a run alone go
straight to the store, by Orbax (`checkpoints.object_store`).

A store has no rename, no append and no lock. An object is there whole or not at all, but a folder of several is there
in parts while it is written. So a folder counts as finished by one object of it (`MARKERS`: the manifest of a corpus or
token store, the state of a language, the scores of an evaluation): it is removed before anything else below its folder
changes, and put back when all else is there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from medmt5.environment import cache_folder
from medmt5.errors import InputError

# Scheme -> (package that speaks to the store, our extra that installs it)
STORES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
MARKERS = ("state.json", "scores.json", "manifest.json")  # in the order in which they are put
INDEX, LOCK = ".versions.json", ".lock"
AT_ONCE = 8  # objects on their way

# etils, by which Orbax opens paths, would load TensorFlow where it is installed. Read before its first path is opened.
os.environ.setdefault("EPATH_USE_TF", "false")


class Object(NamedTuple):
    """`version` changes with the content."""

    size: int
    version: str


def is_url(place: str | Path) -> bool:
    return str(place).startswith(tuple(f"{scheme}://" for scheme in STORES))


def check(place: str | Path) -> None:
    """Raises InputError for a place that nothing here can open: of another scheme, without a bucket or a name in it, or
    of a store whose library is not installed. Asks no server.
    """
    url = re.match(r"([A-Za-z][\w+.-]+):/", str(place))
    if url is None:
        return
    scheme = url[1]
    if scheme not in STORES or not re.fullmatch(rf"{scheme}://[^/]+/+[^/].*", str(place)):
        raise InputError(f"{place} is neither a path nor s3://BUCKET/NAME nor gs://BUCKET/NAME; give one of them")
    package, extra = STORES[scheme]
    if find_spec(package) is None:
        raise InputError(f"{place} needs {package}, which is not installed: pip install 'medmt5[{extra}]'")


def cache_root() -> Path:
    """Returns the folder of all copies, $MEDMT5_CACHE or ~/.cache/medmt5. It may be deleted whenever no run uses it."""
    return Path(os.environ.get("MEDMT5_CACHE") or cache_folder()).absolute()


def copy_of(url: str) -> Path:
    """Returns where the copy of a folder or file lies, whether it is there or not."""
    scheme, _, name = url.rstrip("/").partition("://")
    return cache_root() / "copies" / scheme / name


def origin(path: str | Path) -> str:
    """Returns the URL that a copy is of; any other path as it is."""
    copies = cache_root() / "copies"
    if not Path(path).is_relative_to(copies):
        return str(path)
    scheme, *names = Path(path).relative_to(copies).parts
    return f"{scheme}://{'/'.join(names)}"


@cache
def file_system(scheme: str) -> Any:
    """Returns fsspec's file system of a store."""
    import fsspec

    for protocol in ("s3", "gs", "gcs"):  # others write there too: what was listed before does not count
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem(scheme)


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """Yields the file system of a URL; turns whatever it raises into an InputError with the remedy."""
    try:
        yield file_system(url.partition("://")[0])
    except InputError:
        raise
    except Exception as error:  # botocore, aiohttp and google-auth raise their own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"{url}: {reason}; see that the bucket is there, that this machine may read and write it, and "
            "$AWS_ENDPOINT_URL where the store is not Amazon's"
        ) from error


def list_objects(url: str) -> dict[str, Object]:
    """Returns name below `url` -> object, of all that lie there; {} where nothing does."""
    check(url)
    url = url.rstrip("/")
    with opened(url) as store:
        try:
            found = store.find(url, detail=True)
        except FileNotFoundError:
            return {}
    start = url.partition("://")[2] + "/"
    objects = {
        name.removeprefix(start): _object(info)
        for name, info in found.items()
        if name.startswith(start) and not name.endswith("/")  # what consoles put there to show an empty folder
    }
    for name in objects:
        if {"", ".", ".."} & set(name.split("/")):
            raise InputError(f"{url}/{name} is no name of a file, and has no place in a copy; rename the object")
    return objects


def _object(info: Mapping[str, Any]) -> Object:
    return Object(info["size"], str(info.get("ETag") or info.get("etag")))  # as S3 and as GCS call it


def fetch(url: str, names: Collection[str] | None = None, sha256s: Mapping[str, str] | None = None) -> Path:
    """Returns the copy of a folder, brought up to date.

    Args:
      names: what is needed of it, in whatever state the rest is; None: everything, and what is not on the store any
        more goes.
      sha256s: name -> what its content must have.

    Raises:
      InputError: something is not there, is not what it must be, or does not fit on this disk.
    """
    folder = copy_of(url)
    with _held(folder):
        _fetch(url, folder, list_objects(url), names, sha256s or {})
    return folder


def fetch_file(place: str | Path) -> Path:
    """Returns a file: the copy of one on a store, or `place` itself on a disk."""
    check(place)
    if not is_url(place):
        return Path(place)
    url, _, name = str(place).rpartition("/")
    with opened(url) as store:
        try:
            there = {name: _object(store.info(str(place)))}
        except FileNotFoundError:
            raise InputError(f"{place} is not there") from None
    with _held(copy_of(url)):
        _fetch(url, copy_of(url), there, [name], {})
    return copy_of(url) / name


@contextmanager
def updated(place: str | Path) -> Iterator[Path]:
    """Yields the folder to write to: `place` on a disk; of a store its copy, whose changes are put there when the block
    ends without an error. One process at a time: two machines that do so in one place spoil each other's work.
    """
    check(place)
    if not is_url(place):
        yield Path(place)
        return
    url = str(place).rstrip("/")
    folder = copy_of(url)
    with _held(folder):
        _fetch(url, folder, list_objects(url), None, {})
        before = files_in(folder)
        yield folder
        after = files_in(folder)
        _replace(url, folder, {name for name in after if after[name] != before.get(name)}, before.keys() - after.keys())
        _write_index(folder, list_objects(url))


def publish(folder: Path) -> None:
    """Puts a finished folder below a copy where the copy is from; a folder of the disk alone stays as it is."""
    url = origin(folder)
    if is_url(url):
        _replace(url, folder, set(files_in(folder)), set())


def put(folder: Path, url: str, names: Iterable[str]) -> None:
    """Puts files below `folder` on the store, under their names, in any order."""
    with opened(url) as store, ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: store.put_file(str(folder / name), f"{url.rstrip('/')}/{name}"), names))


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns name -> (bytes, time of change) of what is finished below `folder`: hidden and .part files are not."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if not any(part.startswith(".") or part.endswith(".part") for part in name.parts) and path.is_file():
            stat = path.stat()
            found[name.as_posix()] = stat.st_size, stat.st_mtime_ns
    return found


def _replace(url: str, folder: Path, changed: set[str], gone: set[str]) -> None:
    if not changed | gone:
        return
    there = list_objects(url)
    markers = {name for name in there | files_in(folder) if name.rpartition("/")[2] in MARKERS}
    of_changed = [
        name
        for name in sorted(markers, key=_order)
        if any(other.startswith(name[: name.rfind("/") + 1]) for other in changed | gone)
    ]
    with opened(url) as store:
        for name in reversed(of_changed):
            if name in there:
                store.rm_file(f"{url}/{name}")
        put(folder, url, sorted(changed - markers))
        for name in gone & there.keys() - markers:
            store.rm_file(f"{url}/{name}")
        for name in of_changed:
            if (folder / name).is_file():
                put(folder, url, [name])


def _order(marker: str) -> tuple[int, int, str]:
    """A folder's marker comes before that of the folder that it lies in."""
    return MARKERS.index(marker.rpartition("/")[2]), -marker.count("/"), marker


def _fetch(
    url: str,
    folder: Path,
    there: Mapping[str, Object],
    names: Collection[str] | None,
    sha256s: Mapping[str, str],
) -> None:
    if missing := sorted(set(names or ()) - there.keys()):
        raise InputError(f"{url.rstrip('/')}/{missing[0]} is not there")
    if names is None:
        for name in files_in(folder).keys() - there.keys():
            (folder / name).unlink()
    index = _read_index(folder)
    wanted = {
        name: there[name]
        for name in (there if names is None else names)
        if index.get(name) != list(there[name]) or not (folder / name).is_file()
    }
    size, free = sum(thing.size for thing in wanted.values()), shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"the copy of {url} takes {size / 2**30:.2f} GiB, and {cache_root()} has {free / 2**30:.2f} GiB free; make "
            "room, or name a folder of another disk by $MEDMT5_CACHE"
        )

    def get(name: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        store.get_file(f"{url.rstrip('/')}/{name}", str(part))
        if name in sha256s:
            with part.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256s[name]:
                    raise InputError(
                        f"{url.rstrip('/')}/{name} is not what its manifest says (its sha256 differs): it is damaged, "
                        "or being written at this moment; make it again, or wait and start again"
                    )
        part.replace(path)

    with opened(url) as store, ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for name, _ in zip(wanted, pool.map(get, wanted), strict=True):
                index[name] = list(wanted[name])
        finally:
            _write_index(folder, {name: Object(*thing) for name, thing in index.items()})


def _read_index(folder: Path) -> dict[str, list]:
    try:
        return json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # everything is copied again


def _write_index(folder: Path, objects: Mapping[str, Object]) -> None:
    part = folder / f"{INDEX}.part"
    part.write_text(json.dumps(objects), encoding="utf-8")
    part.replace(folder / INDEX)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine from the copy meanwhile: the first one copies, the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
