import re

import pytest
from datatrove.data import Document

from medmt5 import languages
from medmt5.annotation.sentences import split_sentences
from medmt5.corpus.build import FILTERS
from medmt5.errors import InputError
from medmt5.languages import language as module

GOOD = """
code = "pt"
name = "Portuguese"
segmentation = "spaces"
sample = "O doente apresenta diabetes."
abbreviations = ["exmo", "sr"]
[quality]
stop_words = ["de", "que"]
min_words = 5
[[sources]]
name = "scielo"
format = "jsonl"
files = "pt/scielo/*.jsonl.gz"
licence = "CC-BY-4.0"
expected_words = 1_200_000
"""


@pytest.mark.parametrize("code", languages.codes())
def test_every_language_file_loads_and_its_sample_is_in_its_own_language(code):
    language = languages.load(code)
    words = re.findall(r"\w+", language.sample.lower())
    shares = {c: sum(w in languages.load(c).quality.stop_words for w in words) for c in languages.codes()}
    assert max(shares, key=shares.__getitem__) == code
    assert language.sources
    assert all(word == word.lower() for word in language.quality.stop_words)


def test_a_new_language_is_a_toml_file_and_thresholds_left_out_take_the_defaults():
    language = languages.parse(GOOD, "pt.toml")
    assert language.quality == languages.Quality(stop_words=frozenset({"de", "que"}), min_words=5)
    assert language.sources[0].expected_words == 1_200_000
    assert language.abbreviations == {"exmo", "sr"}


def test_words_are_runs_between_spaces_or_characters():
    assert languages.parse(GOOD, "pt.toml").count_words(" um\n dois ") == 2
    assert languages.parse(GOOD.replace('"spaces"', '"characters"'), "ja.toml").count_words("肺炎 です") == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'name = "Portuguese"',
            'name = "Portuguese"\ncolour = 1',
            r"pt\.toml: unknown keys colour; known are code, name, seg",
        ),
        ("min_words", "least_words", r"\[quality\]: unknown keys least_words; known are stop_words, min_words"),
        (
            "licence",
            "license",
            r"\[\[sources\]\] number 1: unknown keys license; known are name, format, files, licence",
        ),
        ('licence = "CC-BY-4.0"', "", r"number 1: missing keys licence"),
        ("min_words = 5", 'min_words = "5"', r"min_words must be of type int, not '5'"),
        ('"jsonl"', '"docx"', r"format must be one of medline_xml, .* not 'docx'"),
        ('"spaces"', '"none"', r"segmentation must be one of spaces, characters, not 'none'"),
        ("pt/scielo/*", "../other/*", r"below the data directory, not '\.\./other"),
        ("[[sources]]", "[sources]", r"pt\.toml: sources must be tables, each below a line \[\[sources\]\]"),
        ("[quality]", "[[quality]]", r"pt\.toml: quality must be a table, below a line \[quality\]"),
        ('["de", "que"]', '["de", 2]', r"stop_words must be a list of strings, not \['de', 2\]"),
        ('code = "pt"', "code = ", r"pt\.toml: not TOML: .*line 2"),
    ],
)
def test_a_fault_in_a_language_file_is_named_with_the_known_keys(old, new, message):
    with pytest.raises(InputError, match=message):
        languages.parse(GOOD.replace(old, new), "pt.toml")


def test_two_sources_of_one_name_are_refused():
    source = GOOD[GOOD.index("[[sources]]") :]
    with pytest.raises(InputError, match="different names; repeated: scielo"):
        languages.parse(GOOD + source, "pt.toml")


@pytest.mark.parametrize("code", languages.codes())
def test_the_sample_of_a_language_passes_its_own_filters(code):
    document = Document(text=languages.load(code).sample, id="sample")
    for step in FILTERS:
        assert step(languages.load(code)).filter(document)[0], step.__name__


@pytest.fixture
def extensions(tmp_path, monkeypatch):
    (tmp_path / "languages").mkdir()
    monkeypatch.setenv("MEDMT5_EXTENSIONS", str(tmp_path))
    yield tmp_path
    module.load.cache_clear()


def test_a_language_of_the_users_own_is_one_more(extensions):
    assert "pt" not in languages.codes()
    (extensions / "languages/pt.toml").write_text(GOOD, encoding="utf-8")
    assert languages.codes() == tuple(sorted(["pt", "en", "es", "fr", "it"]))
    assert languages.load("pt").name == "Portuguese"
    assert split_sentences("O Sr. Silva. Sim.", "pt") == [(0, 12), (13, 17)]


def test_an_unknown_language_lists_the_known_ones():
    with pytest.raises(InputError, match="no language 'de': known are en, es, "):
        languages.load("de")


def test_a_file_must_be_named_by_its_code(tmp_path, monkeypatch):
    (tmp_path / "xx.toml").write_text(GOOD, encoding="utf-8")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    with pytest.raises(InputError, match="code must be the file's name, 'xx', not 'pt'"):
        module.load.__wrapped__("xx")


def test_a_file_that_is_not_utf8_is_told(extensions):
    (extensions / "languages/pt.toml").write_bytes(GOOD.replace("Portuguese", "Português").encode("latin-1"))
    with pytest.raises(InputError, match=r"pt\.toml: not UTF-8"):
        languages.load("pt")
