"""Evaluation over token stores: what is scored, written and printed. A stand-in for the model knows the gold spans."""

import json
from types import SimpleNamespace

import pytest

from medmt5 import evaluate
from medmt5.annotation.example import LabelledExample
from medmt5.annotation.tagged_text import encode_input, encode_target
from medmt5.errors import InputError
from medmt5.evaluation.results import read_predictions
from medmt5.labelling import Labelled, ScoredSpan
from medmt5.tokenizer import Tokenizer
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import StoreWriter

SECRET = "nefritis"
EXAMPLES = [
    LabelledExample.from_words(f"s{n}", lang, ["no", SECRET, "today"], ["O", "B-Disease", "O"], f"note {n // 2}")
    for lang in ("es", "fr")
    for n in range(6)
]


@pytest.fixture
def stores(tmp_path, tokenizer):
    """TOKEN_STORE with a task of all splits in Spanish and one of a test split only in French."""
    for task, splits in (("set.es", ("train", "dev", "test")), ("set.fr", ("test",))):
        for split in splits:
            directory = tmp_path / "tokens" / task / split
            with StoreWriter(directory, task=task, split=split, objective="pairs", tokenizer=tokenizer) as writer:
                for example in EXAMPLES:
                    if example.lang == task[-2:]:
                        inputs = encode_input(example.words, ["Disease"], tokenizer)
                        targets = encode_target(example.words, example.word_spans, tokenizer)
                        writer.write({"inputs": inputs, "targets": targets}, example)
    Mixture("both", (("set.es", 1.0), ("set.fr", 1.0))).write(tmp_path / "tokens")
    return tmp_path / "tokens"


@pytest.fixture(autouse=True)
def labeller(monkeypatch, tokenizer):
    class KnowsGold:
        def __init__(self, model, **decoding):
            assert model.step == 7

        def label(self, sentences, labels):
            assert labels == ("Disease",)
            known = {example.words: tuple(example.word_spans) for example in EXAMPLES}
            return [
                Labelled(tuple(ScoredSpan(span, 1.0, 1.0) for span in known[tuple(words)]), -0.5, 1, ())
                for words in sentences
            ]

    monkeypatch.setattr(evaluate, "Labeller", KnowsGold)
    monkeypatch.setattr(
        evaluate,
        "load_trained_model",
        lambda path: SimpleNamespace(tokenizer=tokenizer, checkpoint=path / "checkpoint_7", step=7),
    )


def test_gold_is_perfect_in_every_score_and_documents_are_kept(stores, tmp_path, capsys):
    scores = evaluate.evaluate(tmp_path / "run", "both", stores)
    folder = tmp_path / "run/evaluation/checkpoint_7"
    assert json.loads((folder / "scores.json").read_text()) == json.loads(json.dumps(scores))
    assert (scores["step"], scores["split"]) == (7, "test")
    assert {one["f1"] for one in (scores["all"], *scores["tasks"].values(), *scores["languages"].values())} == {1.0}
    assert scores["all"]["documents"] == 6
    assert scores["tasks"]["set.fr"]["f1_interval"] == (1.0, 1.0)
    assert [p.document for p in read_predictions(folder / "set.fr.test.jsonl")] == [f"note {n // 2}" for n in range(6)]
    shown = capsys.readouterr()
    assert "1.000 [1.000, 1.000]" in shown.out
    assert "published" in shown.out
    assert SECRET not in shown.out + shown.err


def test_a_task_with_a_test_split_only_is_scored_alone_and_left_out_by_name_elsewhere(stores, tmp_path, capsys):
    assert set(evaluate.evaluate(tmp_path / "run", "set.fr", stores)["tasks"]) == {"set.fr"}
    assert set(evaluate.evaluate(tmp_path / "run", "both", stores, split="dev")["tasks"]) == {"set.es"}
    assert "without a dev split, so not scored: set.fr" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"no task of set\.fr has a split 'dev'"):
        evaluate.evaluate(tmp_path / "run", "set.fr", stores, split="dev")


def test_a_task_without_any_store_is_an_error_not_left_out(stores, tmp_path):
    Mixture("more", (("set.es", 1.0), ("set.it", 1.0))).write(stores)
    with pytest.raises(InputError, match=r"no token store at .*set\.it"):
        evaluate.evaluate(tmp_path / "run", "more", stores)


def test_a_model_without_label_tokens_is_asked_for_the_labels_of_the_store(stores, tmp_path, monkeypatch, tokenizer):
    plain = Tokenizer(tokenizer.model_file, labels=())
    model = SimpleNamespace(tokenizer=plain, checkpoint=tmp_path / "run/checkpoint_7", step=7)
    monkeypatch.setattr(evaluate, "load_trained_model", lambda path: model)
    assert evaluate.evaluate(tmp_path / "run", "set.fr", stores)["all"]["f1"] == 1.0
