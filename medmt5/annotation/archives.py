"""Files of a data set, from a folder or an archive alike; archives are read where they are, nothing goes to disk.

A path may go on inside an archive: `corpus.tar.gz/train/notes` is a folder and `corpus.zip/train.txt` a file in it, so
that a data set is named the same way whether or not somebody unpacked it.

An archive comes from elsewhere: links, devices, absolute and parent paths are refused, and so is one that grows beyond
the limits below, before it is in memory.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from medmt5.errors import InputError

MAX_MEMBER_BYTES = 256 << 20
MAX_TOTAL_BYTES = 1 << 30
MAX_MEMBERS = 100_000
ZIP, TAR = (".zip",), (".tar", ".tar.gz", ".tgz")
# What damaged archives raise, besides ValueError and OSError.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, struct.error, RuntimeError, OverflowError)


def read_members(path: str | os.PathLike, suffix: str | tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yields (name below `path`, content) of the files whose names end in `suffix`, sorted by name.

    Args:
      path: a folder, an archive (.tar, .tar.gz, .tgz, .zip), a folder or a file inside one, or another file, which is
        its own only member whatever its suffix.

    Raises:
      InputError: nothing there; a damaged archive; a link, a device, an absolute or parent path in it; a limit passed.
    """
    path = Path(path)
    if path.is_dir():
        yield from _read_folder(path, suffix)
        return
    file = next((parent for parent in (path, *path.parents) if parent.is_file()), None)
    if file is None:
        raise InputError(f"no file or folder {path}; check the path")
    if not file.name.lower().endswith((*ZIP, *TAR)):
        if file != path:
            raise InputError(f"no file {path}: {file} is neither a folder nor an archive (.zip, .tar, .tar.gz, .tgz)")
        _check_size(file.name, file.stat().st_size, file)
        yield file.name, file.read_bytes()
        return

    read = _read_zip if file.name.lower().endswith(ZIP) else _read_tar
    inside = path.relative_to(file).as_posix()
    try:
        found = list(read(file, inside, suffix))
    except InputError:
        raise
    except (*DAMAGE, OSError, ValueError) as error:
        raise InputError(f"{file} is damaged or no archive ({type(error).__name__}); get it again") from None
    if not found and inside != ".":
        raise InputError(f"{file} holds no {inside} with files that end in {' or '.join(_suffixes(suffix))}")
    yield from sorted(found, key=lambda member: member[0])


def _read_folder(folder: Path, suffix: str | tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    names = sorted(
        (Path(root) / name).relative_to(folder).as_posix()
        for root, _, files in os.walk(folder)
        for name in files
        if name.endswith(suffix)
    )
    for name in names:
        file = folder / name
        if file.is_file() and not _is_resource_fork(name):  # no pipe, which would wait for ever
            _check_size(name, file.stat().st_size, folder)
            yield name, file.read_bytes()


def _read_tar(file: Path, inside: str, suffix: str | tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    with file.open("rb") as packed:
        plain = file.name.lower().endswith(".tar")
        stream = _Limited(packed if plain else cast(BinaryIO, gzip.GzipFile(fileobj=packed)), file)
        # As a stream: one pass, and a header that points backwards is an error instead of a loop.
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for number, member in enumerate(archive):
                kind = "link" if member.issym() or member.islnk() else "device"
                _check_member(member.name, number, None if member.isreg() or member.isdir() else kind, file)
                _check_size(member.name, member.size, file)
                name = _name_below(inside, member.name)
                if name and member.isreg() and member.name.endswith(suffix):
                    yield name, cast(BinaryIO, archive.extractfile(member)).read()


def _read_zip(file: Path, inside: str, suffix: str | tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        total = 0
        for number, member in enumerate(archive.infolist()):
            mode = stat.S_IFMT(member.external_attr >> 16)
            kind = "link" if stat.S_ISLNK(mode) else "device"
            _check_member(member.filename, number, None if mode in (0, stat.S_IFREG, stat.S_IFDIR) else kind, file)
            _check_size(member.filename, member.file_size, file)
            total += member.file_size
            _check_total(total, file)
            if member.flag_bits & 1:
                raise InputError(f"{file} is encrypted; decrypt it first")
            name = _name_below(inside, member.filename)
            if name and not member.is_dir() and member.filename.endswith(suffix):
                yield name, archive.read(member)  # never more than the file_size that was checked


def _check_member(name: str, number: int, kind: str | None, file: Path) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if parts and (parts[0].startswith("/") or parts[0].endswith(":") or ".." in parts):
        raise InputError(f"{file}: members must lie inside the archive, but one is named {name!r}; do not trust it")
    if kind:
        raise InputError(f"{file}: members must be files and folders, but {name!r} is a {kind}; do not trust it")
    if number >= MAX_MEMBERS:
        raise InputError(f"{file}: an archive may hold {MAX_MEMBERS:,} members; unpack it and read the folder")


def _check_size(name: str, size: int, file: Path) -> None:
    if size > MAX_MEMBER_BYTES:
        raise InputError(f"{file}: {name!r} holds {size:,} bytes; a file may hold {MAX_MEMBER_BYTES:,}: divide it")


def _check_total(size: int, file: Path) -> None:
    if size > MAX_TOTAL_BYTES:
        raise InputError(
            f"{file}: an archive may grow to {MAX_TOTAL_BYTES:,} bytes; unpack it if you trust it, and read the folder"
        )


def _name_below(inside: str, name: str) -> str | None:
    """Returns the name below the folder `inside`, the file's own name if `inside` is this file, None elsewhere."""
    path = PurePosixPath(name)
    if _is_resource_fork(name):
        return None
    if path.as_posix() == inside:
        return path.name
    return path.relative_to(inside).as_posix() if path.is_relative_to(inside) or inside == "." else None


def _is_resource_fork(name: str) -> bool:
    """What macOS adds to archives and foreign file systems: `__MACOSX/._note.txt` holds no text."""
    path = PurePosixPath(name)
    return path.name.startswith("._") or "__MACOSX" in path.parts


def _suffixes(suffix: str | tuple[str, ...]) -> tuple[str, ...]:
    return (suffix,) if isinstance(suffix, str) else suffix


class _Limited(io.RawIOBase):
    """A stream that ends in InputError after MAX_TOTAL_BYTES: headers of a tar file can be bombs as well as files."""

    def __init__(self, stream: BinaryIO, file: Path):
        self._stream, self._file, self._total = stream, file, 0

    def read(self, size: int = -1) -> bytes:
        left = MAX_TOTAL_BYTES - self._total + 1
        data = self._stream.read(left if size < 0 else min(size, left))
        self._total += len(data)
        _check_total(self._total, self._file)
        return data
