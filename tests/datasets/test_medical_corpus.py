"""The corpus as a SeqIO source: every document once, in one split, the same one for ever."""

import json

import pytest
import zstandard

from medmt5.datasets.medical_corpus import CorpusSource
from medmt5.errors import InputError


def write_corpus(folder, documents: int = 500, languages=("en",)):
    shards, by_language = [], {}
    for lang in languages:
        (folder / lang).mkdir(parents=True, exist_ok=True)
        name = f"{lang}/text-00000.jsonl.zst"
        with zstandard.open(folder / name, "wt", encoding="utf-8") as file:
            for i in range(documents):
                document = {
                    "id": f"text/{i}",
                    "text": f"Documento número {i}.",
                    "lang": lang,
                    "source": "text",
                    "meta": {},
                }
                file.write(json.dumps(document) + "\n")
        shards.append({"file": name, "documents": documents, "sha256": str(documents)})
        by_language[lang] = {"documents": documents, "words": 3 * documents, "sources": {}}
    manifest = {"format": 1, "documents": 0, "words": 0, "languages": by_language, "shards": shards, "absent": []}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    write_corpus(tmp_path)
    monkeypatch.setenv("MEDMT5_CORPUS_DIR", str(tmp_path))
    return tmp_path


def ids(split, **options):
    dataset = CorpusSource("en").get_dataset(split, **options)
    return [document["id"].decode() for document in dataset.as_numpy_iterator()]


def test_each_document_is_in_one_split_about_one_in_a_hundred_in_dev(corpus):
    train, dev = ids("train", shuffle=False), ids("dev", shuffle=False)
    assert sorted(train + dev) == sorted(f"text/{i}" for i in range(500))
    assert 1 <= len(dev) <= 12
    assert train == sorted(train, key=lambda name: int(name.split("/")[1])), "unshuffled, documents keep their order"
    assert sorted(ids("train", shuffle=True, seed=1)) == sorted(train) != train
    assert CorpusSource("en").num_input_examples("train") == 495
    assert CorpusSource("en").num_words() == 1500


def test_a_document_stays_in_its_split_when_the_corpus_grows(corpus):
    dev = ids("dev", shuffle=False)
    write_corpus(corpus, documents=700)
    assert [name for name in ids("dev", shuffle=False) if int(name.split("/")[1]) < 500] == dev


def test_the_digest_follows_the_shards_of_its_language_alone(corpus):
    before = CorpusSource("en").digest()
    write_corpus(corpus, languages=("en", "fr"))
    assert CorpusSource("en").digest() == before
    write_corpus(corpus, documents=501)
    assert CorpusSource("en").digest() != before


def test_no_folder_no_corpus_and_no_such_language_are_input_errors(corpus, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="has en, not fr; build it with medmt5 corpus --languages fr"):
        CorpusSource("fr").get_dataset("train")
    monkeypatch.setenv("MEDMT5_CORPUS_DIR", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="no corpus in"):
        CorpusSource("en").num_words()
    monkeypatch.delenv("MEDMT5_CORPUS_DIR")
    with pytest.raises(InputError, match="set MEDMT5_CORPUS_DIR"):
        CorpusSource("en").digest()
