"""scores.json: parts add up to the whole, gold against gold is perfect, words and characters give the same numbers."""

import json
import random
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmt5.annotation.spans import tags_to_spans, to_characters
from medmt5.annotation.words import split_words
from medmt5.evaluation.comparison import compare_spans, count_kinds
from medmt5.evaluation.partial_scores import score_ways
from medmt5.evaluation.resampling import bootstrap_f1
from medmt5.evaluation.results import Prediction, write_scores
from medmt5.evaluation.span_scores import Scores, score_spans
from medmt5.evaluation.summary import LENGTHS, summarize

TAGS = ("O", "O", "O", "B-Drug", "I-Drug", "B-Disease", "I-Disease")
LABELS = ("Disease", "Drug")
SECTIONS = ("tasks", "languages", "lengths")


def random_prediction(rng, number, lang):
    num_words = rng.choice((3, 10, 11, 20, 25, 30, 31, 50, 51, 80))
    gold = rng.choices(TAGS, k=num_words)
    predicted = [tag if rng.random() < 0.8 else rng.choice(TAGS) for tag in gold]
    spans = (tuple(tags_to_spans(tags)) for tags in (gold, predicted))
    return Prediction(f"s{number}", lang, ("word",) * num_words, *spans, 0.0, f"d{number // 4}")


@pytest.fixture
def predictions():
    rng = random.Random(0)
    return {
        task: [random_prediction(rng, number, lang) for number in range(60)]
        for task, lang in (("one.en", "en"), ("two.en", "en"), ("one.es", "es"))
    }


@pytest.fixture
def scores(predictions):
    return summarize({task: (some, LABELS) for task, some in predictions.items()})


def test_every_section_adds_up_to_all(scores):
    for section in SECTIONS:
        parts = scores[section].values()
        assert sum(map(Scores.from_json, parts), Scores()) == Scores.from_json(scores["all"])
        for key, by in (("ways", ("correct", "gold", "predicted")), ("errors", ("gold", "predicted"))):
            for name, whole in scores["all"][key].items():
                assert {k: sum(part[key][name][k] for part in parts) for k in by} == {k: whole[k] for k in by}
    assert list(scores["lengths"]) == list(LENGTHS)
    assert list(scores["tasks"]) == ["one.en", "two.en", "one.es"]


def test_scores_agree_with_each_other(scores):
    for one in (scores["all"], *(part for section in SECTIONS for part in scores[section].values())):
        assert sum(kind["gold"] for kind in one["errors"].values()) == one["gold"]
        assert sum(kind["predicted"] for kind in one["errors"].values()) == one["predicted"]
        assert one["errors"]["correct"] == {"gold": one["correct"], "predicted": one["correct"]}
        assert one["ways"]["strict"] == {key: one[key] for key in one["ways"]["strict"]}
        assert one["parsed_text"]["micro_f1"] == one["f1"]
        assert one["parsed_text"]["macro_f1"] == pytest.approx(np.mean([lab["f1"] for lab in one["labels"].values()]))
        for interval, f1 in [(one["f1_interval"], one["f1"])] + [
            (label["f1_interval"], label["f1"]) for label in one["labels"].values()
        ]:
            assert 0 < interval[0] < f1 < interval[1] < 1


def test_lengths_are_told_by_words(predictions, scores):
    assert [scores["lengths"][name]["sentences"] for name in LENGTHS] == [
        sum(low < len(p.words) <= high for some in predictions.values() for p in some)
        for low, high in ((0, 10), (10, 20), (20, 30), (30, 50), (50, 1000))
    ]


def test_documents_of_a_task_are_what_is_drawn(predictions, scores):
    counts = []
    for some in predictions.values():
        for document in range(15):
            total = score_spans(
                *zip(*((p.gold, p.predicted) for p in some if p.document == f"d{document}"), strict=True)
            ).total
            counts.append((total.gold, total.predicted, total.correct))
    assert scores["all"]["documents"] == len(counts) == 45
    assert scores["all"]["f1_interval"] == bootstrap_f1(np.array(counts)[:, None])[0]


def test_every_task_weighs_the_same_in_the_mean(predictions, scores):
    tasks = scores["tasks"].values()
    assert scores["mean"]["strict"] == pytest.approx(sum(one["f1"] for one in tasks) / 3)
    assert scores["mean"]["published"] == pytest.approx(sum(one["parsed_text"]["micro_f1"] for one in tasks) / 3)
    empty = Prediction("1", "en", ("a",), (), (), 0.0, "1")  # has no F1, and 1.0 as published
    more = summarize({task: (some, LABELS) for task, some in {**predictions, "three.en": [empty]}.items()})
    assert more["mean"]["strict"] == scores["mean"]["strict"]
    assert more["mean"]["published"] == pytest.approx((3 * scores["mean"]["published"] + 1) / 4)


def test_tasks_whose_sentences_count_as_documents_are_named(predictions, scores):
    assert scores["bootstrap"]["sentences_as_documents"] == []
    alone = [replace(p, document=p.id) for p in predictions["one.es"]]
    mixed = summarize({"one.en": (predictions["one.en"], LABELS), "one.es": (alone, LABELS)})
    assert mixed["bootstrap"]["sentences_as_documents"] == ["one.es"]


def test_nothing_predicted_nothing_there_and_no_sentence_at_all_can_be_written(tmp_path):
    sentence = Prediction("1", "en", ("a",), (), (), 0.0, "1")
    for predictions in ([], [sentence], [sentence, sentence]):
        scores = summarize({"task": (predictions, LABELS)})
        assert (scores["all"]["f1"], scores["all"]["f1_interval"]) == (None, None)
        assert scores["all"]["parsed_text"] == {"micro_f1": 1.0, "macro_f1": None}
        write_scores(tmp_path / "scores.json", scores)
        assert json.loads((tmp_path / "scores.json").read_text())["all"]["sentences"] == len(predictions)


TEXTS = st.text(st.sampled_from("ab1é\u0301\u00a0\u200b ,(\U0001f600\n"), max_size=30)


@given(TEXTS, st.randoms(use_true_random=False))
def test_characters_as_offsets_give_the_same_scores_as_words(text, rng):
    offsets = split_words(text)
    words = [tags_to_spans(rng.choices(TAGS, k=len(offsets))) for _ in range(2)]
    characters = [to_characters(spans, offsets) for spans in words]
    assert score_spans(*[[side] for side in words]) == score_spans(*[[side] for side in characters])
    assert score_ways(*words) == score_ways(*characters)
    assert count_kinds(compare_spans(*words)) == count_kinds(compare_spans(*characters))


def test_words_joined_by_spaces_have_the_same_scores_too():
    rng = random.Random(1)
    for _ in range(100):
        words = rng.choices(("a", "bb", "ccc"), k=9)
        offsets = [
            (end - len(word), end) for word, end in zip(words, accumulate(len(w) + 1 for w in words), strict=True)
        ]
        gold, predicted = (tags_to_spans(rng.choices(TAGS, k=9)) for _ in range(2))
        assert count_kinds(compare_spans(gold, predicted)) == count_kinds(
            compare_spans(to_characters(gold, offsets), to_characters(predicted, offsets))
        )
