"""All readers on damaged files, and on documents that say the same in every format."""

import re
from html import escape
from itertools import pairwise
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from medmt5.annotation.example import LabelledExample
from medmt5.annotation.labels import LABELS
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span, tags_to_spans, to_characters, to_words
from medmt5.annotation.words import split_words
from medmt5.datasets.reading import READERS
from medmt5.errors import InputError

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DOCUMENT_FORMATS = sorted(READERS.keys() - {"conll"})

TEXT = "Niño with asthma 😀 and “severe” fever. Dr. Ruiz saw no cancer; 5 < 7 & more."
SPANS = [
    Span(TEXT.index(mention), TEXT.index(mention) + len(mention), label)
    for mention, label in [
        ("asthma", "Disease"),
        ("severe” fever", "Disease"),
        ("Dr. Ruiz", "Drug"),
        ("cancer", "Drug"),
    ]
]


def utf16(text, offset):
    return len(text[:offset].encode("utf-16-le")) // 2


def write(format, folder, text, spans, id="7"):
    """Writes one document in a format; returns the path to read. A span may have a copy of its text besides."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = [(*span, text[max(0, span[0]) : max(0, span[1])] if len(span) == 3 else span[3])[:4] for span in spans]
    if format == "brat":
        (folder / f"{id}.txt").write_bytes(text.encode())
        lines = [f"T{i}\t{label} {start} {end}\t{copy}\n" for i, (start, end, label, copy) in enumerate(copies)]
        (folder / f"{id}.ann").write_bytes("".join(lines).encode())
        return folder
    if format == "pubtator":
        lines = [f"{id}\t{start}\t{end}\t{copy}\t{label}\tD1\n" for start, end, label, copy in copies]
        (folder / "corpus.txt").write_bytes(f"{id}|t|{text}\n{''.join(lines)}\n".encode())
        return folder / "corpus.txt"
    if format == "bioc":
        annotations = [
            f"<annotation id='0'><infon key='type'>{label}</infon><location offset='{start}' length='{end - start}'/>"
            f"<text>{escape(copy)}</text></annotation>\n"
            for start, end, label, copy in copies
        ]
        passage = f"<passage><offset>0</offset>\n<text>{escape(text)}</text>\n{''.join(annotations)}</passage>\n"
        document = f"<document><id>{id}</id>\n{passage}</document>\n"
        (folder / "corpus.xml").write_bytes(f"<collection><source/>\n{document}</collection>\n".encode())
        return folder / "corpus.xml"
    if format == "xmi":
        elements = [
            f'<c:{label} begin="{utf16(text, start) if 0 <= start <= len(text) else start}" '
            f'end="{utf16(text, end) if 0 <= end <= len(text) else end}"/>\n'
            for start, end, label, _ in copies
        ]
        sofa = f"<cas:Sofa sofaString={quoteattr(text)}/>\n"
        names = 'xmlns:xmi="http://www.omg.org/XMI" xmlns:cas="http:///uima/cas.ecore" xmlns:c="http:///c.ecore"'
        content = f"<xmi:XMI {names}>\n{sofa}{''.join(elements)}</xmi:XMI>\n"
        (folder / f"{id}.xml").write_bytes(content.encode())
        return folder
    if format == "inline_tags":
        tags = [(start, 1, -end, f"<{label}>") for start, end, label, _ in copies]
        tags += [(end, 0, -start, f"</{label}>") for start, end, label, _ in copies]
        parts, position = [], 0
        for place, _, _, tag in sorted(tags):
            parts += [text[position:place].replace("&", "&amp;").replace("<", "&lt;"), tag]
            position = place
        (folder / f"{id}.txt").write_bytes("".join([*parts, text[position:].replace("&", "&amp;")]).encode())
        return folder
    raise AssertionError(format)


def write_conll(folder):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "Niño O",
        "with O",
        "asthma B-Disease",
        "😀 O",
        "",
        "“severe B-Disease",
        "fever I-Disease",
        "cancer I-Drug",
    ]
    (folder / "corpus.conll").write_bytes("\n".join([*lines, ""]).encode())
    return folder / "corpus.conll"


def check(examples, repairs):
    """Asserts what every example keeps to, however damaged its file was."""
    assert len({example.id for example in examples}) == len(examples)
    for example in examples:
        assert example.words
        assert all(example.words)
        assert len(example.words) == len(example.tags)
        spans = tags_to_spans(example.tags)
        assert all(0 <= start < end <= len(example.text) for start, end, _ in example.spans)
        assert [label for *_, label in example.spans] == [label for *_, label in spans]
        found = [example.text[start:end].split() for start, end, _ in example.spans]
        if example.text == " ".join(example.words):
            assert found == [" ".join(example.words[start:end]).split() for start, end, _ in spans]
        else:
            offsets = split_words(example.text)
            assert tuple(example.text[start:end] for start, end in offsets) == example.words
            assert to_characters(spans, offsets) == list(example.spans)
    assert all(count > 0 and repairs.places[kind] for kind, count in repairs.counts.items())


def num_kept(examples):
    return sum(len(example.spans) for example in examples)


def num_dropped(repairs):
    return sum(count for kind, count in repairs.counts.items() if re.search(r"\bspan\b.*\bdropped$", kind))


@st.composite
def damages(draw, content):
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "delete", "insert", "truncate", "repeat", "recode", "ends", "shuffle"])):
            case "flip" if content:
                content[place] = draw(st.integers(0, 255))
            case "delete":
                del content[place : place + draw(st.integers(1, 40))]
            case "insert":
                content[place:place] = draw(
                    st.binary(min_size=1, max_size=6)
                    | st.sampled_from(
                        [b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\t", b"\n\n", b"&#0;", b"<!--", b"9" * 30]
                    )
                )
            case "truncate":
                del content[place:]
            case "repeat":
                lines = content.split(b"\n")
                number = draw(st.integers(0, len(lines) - 1))
                lines[number:number] = [lines[number]] * draw(st.integers(1, 3))
                content = bytearray(b"\n".join(lines))
            case "recode":
                content = bytearray(
                    content.decode("utf-8", "ignore").encode(draw(st.sampled_from(["cp1252", "utf-16"])), "ignore")
                )
            case "ends":
                content = content.replace(b"\n", b"\r\n")
            case "shuffle":
                lines = draw(st.permutations(content.split(b"\n")))
                content = bytearray(b"\n".join(lines))
    return bytes(content)


@pytest.mark.parametrize("format", READERS)
@settings(RELAXED, max_examples=150)
@given(data=st.data())
def test_a_damaged_file_gives_examples_or_an_input_error(tmp_path, format, data):
    path = write_conll(tmp_path) if format == "conll" else write(format, tmp_path, TEXT, SPANS)
    file = data.draw(st.sampled_from(sorted(path.iterdir()))) if path.is_dir() else path
    file.write_bytes(data.draw(damages(file.read_bytes())))
    repairs = Repairs()
    try:
        examples = list(READERS[format](path, "es", None, repairs))
    except InputError:
        return
    check(examples, repairs)


@pytest.mark.parametrize("format", DOCUMENT_FORMATS)
def test_a_whole_file_gives_all_spans_and_no_repair(tmp_path, format):
    repairs = Repairs()
    examples = list(READERS[format](write(format, tmp_path, TEXT, SPANS), "es", None, repairs))
    check(examples, repairs)
    assert sorted(e.text[s:t] for e in examples for s, t, _ in e.spans) == sorted(TEXT[s:t] for s, t, _ in SPANS)
    assert not repairs.counts


# Letters with accents, marks, joiners, right-to-left, astral, spaces of all kinds and signs that end sentences.
HOSTILE = st.text(
    st.sampled_from("abA1 .!?é\u0301\u200d\u200b\u05d0\u05d1\u0627\u202e\u200f😀𝒜\u00a0\u2009\u2028\u0085%-&<"),
    max_size=40,
)


@st.composite
def labelled_texts(draw):
    """A text, and word spans of it as character spans."""
    text = draw(HOSTILE.filter(split_words))
    offsets = split_words(text)
    cuts = draw(st.lists(st.integers(0, len(offsets)), max_size=8, unique=True).map(sorted))
    pairs = [pair for pair in pairwise(cuts) if draw(st.booleans())]
    return text, to_characters([Span(s, e, draw(st.sampled_from(LABELS))) for s, e in pairs], offsets)


@settings(RELAXED)
@given(labelled=labelled_texts(), lang=st.sampled_from(["en", "es", "fr", "it"]))
def test_one_document_gives_the_same_examples_in_every_format_and_no_span_is_lost(tmp_path, labelled, lang):
    text, spans = labelled
    by_format = {}
    for format in DOCUMENT_FORMATS:
        repairs = Repairs()
        path = write(format, tmp_path / format, text, spans)
        by_format[format] = list(READERS[format](path, lang, None, repairs))
        check(by_format[format], repairs)
        assert not repairs.counts.keys() - {"sentences joined by a span"}
    examples = by_format["brat"]
    by_line = by_format.pop("inline_tags")  # whose lines are its sentences
    assert [(e.words, e.tags) for e in joined(by_line)] == [(e.words, e.tags) for e in joined(examples)]
    assert all(other == examples for other in by_format.values())

    # Every word and every span of the text is there, in order, at the place that it has in the text.
    position, words, found = 0, [], []
    for example in examples:
        start = text.index(example.text, position)
        position = start + len(example.text)
        words += [(start + s, start + e) for s, e in split_words(example.text)]
        found += [Span(start + s, start + e, label) for s, e, label in example.spans]
    assert words == split_words(text)
    assert found == spans


def joined(examples):
    words, tags = (sum((getattr(e, name) for e in examples), ()) for name in ("words", "tags"))
    return [LabelledExample.from_words("", "en", words, tags)]


@st.composite
def bad_spans(draw):
    start = draw(st.integers(-3, len(TEXT) + 9))
    end = start + draw(st.integers(-2, 30))
    copy = draw(st.sampled_from(["asthma", "fever", "nowhere", "no cancer", "", TEXT[max(0, start) : max(0, end)]]))
    return start, end, draw(st.sampled_from(["Disease", "Drug"])), copy.strip()


@pytest.mark.parametrize("format", ["bioc", "brat", "pubtator", "xmi"])
@RELAXED
@given(spans=st.lists(bad_spans(), max_size=12))
def test_every_annotation_is_a_span_or_counted_as_dropped(tmp_path, format, spans):
    if format in ("brat", "pubtator"):  # a minus is no offset there, and what holds one no annotation
        spans = [span for span in spans if span[0] >= 0 and span[1] >= 0]
    repairs = Repairs()
    examples = list(READERS[format](write(format, tmp_path, TEXT, spans), "es", None, repairs))
    check(examples, repairs)
    assert num_kept(examples) + num_dropped(repairs) == len(spans)


@RELAXED
@given(
    parts=st.lists(st.sampled_from(["<Disease>", "</Disease>", "<Drug>", "</Drug>", "asthma", " ", ". ", "\n", "<x>"]))
)
def test_every_opening_tag_is_a_span_or_counted_as_dropped(tmp_path, parts):
    (tmp_path / "7.txt").write_text("".join(parts) + "end")
    repairs = Repairs()
    examples = list(READERS["inline_tags"](tmp_path, "en", None, repairs))
    check(examples, repairs)
    opening, closing = (sum(part.startswith(sign) for part in parts) for sign in ("<D", "</D"))
    assert num_kept(examples) + num_dropped(repairs) == opening
    unclosed = repairs.counts["span that is never closed dropped"]
    assert closing - repairs.counts["closing tag without an opening one left out"] == opening - unclosed


@RELAXED
@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(["asthma", "a b", "", "é\u0301", "\u200d", "\u2028"]),
            st.sampled_from(["O", "B-Disease", "I-Disease", "I-Drug", "S-Drug", "E-Disease"]),
        )
    )
)
def test_every_line_of_conll_is_words_or_counted_and_its_spans_are_those_of_seqeval(tmp_path, lines):
    (tmp_path / "f.conll").write_text(
        "".join(f"{word}\t{tag}\n" for word, tag in [("x", "O"), *lines]), encoding="utf-8"
    )
    repairs = Repairs()
    [example] = READERS["conll"](tmp_path / "f.conll", "en", None, repairs)
    check([example], repairs)
    kept = [(word.split(" "), tag) for word, tag in lines if word]
    assert list(example.words) == ["x", *(word for words, _ in kept for word in words)]
    assert repairs.counts["tag without a word dropped"] == len(lines) - len(kept)
    entities = get_entities([tag for _, tag in kept])
    assert [label for *_, label in example.word_spans] == [label for label, *_ in entities]
    assert repairs.counts["span that begins with I- (IOB1)"] == sum(
        kept[start][1][0] == "I" for _, start, _ in entities
    )


@RELAXED
@given(
    st.lists(st.text(st.characters(exclude_characters=" "), min_size=1, max_size=4), min_size=1, max_size=8), st.data()
)
def test_words_and_tags_survive_the_way_through_text_and_spans(words, data):
    """Of any words, the tagged ones of CoNLL included, which `split_words` would cut otherwise."""
    tags = data.draw(
        st.lists(st.sampled_from(["O", "B-Disease", "I-Disease", "B-Drug"]), min_size=len(words), max_size=len(words))
    )
    example = LabelledExample.from_words("1", "en", words, tags)
    assert example.text.split(" ") == words
    ends = [len(" ".join(words[: i + 1])) for i in range(len(words))]
    offsets = [(end - len(word), end) for word, end in zip(words, ends, strict=True)]
    assert to_words(example.spans, offsets) == (tags_to_spans(tags), [])
