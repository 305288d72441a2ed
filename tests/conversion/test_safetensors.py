"""A tensor comes back bit for bit, whole or in part; every damaged or foreign file is told as what it is."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest

from medmt5.conversion.safetensors import read_header, row_blocks, write_safetensors
from medmt5.conversion.weights import TensorInfo
from medmt5.errors import InputError


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.normal(size=(5, 4, 3)).astype(np.float32),
        "b": rng.normal(size=(7,)).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float16),
    }
    path = tmp_path / "model.safetensors"
    infos = {name: TensorInfo(t.shape, t.dtype.name) for name, t in tensors.items()}
    write_safetensors(path, infos, ((name, block) for name, t in tensors.items() for block in row_blocks(t, t.dtype)))
    return path, tensors


def test_what_was_written_is_read(file):
    path, tensors = file
    stored = read_header(path)
    assert list(stored) == list(tensors)
    for name, tensor in tensors.items():
        assert stored[name].read().tobytes() == tensor.tobytes()
    part = (slice(1, 4), slice(2, None), slice(0, 2))
    np.testing.assert_array_equal(stored["a"].read(part), tensors["a"][part])
    np.testing.assert_array_equal(stored["a"].read((slice(3, 3), slice(None), slice(None))), tensors["a"][3:3])


def test_the_library_of_that_name_reads_it_alike(file):
    library = pytest.importorskip("safetensors.numpy")
    path, tensors = file
    loaded = library.load_file(path)
    for name in ("a", "empty"):
        np.testing.assert_array_equal(loaded[name], tensors[name])


def test_blocks_of_a_transposed_array_are_its_rows():
    array = np.arange(12.0).reshape(3, 4).T
    assert b"".join(block.tobytes() for block in row_blocks(array, np.dtype(np.float32))) == (
        array.astype(np.float32).tobytes()
    )


def test_bytes_that_are_missing_are_noticed_while_writing(tmp_path):
    infos = {"a": TensorInfo((2, 2), "float32"), "b": TensorInfo((1,), "float32")}
    block = np.zeros((1, 2), np.float32)
    for blocks in ([("a", block)], [("a", block), ("b", block[0, :1])], [("a", block)] * 3, [("b", block)]):
        with pytest.raises(ValueError, match="bytes"):
            write_safetensors(tmp_path / "x", infos, blocks)


def with_header(header, data=bytes(16)):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
FAULTS = {
    "empty": (b"", "it is empty"),
    "html": (b"<!DOCTYPE html><html><body>Sign in</body></html>" * 9, "a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS pointer"),
    "pickle": (b"\x80\x02}q\x00X\x06\x00\x00\x00" * 9, "pickle"),
    "zip": (b"PK\x03\x04" + bytes(99), "pickle or a zip"),
    "json": (b'{"a": {"dtype": "F32"}}', "it is JSON"),
    "cut in data": (with_header({"a": ENTRY})[:-3], "cut short"),
    "cut in header": (with_header({"a": ENTRY})[:30], "cut short inside its header"),
    "bytes behind": (with_header({"a": ENTRY}) + b"x", "followed by bytes"),
    "no json": (with_header(b"{'a': 1}"), "is no safetensors file"),
    "list": (with_header([1, 2]), "not an object"),
    "twice": (with_header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{}}'), "twice"),
    "dtype": (with_header({"a": ENTRY | {"dtype": "I8"}}), "a has the dtype I8"),
    "shape": (with_header({"a": ENTRY | {"shape": [5]}}), "takes 20 bytes"),
    "negative": (with_header({"a": ENTRY | {"shape": [-4]}}), "malformed"),
    "no offsets": (with_header({"a": {"dtype": "F32", "shape": [4]}}), "malformed"),
    "overlap": (with_header({"a": ENTRY, "b": ENTRY}), "begins at byte"),
    "huge header": (struct.pack("<Q", 1 << 60) + b"{" + bytes(30), "is no safetensors file"),
}


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_header(path)


def test_a_file_that_shrinks_while_it_is_read_is_told(file):
    path, _ = file
    stored = read_header(path)
    os.truncate(path, stored["a"].offset + 8)
    with pytest.raises(InputError, match="ended while it was read"):
        stored["a"].read()
