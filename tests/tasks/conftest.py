"""Raw files of a labelled set, a small corpus and a vocabulary, set as the environment variables that tasks read."""

import json

import pytest
import zstandard

SENTENCES = {
    "en": ["The patient has severe asthma .", "No fever today ."],
    "es": ["El niño tiene asma grave .", "Sin fiebre hoy ."],
}


@pytest.fixture
def environment(tmp_path, monkeypatch, tokenizer):
    """Data of sample_diseases.{en,es}, 3, 2 and 2 sentences in train, dev and test; 300 documents of corpus in each."""
    monkeypatch.setenv("MEDMT5_DATA_DIR", str(tmp_path / "raw"))
    monkeypatch.setenv("MEDMT5_CORPUS_DIR", str(tmp_path / "corpus"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("MEDMT5_VOCABULARY", str(tokenizer.model_file))
    shards, languages = [], {}
    for lang, sentences in SENTENCES.items():
        folder = tmp_path / "raw/sample_diseases" / lang
        folder.mkdir(parents=True)
        for split, count in [("train", 3), ("dev", 2), ("test", 2)]:
            blocks = [
                "\n".join(f"{w}\t{'B-Disease' if w in ('asthma', 'asma') else 'O'}" for w in sentences[i % 2].split())
                for i in range(count)
            ]
            (folder / f"{split}.conll").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
        (tmp_path / "corpus" / lang).mkdir(parents=True)
        name = f"{lang}/text-00000.jsonl.zst"
        with zstandard.open(tmp_path / "corpus" / name, "wt", encoding="utf-8") as file:
            for i in range(300):
                text = " ".join(sentences) + f" {i}"
                file.write(json.dumps({"id": f"{i}", "text": text, "lang": lang, "source": "text", "meta": {}}) + "\n")
        shards.append({"file": name, "documents": 300, "sha256": lang})
        languages[lang] = {"documents": 300, "words": 3000, "sources": {}}
    manifest = {"format": 1, "languages": languages, "shards": shards, "absent": []}
    (tmp_path / "corpus/manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path
