import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.annotation.offsets import NEARBY_CHARS, Offsets

HOSTILE = st.text(st.sampled_from("ab1 .é\u0301\u200d\u05d0\u202e😀𝒜\u00a0\u2028\n"), max_size=30)


@st.composite
def mentions(draw):
    """A text, and (start, end) of a stretch of it that begins and ends with something visible."""
    before, mention, after = draw(HOSTILE), draw(HOSTILE), draw(HOSTILE)
    mention = f"x{mention}y"
    return before + mention + after, len(before), len(before) + len(mention)


@given(mentions())
def test_offsets_that_fit_their_copy_are_kept(drawn):
    text, start, end = drawn
    assert Offsets(text).place(((start, end),), text[start:end]) == (((start, end),), None)
    assert Offsets(text).place(((start, end),), None) == (((start, end),), None)


@given(mentions(), st.sampled_from(["utf-16-le", "utf-8"]))
def test_a_copy_tells_the_unit_of_the_offsets(drawn, encoding):
    text, start, end = drawn
    width = 2 if encoding == "utf-16-le" else 1
    given_start, given_end = (len(text[:i].encode(encoding)) // width for i in (start, end))
    pieces, _ = Offsets(text).place(((given_start, given_end),), text[start:end])
    # The same words may stand in two places; then either is what the copy says.
    assert pieces is not None
    assert [text[s:e].split() for s, e in pieces] == [text[start:end].split()]


@given(mentions())
def test_utf16_offsets_are_those_of_the_encoded_text(drawn):
    text, start, end = drawn
    units = [len(text[:i].encode("utf-16-le")) // 2 for i in (start, end)]
    assert Offsets(text).from_utf16(*units) == (((start, end),), None)


@pytest.mark.parametrize(("start", "end"), [(1, 3), (0, 1), (0, 9), (-1, 2), (2, 2), (4, 2)])
def test_utf16_offsets_inside_a_character_or_outside_the_text_are_no_place(start, end):
    assert Offsets("😀ab😀").from_utf16(start, end) == (None, "span with wrong offsets dropped")


def test_the_nearest_whole_words_win():
    text = "asthma, asthmatic, asthma and asthma"
    assert Offsets(text).place(((8, 14),), "asthma\nand") == (((19, 29),), "span moved to its text")
    assert Offsets(text).place(((9, 15),), "asthma") == (((0, 6),), "span moved to its text")


@pytest.mark.parametrize(("distance", "found"), [(NEARBY_CHARS, True), (NEARBY_CHARS + 1, False)])
def test_words_too_far_away_are_another_mention(distance, found):
    text = "." * 200 + "asthma" + "." * 200
    for start in (200 - distance, 200 + distance):
        placed = Offsets(text).place(((start, start + 6),), "asthma")
        assert placed.pieces == (((200, 206),) if found else None)


def test_the_edge_of_what_is_near_cuts_no_word():
    text = "x" + "asthma" + "." * (NEARBY_CHARS - 6)  # the nearest place begins inside a word
    assert Offsets(text).place(((NEARBY_CHARS + 1, NEARBY_CHARS + 7),), "asthma").pieces is None
    text = "." * NEARBY_CHARS + "as the asthmatic"
    assert Offsets(text).place(((0, 13),), "as the asthma").pieces is None


def test_pieces_move_together_or_not_at_all():
    offsets = Offsets("😀 breast and ovarian cancer")
    assert offsets.place(((3, 9), (22, 28)), "breast cancer") == (
        ((2, 8), (21, 27)),
        "offsets in UTF-16 units converted",
    )
    assert offsets.place(((4, 9), (22, 28)), "breast cancer") == (None, "span with wrong offsets dropped")


def test_long_spans_with_short_copies_take_linear_time():
    offsets = Offsets("é" * 200_000)
    for _ in range(5000):
        assert offsets.place(((0, 200_000),), "é").pieces is None
