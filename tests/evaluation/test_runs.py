"""What runs tell: the test of a difference, and several seeds together."""

import dataclasses
import random
import statistics

import pytest

from medmt5.annotation.spans import tags_to_spans
from medmt5.evaluation.results import Prediction, write_predictions, write_scores
from medmt5.evaluation.runs import Run, compare_runs, seeds_rows
from medmt5.evaluation.summary import summarize

TAGS = ("O", "O", "O", "B-Drug", "I-Drug")


def sentences(seed, quality, lang):
    gold_rng, rng = random.Random(lang), random.Random(seed)
    for number in range(80):
        gold = gold_rng.choices(TAGS, k=12)
        predicted = [tag if rng.random() < quality else rng.choice(TAGS) for tag in gold]
        spans = (tuple(tags_to_spans(tags)) for tags in (gold, predicted))
        yield Prediction(f"s{number}", lang, ("word",) * 12, *spans, 0.0, f"d{number // 2}")


@pytest.fixture
def make_run(tmp_path):
    def make(number, seed, quality, langs=("en", "es"), model="a"):
        folder = tmp_path / f"run{number}/evaluation/checkpoint_1"
        tasks = {f"task.{lang}": (list(sentences(seed, quality, lang)), ("Drug",)) for lang in langs}
        for task, (predictions, _) in tasks.items():
            write_predictions(folder / f"{task}.test.jsonl", predictions)
        write_scores(folder / "scores.json", {"step": 1, "split": "test"} | summarize(tasks))
        return Run(number, str(number), tmp_path / f"run{number}", model)

    return make


def test_a_better_run_differs_in_every_language_and_equal_runs_in_none(make_run):
    first, same, better = make_run(0, 0, 0.7), make_run(1, 0, 0.7), make_run(2, 1, 0.95)
    assert [(d.difference.f1, d.difference.p) for d in compare_runs(first, same)] == [(0.0, 1.0)] * 3
    differences = compare_runs(first, better)
    assert [(d.second, d.language, d.documents) for d in differences] == [
        (better, "en", 40),
        (better, "es", 40),
        (better, "all", 80),
    ]
    f1 = {run: {lang: s["f1"] for lang, s in run.scores["languages"].items()} for run in (first, better)}
    for d in differences:
        if d.language != "all":
            assert d.difference.f1 == pytest.approx(f1[better][d.language] - f1[first][d.language])
        assert d.difference.p < 0.01
        assert d.difference.interval[0] > 0


def test_other_sentences_or_other_gold_spans_are_not_compared(make_run, tmp_path):
    first = make_run(0, 0, 0.7)
    assert compare_runs(first, make_run(1, 0, 0.7, langs=("en",))) == []
    other = make_run(2, 0, 0.7)
    file = tmp_path / "run2/evaluation/checkpoint_1/task.en.test.jsonl"
    changed = [dataclasses.replace(p, gold=p.gold[1:]) for p in other.predictions.values() if p.lang == "en"]
    write_predictions(file, changed)
    assert compare_runs(first, Run(3, "3", tmp_path / "run2", "a")) == []
    assert compare_runs(Run(4, "4", tmp_path / "nothing", "a"), first) == []


def test_predictions_are_those_that_the_scores_are_of(make_run, tmp_path):
    run = make_run(0, 0, 0.7)
    folder = tmp_path / "run0/evaluation/checkpoint_1"
    (folder / "task.en.test.jsonl").rename(folder / "task.en.dev.jsonl")
    assert {task for task, _ in run.predictions} == {"task.es"}


def test_seeds_have_mean_sample_deviation_and_number(make_run):
    runs = [make_run(number, number, 0.8, model="a") for number in range(3)] + [make_run(3, 9, 0.9, model="b")]
    rows = seeds_rows([runs[:3], runs[3:]])
    assert [(row.group, row.label) for row in rows] == [("en", "Drug"), ("es", "Drug"), ("all", "Drug")]
    f1 = [run.scores["languages"]["es"]["f1"] for run in runs]
    (mean, deviation, count), other = rows[1].values
    assert (mean, deviation, count) == (
        pytest.approx(statistics.mean(f1[:3])),
        pytest.approx(statistics.stdev(f1[:3])),
        3,
    )
    assert other == (pytest.approx(f1[3]), None, 1)
