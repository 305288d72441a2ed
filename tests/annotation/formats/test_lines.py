import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmt5.annotation.formats.lines import decode, read_lines, split_lines
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError


@settings(deadline=None)
@given(st.text(), st.sampled_from([b"", b"\xe9", b"\xc3", b"\x81"]))
def test_valid_text_is_never_changed_and_a_byte_is_a_character(text, byte):
    repairs = Repairs()
    decoded = decode(text.encode() + byte, "f", repairs)
    assert decoded[: len(text)] == text
    assert len(decoded) == len(text) + len(byte)
    assert sum(repairs.counts.values()) == len(byte)


@pytest.mark.parametrize(
    ("data", "text", "repair"),
    [
        ("niño 38 °C".encode("latin-1"), "niño 38 °C", "invalid UTF-8 read as CP1252"),
        ("“così”".encode("cp1252"), "“così”", "invalid UTF-8 read as CP1252"),
        ("année – âgée".encode("cp1252") + "été".encode(), "année – âgéeété", "invalid UTF-8 read as CP1252"),
        (b"\xc3 la", "\ufffd la", "invalid UTF-8 replaced"),
        (b"a\xed\xa0\x80", "aí\xa0€", "invalid UTF-8 read as CP1252"),  # a surrogate, which no text may hold
    ],
)
def test_bytes_of_cp1252_are_read_and_the_rest_of_utf8_is_replaced(data, text, repair):
    repairs = Repairs()
    assert decode(data, "f", repairs, 7) == text
    assert repairs.counts == {repair: 1}
    assert repairs.places[repair] == ["f:7"]


def test_only_line_feeds_end_lines(tmp_path):
    (tmp_path / "f").write_bytes("\ufeffa\u2028b\x85\rc\r\n\nd".encode())
    assert list(read_lines(tmp_path / "f", Repairs())) == [(1, "a\u2028b\x85\rc"), (2, ""), (3, "d")]


def test_line_ends_of_old_macs_are_read_and_counted(tmp_path):
    (tmp_path / "f").write_bytes(b"a O\rb O\r\rc O\r")
    repairs = Repairs()
    assert list(read_lines(tmp_path / "f", repairs)) == [(1, "a O"), (2, "b O"), (3, ""), (4, "c O"), (5, "")]
    assert repairs.counts == {"line ends of old Macs read": 1}
    (tmp_path / "f").write_bytes(b"one line\r")
    assert list(read_lines(tmp_path / "f", Repairs())) == [(1, "one line")]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_told_and_not_read_as_something_else(tmp_path, encoding):
    (tmp_path / "f").write_bytes("\ufeffasma\tO\n".encode(encoding))
    with pytest.raises(InputError, match="f: text must be UTF-8, but this is UTF-16"):
        list(read_lines(tmp_path / "f", Repairs()))


def test_a_carriage_return_that_ends_no_line_is_counted():
    repairs = Repairs()
    assert [text for _, text in split_lines(b"a\rb\nc\r\nd", "file", repairs)] == ["a\rb", "c", "d"]
    assert repairs.to_json() == {"carriage return inside a line": {"count": 1, "first": ["file:1"]}}
