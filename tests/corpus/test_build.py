import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from medmt5.corpus import build
from medmt5.corpus.build import build_corpus
from medmt5.corpus.store import corpus_languages, read_corpus, read_manifest
from medmt5.errors import InputError
from medmt5.sample.generate import write_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    directory = tmp_path_factory.mktemp("raw") / "data"
    write_sample(directory)
    return directory


@pytest.fixture(scope="module")
def corpus(sample, tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    build_corpus(sample, directory, ["it", "en"])
    return directory


@pytest.fixture
def notes(tmp_path):
    """A data directory with three notes in French."""
    folder = tmp_path / "data" / "fr" / "text"
    folder.mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.txt").write_text(
            f"Note {i} : " + "la fièvre du patient est dans le dossier " * 3, encoding="utf-8"
        )
    return tmp_path / "data"


def times(corpus):
    return {path.name: path.stat().st_mtime_ns for path in corpus.glob("*/*.zst")}


def test_the_manifest_counts_what_the_shards_hold(corpus):
    manifest = read_manifest(corpus)
    assert corpus_languages(corpus) == ("en", "it")
    counts, words = Counter(), Counter()
    for lang in corpus_languages(corpus):
        for document in read_corpus(corpus, lang):
            assert list(document) == ["id", "text", "lang", "source", "meta"]
            assert document["lang"] == lang
            counts[lang, document["source"]] += 1
            words[lang, document["source"]] += len(document["text"].split())
    told = {(lang, name): s for lang, v in manifest["languages"].items() for name, s in v["sources"].items()}
    assert counts == {key: source["documents"] for key, source in told.items()}
    assert words == {key: source["words"] for key, source in told.items()}
    assert manifest["documents"] == counts.total()
    assert manifest["words"] == sum(language["words"] for language in manifest["languages"].values())
    for shard in manifest["shards"]:
        assert hashlib.sha256((corpus / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]


def test_ids_are_unique_in_a_source(corpus):
    for lang in corpus_languages(corpus):
        ids = Counter((d["source"], d["id"]) for d in read_corpus(corpus, lang))
        assert max(ids.values()) == 1


def test_what_is_awkward_in_the_sample_is_dropped_by_its_reason_and_only_that(corpus):
    sources = read_manifest(corpus)["languages"]["it"]["sources"]
    assert sources["text"]["dropped"] == {
        "duplicate": 2, "no_text": 1, "not_letters": 1, "repeated_lines": 1, "too_short": 1,
    }  # fmt: skip
    assert sources["wikipedia"]["dropped"] == {"not_an_article": 1, "redirect": 1}
    assert set(sources["pubmed"]["dropped"]) == {"other_language"}


def test_an_italian_abstract_of_an_english_article_is_in_the_italian_corpus(corpus):
    own = {f"pubmed:{pmid}" for pmid in range(30_030_000, 30_030_220)}
    from_english = [d for d in read_corpus(corpus, "it") if d["source"] == "pubmed" and d["id"] not in own]
    assert len(from_english) > 10


def test_no_markup_and_no_control_character_is_left(corpus):
    for document in read_corpus(corpus, "en"):
        assert not set(document["text"]) & {"\x00", "\x0b", "\r"}
        if document["source"] == "wikipedia":
            assert not any(mark in document["text"] for mark in ("[[", "{{", "{|", "'''", "<ref", "Category:", "thumb"))


def test_absent_sources_are_listed_and_no_source_at_all_names_the_globs(corpus, tmp_path):
    assert read_manifest(corpus)["languages"]["it"]["absent"] == ["e3c"]
    with pytest.raises(InputError, match=r"no raw text in .*: looked for .*fr/text/\*\.txt"):
        build_corpus(tmp_path, tmp_path / "out", ["fr"])


def test_two_processes_write_the_same_bytes_as_one(sample, corpus, tmp_path):
    manifest = build_corpus(sample, tmp_path, ["en", "it"], workers=2)
    assert manifest == read_manifest(corpus)


def test_a_second_build_keeps_what_is_finished_and_changed_inputs_build_anew(notes, tmp_path):
    out = tmp_path / "out"
    first, before = build_corpus(notes, out, ["fr"]), None
    before = times(out)
    assert build_corpus(notes, out, ["fr"]) == first
    assert times(out) == before
    changed = notes / "fr/text/0.txt"
    os.utime(changed, ns=(1, 1))
    build_corpus(notes, out, ["fr"])
    assert times(out) != before
    changed.unlink()
    assert build_corpus(notes, out, ["fr"])["documents"] == first["documents"] - 1
    assert len(list(read_corpus(out, "fr"))) == first["documents"] - 1


def test_changed_settings_build_anew_and_leave_no_stale_shard(sample, tmp_path):
    build_corpus(sample, tmp_path, ["fr"], sources=["text", "wikipedia"])
    manifest = build_corpus(sample, tmp_path, ["fr"], sources=["text"])
    assert sorted(p.name for p in tmp_path.glob("fr/*.zst")) == ["text-00000.jsonl.zst"]
    assert set(manifest["languages"]["fr"]["sources"]) == {"text"}


def test_a_killed_build_starts_the_language_again(notes, tmp_path, monkeypatch):
    out = tmp_path / "out"
    expected = build_corpus(notes, tmp_path / "undisturbed", ["fr"])
    with monkeypatch.context() as patch:
        patch.setattr(build, "_sha256", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_corpus(notes, out, ["fr"])
    assert list(out.glob("fr/*.zst"))
    assert not (out / "fr" / "state.json").exists()
    assert build_corpus(notes, out, ["fr"]) == expected


def test_inputs_that_change_during_a_build_make_the_next_one_start_anew(notes, tmp_path, monkeypatch):
    out, changed = tmp_path / "out", notes / "fr/text/0.txt"
    with monkeypatch.context() as patch:
        patch.setattr(build, "_sha256", lambda path: changed.write_text("Court.", encoding="utf-8"))
        assert build_corpus(notes, out, ["fr"])["documents"] == 3
    assert build_corpus(notes, out, ["fr"])["documents"] == 2


def test_a_language_built_later_joins_the_manifest(sample, tmp_path):
    build_corpus(sample, tmp_path, ["fr"], sources=["text"])
    manifest = build_corpus(sample, tmp_path, ["es"], sources=["text"])
    assert list(manifest["languages"]) == ["es", "fr"]
    assert manifest["documents"] == sum(len(list(read_corpus(tmp_path, lang))) for lang in ("es", "fr"))


def test_reading_a_source_ends_when_its_words_are_enough(sample, tmp_path):
    manifest = build_corpus(sample, tmp_path, ["es"], sources=["wikipedia", "text"], max_words_per_source=500)
    assert all(500 <= source["words"] < 1000 for source in manifest["languages"]["es"]["sources"].values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"language_codes": ["de"]}, "no language 'de'"),
        ({"language_codes": []}, "needs a language: en, es"),
        ({"language_codes": ["fr"], "sources": ["web"]}, "unknown sources web; known are clinicaltrials, e3c"),
        ({"language_codes": ["fr"], "max_words_per_source": 0}, r"max_words_per_source \(0\)"),
        ({"language_codes": ["fr"], "workers": 0}, r"workers \(0\) must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(notes, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        build_corpus(notes, tmp_path / "out", **arguments)


def test_damaged_input_stops_the_build_in_another_process_too(notes, tmp_path):
    for lang in ("fr", "it"):
        (notes / lang / "wikipedia").mkdir(parents=True)
        (notes / lang / "wikipedia" / "a.xml").write_text("<a>\n<b></a>", encoding="utf-8")
    with pytest.raises(InputError, match=r"wikipedia/a\.xml:2: not well-formed XML"):
        build_corpus(notes, tmp_path / "out", ["fr", "it"], workers=2)


def test_nothing_is_printed(notes, tmp_path):
    program = (
        f"from medmt5.corpus.build import build_corpus; build_corpus({str(notes)!r}, {str(tmp_path / 'out')!r}, ['fr'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: (c / "manifest.json").unlink(), "has no manifest.json"),
        (lambda c: (c / "manifest.json").write_text("{", encoding="utf-8"), "not JSON"),
        (lambda c: (c / "manifest.json").write_text('{"format": 9}', encoding="utf-8"), "format must be 1, not 9"),
        (lambda c: (c / "fr/text-00000.jsonl.zst").write_bytes(b"nothing"), "cannot be read"),
        (lambda c: (c / "fr/text-00000.jsonl.zst").unlink(), "cannot be read"),
    ],
)
def test_a_damaged_corpus_is_an_input_error(notes, tmp_path, damage, message):
    out = tmp_path / "out"
    build_corpus(notes, out, ["fr"])
    damage(out)
    with pytest.raises(InputError, match=message):
        list(read_corpus(out, "fr"))


def test_a_language_that_the_corpus_lacks_is_named(corpus):
    with pytest.raises(InputError, match=r"no language 'fr' in the corpus .*: it has en, it"):
        list(read_corpus(corpus, "fr"))


def test_real_files_are_read(tmp_path, real_data):
    raw, data = real_data / "raw_samples", tmp_path / "data"
    for target, pattern in [
        ("en/pubmed", "medline/*.xml"), ("en/pubmed", "pubmed/*.xml"), ("en/wikipedia", "wikipedia/enwiki*"),
        ("it/wikipedia", "wikipedia/itwiki*"), ("pretraining", "../pretraining/e3c_layer3_es*"),
    ]:  # fmt: skip
        (data / target).mkdir(parents=True, exist_ok=True)
        for path in raw.glob(pattern):
            (data / target / path.name).symlink_to(path.resolve())
    manifest = build_corpus(data, tmp_path / "out", ["en", "es", "it"], max_words_per_source=100_000)
    words = {(lang, s): v["words"] for lang, x in manifest["languages"].items() for s, v in x["sources"].items()}
    assert words["en", "pubmed"] > 20_000
    assert min(words["en", "wikipedia"], words["it", "wikipedia"], words["es", "e3c"]) >= 100_000
    assert json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")) == manifest
    e3c = manifest["languages"]["es"]["sources"]["e3c"]
    assert e3c["words"] <= e3c["expected_words"] == 1_034_198
