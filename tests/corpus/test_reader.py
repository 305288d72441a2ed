import bz2
import gzip
import json
import lzma

import pytest
import zstandard

from medmt5 import languages
from medmt5.corpus.document import clean
from medmt5.corpus.reader import FORMATS, Reader
from medmt5.errors import InputError

COMPRESS = {
    "jsonl": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress
}  # fmt: skip
LINE = b'{"id": "1", "text": "A fever."}\n'


def read(directory, name, format="jsonl"):
    reader = Reader(directory, [name], format, "en", lambda: None)
    return list(reader()), reader


def test_every_format_a_language_may_name_has_a_reader():
    assert set(FORMATS) == set(languages.FORMATS)


@pytest.mark.parametrize("extension", COMPRESS)
def test_compressed_files_are_read_as_plain_ones(tmp_path, extension):
    (tmp_path / f"a.{extension}").write_bytes(COMPRESS[extension](LINE))
    (document,), _ = read(tmp_path, f"a.{extension}")
    assert (document.id, document.text) == ("1", "A fever.")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst"])
def test_parts_packed_one_after_another_are_all_read(tmp_path, name):
    compress = COMPRESS[name.rpartition(".")[2]]
    (tmp_path / name).write_bytes(compress(LINE * 3) + compress(LINE * 2))
    assert len(read(tmp_path, name)[0]) == 5


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"not compressed"])
def test_a_damaged_archive_is_an_input_error_that_names_it(tmp_path, name, damage):
    (tmp_path / name).write_bytes(
        damage(COMPRESS[name.rpartition(".")[2]](json.dumps({"text": "x" * 50}).encode() + LINE * 500))
    )
    with pytest.raises(InputError, match=rf"{name}: cannot be read, damaged or cut off"):
        read(tmp_path, name)


@pytest.mark.parametrize("format", ["medline_xml", "mediawiki_xml"])
@pytest.mark.parametrize(("xml", "line"), [("<a>\n<b>\n</a>", 3), ("", 1), ("<a>\n", 2)])
def test_broken_xml_is_an_input_error_with_the_line(tmp_path, format, xml, line):
    (tmp_path / "a.xml").write_text(xml, encoding="utf-8")
    with pytest.raises(InputError, match=rf"a\.xml:{line}: not well-formed XML"):
        read(tmp_path, "a.xml", format)


def test_entries_without_a_document_are_counted_by_reason(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINE + b"{\n" + b'{"text": "\\u0000\\ufeff"}\n' + LINE)
    documents, reader = read(tmp_path, "a.jsonl")
    assert len(documents) == 2
    assert reader.stats["dropped_bad_json"].total == reader.stats["dropped_no_text"].total == 1


def test_control_characters_and_lone_surrogates_go_and_decomposed_accents_stay():
    assert clean("a\x00b\x0bc\x85d\r\ne\ud800f\tg e\u0301 \n") == "ab\nc\nd\nef\tg e\u0301"
