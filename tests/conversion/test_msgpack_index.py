"""The index of a T5X checkpoint, foreign or damaged: one error, or none, and never another."""

import contextlib
import itertools

import msgpack
import pytest

from medmt5.conversion import msgpack_index
from medmt5.errors import InputError


def test_any_damaged_byte_is_one_error_or_none(tmp_path):
    index, array = tmp_path / "checkpoint", msgpack.ExtType(1, msgpack.packb(((3,), "float32", bytes(12))))
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 6}, "chunks": {"0": array, "1": array}}
    tree = {"step": 3, "chunked": chunked, "inline": array, "spec": {"shape": [2, 3], "null": None}}
    whole = msgpack.packb(tree)
    index.write_bytes(whole)
    assert msgpack_index.read_index(index)["step"] == 3
    assert len(whole) < 300
    for at, value in itertools.product(range(len(whole)), (0x81, 0xC9)):
        index.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
        with contextlib.suppress(InputError):  # any other exception fails
            msgpack_index.read_index(index)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x81\xa1a" * 40 + b"\xc0", "more than 32 levels"),
        (b"\x81\xa1a\xdf\xff\xff\xff\xff", "ends too early"),
        (b"\x81\xa1a\xdb\x00\x10\x00\x00", "a name of 1048576 bytes"),
        (b"\x82\xa1a\xc0\xa1a\xc0", "is twice"),
        (b"\x81\xa1a\xc1", "no msgpack"),
        (b"\x80\x00", "goes on behind its end"),
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((3,), "float32", b"1234")))}), "12 belong there"),
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(((3,), "object", b"1234")))}), "only numbers are read"),
    ],
)
def test_foreign_msgpack(tmp_path, content, message):
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(InputError, match=message):
        msgpack_index.read_index(tmp_path / "checkpoint")
