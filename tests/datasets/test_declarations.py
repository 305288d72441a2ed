"""Declarations are consistent with each other and with the labels there are; a faulty one is told by file and rule."""

import doctest
import re
from collections import Counter

import pytest

from medmt5 import languages
from medmt5.datasets import declarations, splits
from medmt5.datasets.declarations import DATASETS, VARIANTS, find
from medmt5.datasets.declarations.declaration import FORMATS, UNITS, parse
from medmt5.datasets.reading import READERS
from medmt5.errors import InputError

ALL = (*DATASETS, *VARIANTS)


def test_no_task_is_declared_twice():
    tasks = Counter(f"{dataset.name}.{lang}" for dataset in ALL for lang in dataset.languages)
    assert max(tasks.values()) == 1


@pytest.mark.parametrize("dataset", ALL, ids=lambda dataset: dataset.name)
def test_a_declaration_is_whole(dataset):
    assert set(dataset.languages) <= set(languages.codes())
    assert all((dataset.licence, dataset.citation, dataset.homepage, dataset.get))
    for lang in dataset.languages:
        for form in dataset.forms_of(lang):
            first = [form.places(part, lang)[0] for part in dataset.parts]
            assert len(set(first)) == len(first) or form.listed
    assert set(dataset.scored_with) <= {other.name for other in DATASETS}
    assert not dataset.variant_of or find(dataset.variant_of) in DATASETS


@pytest.mark.parametrize("dataset", ALL, ids=lambda dataset: dataset.name)
def test_what_was_published_is_of_its_languages_parts_and_labels(dataset):
    assert set(dataset.published) <= set(dataset.languages)
    for parts in dataset.published.values():
        assert set(parts) <= set(dataset.parts)
        assert all(set(counts) <= {*UNITS, *dataset.labels} for counts in parts.values())
    for difference in dataset.differences:
        published = dataset.published[difference.lang][difference.part]
        assert difference.changes.keys() <= published.keys()
        assert difference.times > 0
    for (lang, part), documents in dataset.documents.items():
        assert len(documents) == len(dict(documents)) == dataset.published[lang][part]["documents"]
        assert sum(dict(documents).values()) == dataset.published[lang][part]["sentences"]


@pytest.mark.parametrize("dataset", ALL, ids=lambda dataset: dataset.name)
def test_downloads_are_pinned_and_go_to_places_that_are_read(dataset):
    places = {
        str(place)
        for lang in dataset.languages
        for form in dataset.forms
        for part in dataset.parts
        for place in form.places(part, lang)
    }
    for download in dataset.downloads:
        assert re.fullmatch(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/(.+/)?", download.url)
        for name, sha256 in download.sha256.items():
            assert re.fullmatch(r"[0-9a-f]{64}", sha256)
            assert any(place.startswith(download.folder + name) for place in places)


def test_every_set_with_a_test_has_a_clean_variant_and_only_those():
    clean = {dataset.variant_of for dataset in VARIANTS if dataset.clean}
    assert clean == {d.name for d in DATASETS if {"train", "test"} <= set(d.parts)} | {"e3c_silver"}
    assert all(find(f"{name}_clean").splits == find(name).splits for name in clean)


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(InputError, match="no data set 'e3d'; did you mean e3c"):
        find("e3d")
    with pytest.raises(InputError, match=r"no data set 'e3c.en'; did you mean e3c\?"):
        find("e3c.en")


def test_the_formats_are_those_that_are_read():
    assert set(FORMATS) == set(READERS)


GOOD = """
name = "toy"
version = "1.0.0"
languages = ["en"]
labels = ["Disease"]
licence = "ours"
homepage = "https://example.org"
citation = "none"
get = "write it"
[label_map]
dis = "Disease"
other = ""
[[forms]]
format = "conll"
[forms.files]
train = "toy/train.tsv"
test = ["toy/{language}.tsv", "toy.zip/{Language}.tsv"]
"""


def test_a_declaration_is_read_as_written(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(GOOD, encoding="utf-8")
    dataset = parse(path)
    assert dataset.label_map == {"dis": "Disease", "other": None}
    assert [str(place) for place in dataset.forms[0].places("test", "en")] == ["toy/english.tsv", "toy.zip/English.tsv"]
    assert dataset.splits == dataset.parts == ("train", "test")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "toy"', 'name = "other"', "name must be the file's name, 'toy'"),
        ('licence = "ours"', "", "missing keys licence"),
        ('licence = "ours"', 'licence = "ours"\nlicense = "ours"', "unknown keys license"),
        ('dis = "Disease"', 'dis = "Drug"', "label_map must map to the labels Disease"),
        ('"toy/train.tsv"', '"../train.tsv"', "files must lie below the data directory"),
        ('"toy/train.tsv"', '"/train.tsv"', "files must lie below the data directory"),
        ("train =", "training =", "every form must have the same parts"),
        ('get = "write it"', 'get = "write it"\ndev_share = 0.1\n', None),
        ("test = [", "dev = [", None),
        ("[label_map]", "[label_map", "not TOML"),
        ('"toy/train.tsv"', '"toy/{lng}.tsv"', "braces in a place of files must be one of {lang}"),
        ('"toy/train.tsv"', '"toy/{lang.tsv"', "braces in a place of files must be one of {lang}"),
        ('"toy/train.tsv"', "3", "files must be a table of strings"),
        ('"conll"', '"conl"', "there is no format 'conl'; it must be one of bioc, brat, conll"),
        ("[[forms]]", "[forms]", "forms must be tables, each below a line [[forms]]"),
        ('["en"]', '"en"', "languages must be a list of strings, not 'en'"),
        ('["en"]', '["en", "en"]', "languages must have at least one code, and each once"),
        ('["en"]', '["xx"]', "no language 'xx'"),
        ('["Disease"]', '["Diseas"]', "unknown label 'Diseas'"),
        ('"1.0.0"', '"one"', "version must be three numbers"),
        ('get = "write it"', 'get = "write it"\nclean = true', "unknown keys clean"),
        ('get = "write it"', 'get = "write it"\ndocuments = "none.tsv"', "documents must name a table"),
        ("[label_map]", "[published.en.trian]\nsentences = 3\n[label_map]", "there is no part en.trian"),
        ("[label_map]", "[published.en.train]\nsentence = 3\n[label_map]", "nothing counts sentence; known are"),
        ("[label_map]", '[published.en.train]\nwords = "3"\n[label_map]', "en.train must be a table of whole numbers"),
        (
            "[label_map]",
            '[[downloads]]\nurl = "https://x/"\nfolder = "../"\n[downloads.sha256]\na = "0"\n[label_map]',
            "files must lie below the data directory",
        ),
    ],
)
def test_a_faulty_declaration_is_an_input_error(tmp_path, old, new, message):
    path = tmp_path / "toy.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    if message is None:
        parse(path)
        return
    with pytest.raises(InputError, match=re.escape(message)) as told:
        parse(path)
    assert str(told.value).startswith(f"{path}: ")


def test_a_declaration_that_is_not_utf8_is_an_input_error(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_bytes(GOOD.encode() + b"# \xe9\n")
    with pytest.raises(InputError, match="not TOML"):
        parse(path)


def test_examples_in_docstrings():
    assert doctest.testmod(declarations).failed == 0
    assert doctest.testmod(splits).failed == 0
