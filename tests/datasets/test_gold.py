"""Gold against gold is 1.0 for every declared set, through spans, through ids and through text."""

import random

import pytest

from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import tags_to_spans, to_characters
from medmt5.annotation.tagged_text import encode_target, parse_target
from medmt5.datasets.declarations import DATASETS
from medmt5.datasets.raw_files import find_files
from medmt5.datasets.reading import read_split, splits_there
from medmt5.evaluation.comparison import compare_spans, count_kinds
from medmt5.evaluation.parsed_text import parse_tags
from medmt5.evaluation.partial_scores import score_ways
from medmt5.evaluation.results import Prediction
from medmt5.evaluation.span_scores import score_spans
from medmt5.evaluation.summary import summarize
from medmt5.sample.generate import write_sample

TASKS = [
    (dataset, lang, source)
    for dataset in DATASETS
    for lang in dataset.languages
    for source in ("invented", "real")
    if source == "invented" or not dataset.name.startswith("sample_")
]


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: f"{task[0].name}.{task[1]}-{task[2]}")
def test_set(request, tmp_path_factory, write_instance):
    """A declaration, one of its languages, and the examples of its last split: mostly the test. Of files that are
    invented in its format, which every set has, and of the real ones where they are.
    """
    dataset, lang, source = request.param
    if source == "real":
        folder = request.getfixturevalue("real_data") / "benchmarks"
    else:
        folder = tmp_path_factory.mktemp("invented")
        if dataset.name.startswith("sample_"):
            write_sample(folder, seed=0)
        else:
            write_instance(dataset, lang, folder)
    files = find_files(dataset, lang, folder)
    if not files.paths:
        pytest.skip(f"{dataset.name} is not among the real data")
    split = splits_there(dataset, files)[-1]
    return dataset, lang, list(read_split(dataset, lang, files, split, Repairs()))


def test_gold_against_gold_is_perfect(test_set, tokenizer):
    dataset, lang, examples = test_set
    predictions = []
    for example in examples:
        gold = tuple(example.word_spans)
        ids = encode_target(example.words, gold, tokenizer)
        predicted = tuple(parse_target(ids, tokenizer.encode_words(example.words), tokenizer))
        predictions.append(Prediction(example.id, lang, example.words, gold, predicted, 0.0, example.document))

    scores = summarize({"task": (predictions, dataset.labels)})
    num_spans = sum(len(example.spans) for example in examples)
    assert num_spans
    for one in (scores["all"], scores["tasks"]["task"], scores["languages"][lang], *scores["lengths"].values()):
        assert one["gold"] == one["predicted"] == one["correct"]
        if one["gold"]:
            ratios = [one, *one["labels"].values(), *one["ways"].values()]
            assert {ratio[key] for ratio in ratios for key in ("f1", "precision", "recall")} == {1.0}
        assert one["parsed_text"]["micro_f1"] == 1.0
        assert sum(kind["gold"] for name, kind in one["errors"].items() if name != "correct") == 0
    assert scores["all"]["gold"] == num_spans
    assert scores["all"]["parsed_text"]["macro_f1"] == 1.0
    assert scores["all"]["f1_interval"] == (1.0, 1.0)


def test_characters_and_words_as_offsets_score_a_changed_gold_alike(test_set):
    dataset, _, examples = test_set
    rng = random.Random(0)
    for example in examples:
        offsets, end = [], 0
        for word in example.words:
            start = example.text.index(word, end)
            end = start + len(word)
            offsets.append((start, end))
        gold = example.word_spans
        assert list(example.spans) == to_characters(gold, offsets)
        tags = [tag if rng.random() < 0.8 else rng.choice(("O", f"I-{dataset.labels[0]}")) for tag in example.tags]
        predicted = tags_to_spans(tags)
        in_characters = to_characters(predicted, offsets)
        assert score_spans([gold], [predicted]) == score_spans([example.spans], [in_characters])
        assert score_ways(gold, predicted) == score_ways(example.spans, in_characters)
        kinds = count_kinds(compare_spans(gold, predicted))
        assert kinds == count_kinds(compare_spans(example.spans, in_characters))


def test_words_of_the_set_look_like_no_tags(test_set):
    """So the published number equals the strict one wherever anything is there to be found."""
    dataset, _, examples = test_set
    for example in examples:
        assert len(parse_tags(" ".join(example.words), dataset.labels)) == len(example.words), example.id
