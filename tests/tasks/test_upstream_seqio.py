"""The same tasks through upstream SeqIO: the examples of the token store, cached or not, converted, and scored."""

import numpy as np
import pytest
import seqio

from medmt5.annotation.spans import Span
from medmt5.annotation.tagged_text import encode_target
from medmt5.cli import main
from medmt5.evaluation.results import Prediction
from medmt5.evaluation.summary import summarize
from medmt5.tasks.caching import build_mixture
from medmt5.tasks.seqio_cache import write_caches
from medmt5.tasks.span_metrics import entity_f1, to_spans
from medmt5.tokens import loader
from medmt5.tokens.store import TokenStore

LENGTHS = {"inputs": 64, "targets": 64}
TASKS = ["sample_diseases.en", "sample_diseases.es"]


def ids_of(examples):
    return [{name: example[name].tolist() for name in ("inputs", "targets")} for example in examples]


@pytest.fixture
def caches(environment):
    """SeqIO's caches of the labelled tasks and of text, found by SeqIO, forgotten afterwards."""
    folder = environment / "caches"
    names = [*TASKS, "medical_corpus.es"]
    for name in names:
        write_caches(name, folder)
    before = seqio.utils.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(folder)])
    yield folder
    seqio.set_global_cache_dirs(before)
    for name in names:
        seqio.TaskRegistry.get(name)._cache_dir = None


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_a_labelled_task_gives_the_examples_of_its_token_store(environment, tokenizer, caches, name, cached):
    build_mixture(name, environment / "tokens", tokenizer)
    for split in ("train", "dev", "test"):
        store = TokenStore(environment / "tokens" / name / split)
        task = seqio.get_mixture_or_task(name)
        examples = list(task.get_dataset(LENGTHS, split, shuffle=False, use_cached=cached).as_numpy_iterator())
        assert ids_of(examples) == ids_of(store[i] for i in range(len(store)))


def test_a_cache_holds_all_features_and_the_numbers_of_seqios_own(environment, caches):
    task = seqio.get_mixture_or_task("sample_diseases.es")
    fresh, cached = (
        list(task.get_dataset(LENGTHS, "train", shuffle=False, use_cached=use).as_numpy_iterator())
        for use in (False, True)
    )
    for one, other in zip(fresh, cached, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert np.asarray(one[name]).dtype == np.asarray(other[name]).dtype
    stats = task.get_cached_stats("train")
    assert stats["examples"] == 3
    assert stats["targets_tokens"] == sum(len(example["targets"]) - 1 for example in fresh)
    assert stats["targets_max_tokens"] == max(len(example["targets"]) - 1 for example in fresh)
    assert seqio.mixing_rate_num_examples(task) == 3


def test_span_corruption_of_a_cache_is_that_of_the_text(environment, caches):
    task = seqio.get_mixture_or_task("medical_corpus.es")
    options = {"sequence_length": {"inputs": 48, "targets": 20}, "shuffle": False, "seed": 4, "num_epochs": 2}
    fresh, cached = (ids_of(task.get_dataset(**options, use_cached=use).as_numpy_iterator()) for use in (False, True))
    assert fresh == cached
    assert len(fresh) > 20


def test_the_command_writes_caches_or_says_that_it_has_nowhere_to(environment, tokenizer, capsys):
    command = ["tokens", "--mixture", "sample_diseases.es", "--vocabulary", str(tokenizer.model_file)]
    assert main([*command, "--seqio_cache", str(environment / "c")]) == 0
    assert (environment / "c/sample_diseases.es/COMPLETED").is_file()
    assert main(command) == 2
    assert "nowhere to write to; give --token_store DIR, or --seqio_cache DIR" in capsys.readouterr().err


def test_caches_are_kept_until_what_they_are_made_of_changes(environment, caches):
    def stamps():
        return {path.parent.name: path.stat().st_mtime_ns for path in caches.rglob("COMPLETED")}

    first = stamps()
    for name in TASKS:
        write_caches(name, caches)
    assert stamps() == first
    with (environment / "raw/sample_diseases/es/train.conll").open("a", encoding="utf-8") as file:
        file.write("\nOtra\tO\n")
    for name in TASKS:
        write_caches(name, caches)
    assert {name for name, stamp in stamps().items() if stamp != first[name]} == {"sample_diseases.es"}


@pytest.mark.parametrize(
    ("name", "lengths"), [(TASKS[0], LENGTHS), ("medical_corpus.es", {"inputs": 48, "targets": 20})]
)
def test_seqios_feature_converter_makes_the_batches_of_the_loader(environment, tokenizer, name, lengths):
    """All of an epoch: the rows are the same, padding, shift and loss weights included; only their order is not."""
    build_mixture(name, environment / "tokens", tokenizer)
    store = TokenStore(environment / "tokens" / name / "train")
    converter = seqio.EncDecFeatureConverter(pack=False)
    dataset = seqio.get_dataset(name, lengths, converter, "train", shuffle=False, num_epochs=1, seed=0)
    rows = list(dataset.as_numpy_iterator())
    shape = {"feature_lengths": lengths, "batch_size": len(rows), "seed": 0}
    batch = loader.make_batches([(store, 1.0)], sentinel_ids=tokenizer.sentinel_ids, **shape)[0]
    assert rows[0].keys() == batch.keys()

    def in_order(rows):
        return sorted([row[key].astype(np.float64).tolist() for key in sorted(batch)] for row in rows)

    assert in_order(rows) == in_order({key: batch[key][i] for key in batch} for i in range(len(rows)))


def evaluate(name, predict):
    """Returns the metrics of SeqIO's evaluator, whose model predicts `predict(targets)`: ids for [length] int32 ids."""
    converter = seqio.EncDecFeatureConverter(pack=False)
    evaluator = seqio.Evaluator(name, converter, eval_split="test", sequence_length=LENGTHS)

    def predict_fn(dataset):
        return [(int(i), predict(example["decoder_target_tokens"])) for i, example in dataset.as_numpy_iterator()]

    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict_fn)
    return metrics.result()


@pytest.mark.parametrize("name", TASKS)
def test_gold_against_gold_is_1(environment, name):
    assert evaluate(name, lambda targets: targets) == {name: {"f1": 1.0, "precision": 1.0, "recall": 1.0}}


def test_gold_against_gold_is_1_for_words_that_text_cannot_show(environment, tokenizer):
    """Words that are several, nothing, or look like ends of text once they are normalised, or are not in the text."""
    words = ["l´ictus", "\u00ad", "½", "</s>", "<extra_id_0>", "¨", "日本", "a\u200bb", "x"]
    for at in range(len(words)):
        lines = [f"{w}\t{'B-Disease' if i in (at, len(words) - 1) else 'O'}" for i, w in enumerate(words)]
        with (environment / "raw/sample_diseases/en/test.conll").open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(lines) + "\n")
    assert evaluate("sample_diseases.en", lambda targets: targets)["sample_diseases.en"]["f1"] == 1.0


def test_what_is_not_gold_scores_less(environment, tokenizer):
    labels = (tokenizer.open_id("Disease"), tokenizer.close_id("Disease"))

    def without_tags(targets):
        kept = [i for i in targets.tolist() if i not in labels]
        return np.array(kept + [0] * (len(targets) - len(kept)), np.int32)

    assert evaluate("sample_diseases.en", without_tags) == {"sample_diseases.en": {"f1": 0.0, "recall": 0.0}}


def test_what_a_model_writes_scores_as_in_medmt5_evaluate(environment, tokenizer):
    """Right, wrong, missing and spurious spans, in words that text spells otherwise, too."""
    rng = np.random.default_rng(0)
    words = ["l´ictus", "\u00ad", "½", "</s>", "¨", "日本", "a\u200bb", "asthma", "fever", "x"]
    written, sentences = {}, []
    for _ in range(12):
        sentence = rng.permutation(words).tolist()
        gold, predicted = ([Span(i, i + 1, "Disease") for i in np.flatnonzero(rng.random(10) < 0.3)] for _ in "gp")
        sentences.append((sentence, gold, predicted))
        written[tuple(encode_target(sentence, gold, tokenizer))] = encode_target(sentence, predicted, tokenizer)
    tags = [
        [(w, "B-Disease" if i in {s.start for s in gold} else "O") for i, w in enumerate(ws)]
        for ws, gold, _ in sentences
    ]
    lines = ["\n".join(f"{word}\t{tag}" for word, tag in sentence) for sentence in tags]
    (environment / "raw/sample_diseases/en/test.conll").write_text("\n\n".join(lines) + "\n", encoding="utf-8")

    def predict(targets):
        ids = written[tuple(np.trim_zeros(targets).tolist())]
        return np.array(ids + [0] * (LENGTHS["targets"] - len(ids)), np.int32)

    predictions = [
        Prediction(str(i), "en", tuple(ws), tuple(gold), tuple(found), 0.0, "d")
        for i, (ws, gold, found) in enumerate(sentences)
    ]
    ours = summarize({"sample_diseases.en": (predictions, ("Disease",))})["tasks"]["sample_diseases.en"]
    assert 0 < ours["f1"] < 1
    wanted = {name: ours[name] for name in ("f1", "precision", "recall")}
    assert evaluate("sample_diseases.en", predict) == {"sample_diseases.en": wanted}


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("a<Drug>b c</Drug>d", [Span(1, 3, "Drug")]),
        ("a <Drug> b", [Span(1, 2, "Drug")]),
        ("a<Drug>b<Disease>c</Disease>d", [Span(1, 2, "Drug"), Span(2, 3, "Disease")]),
        ("a b c d e<Drug>f</Drug>", []),
        ("a b c<Drug>d e", [Span(3, 4, "Drug")]),
        ("<Claim>a</Claim>b", []),
        ("</Drug>", []),
        ("", []),
    ],
)
def test_whatever_text_a_model_writes_is_read(environment, text, spans):
    example = {"words": [b"a", b"b", b"c", b"d"], "tags": [b"O"] * 4}
    assert to_spans(text, example=example, is_target=False, labels=("Disease", "Drug")) == spans


def test_without_spans_no_score_exists():
    assert entity_f1([[]], [[]]) == {}
