import io

from medmt5.corpus import text
from medmt5.corpus.document import Dropped, RawDocument


def test_a_text_file_is_one_document_with_its_name():
    assert list(text.read_text(io.BytesIO("né\n\n\nb".encode()), "a/b.txt", "fr")) == [
        RawDocument("a/b.txt", "né\n\n\nb")
    ]


def test_empty_and_undecodable_files_are_counted():
    assert list(text.read_text(io.BytesIO(b" \n"), "a.txt", "fr")) == [Dropped("no_text")]
    assert list(text.read_text(io.BytesIO(b"n\xe9"), "a.txt", "fr")) == [Dropped("not_utf8")]


def test_lines_are_documents_and_each_bad_line_is_counted_alone():
    lines = [
        b'{"id": "x", "lang": "fr", "source": "S", "text": "a", "n": 1}',
        b"",
        b'{"text": "b"}',
        b'{"text": "c", "lang": "it"}',
        b'{"text": 3}',
        b'{"text": "  "}',
        b"[1]",
        b'{"text": "cut',
        b'{"text": "\xff"}',
        b"[" * 100_000,
    ]
    assert list(text.read_jsonl(io.BytesIO(b"\n".join(lines)), "a.jsonl", "fr")) == [
        RawDocument("x", "a", {"source": "S"}),
        RawDocument("a.jsonl:3", "b"),
        Dropped("other_language"),
        *[Dropped("no_text")] * 3,
        *[Dropped("bad_json")] * 3,
    ]
