"""The labeller on a tiny random model: batches, permitted labels, prompts and windows change no sentence's labels."""

import dataclasses
import itertools
import logging
import threading

import numpy as np
import pytest

from medmt5.annotation.spans import Span
from medmt5.annotation.tagged_text import encode_input, encode_target
from medmt5.decoding.label_automaton import advance, candidates, start
from medmt5.decoding.windows import cut_windows, merge_spans
from medmt5.errors import InputError
from medmt5.labelling import Labeller
from medmt5.tokenizer import Tokenizer

# All alike in padded lengths, and the windows of LONG too: each length is a program to compile.
SHORT = [["nephritis"], ["ne", "cardi", "os"], [], ["car", "</s>"], ["mateo", "os"]]
LONG = ["car", "di", "ne", "phri", "tis", "he", "pa", "to", "ma", "in", "su", "fi", "os", "teo", "lo"] * 2
LISTS = [["Disease"], ["Drug", "Disease"], ["Drug"], [], ["Disease", "Claim"]]


@pytest.fixture(scope="module")
def labeller(tiny_model):
    return Labeller(tiny_model, beam_size=3, scoring="local", batch_size=4)


def alike(one, other):
    assert one.spans == other.spans
    assert one.score == pytest.approx(other.score, abs=1e-5)
    for mine, theirs in zip(one.scored_spans, other.scored_spans, strict=True):
        assert mine[1:] == pytest.approx(theirs[1:], abs=1e-5)


def test_lists_of_labels_mixed_in_a_batch_give_what_each_gives_alone(labeller):
    together = labeller.label(SHORT, LISTS)
    assert any(labelled.spans for labelled in together)
    for words, labels, labelled in zip(SHORT, LISTS, together, strict=True):
        alike(labelled, labeller.label([words], labels)[0])
        assert {label for a in labelled.passages for x in a.alternatives for _, _, label in x.spans} <= set(labels)


def test_the_order_and_the_neighbours_of_sentences_do_not_matter(labeller):
    together = labeller.label(SHORT, ["Drug", "Disease"])
    turned = labeller.label([*reversed(SHORT)] * 2, ["Disease", "Drug"])
    for one, other in zip([*together] * 2, reversed(turned), strict=True):
        alike(one, other)


def test_the_prompt_names_the_labels_of_its_sentence_or_is_not_there(tiny_model, monkeypatch):
    tokenizer = tiny_model.tokenizer
    drug, disease = map(tokenizer.open_id, ("Drug", "Disease"))
    word = tokenizer.encode_words(["cardi"])[0]
    for prompt in (True, False):
        labeller = Labeller(dataclasses.replace(tiny_model, label_prompt=prompt), beam_size=3, batch_size=4)
        seen = []
        monkeypatch.setattr(labeller, "_decode", lambda _, inputs, tables, __, seen=seen: seen.append((inputs, tables)))
        with pytest.raises(AttributeError):  # there is no result to fetch
            labeller.label([["cardi"]] * 2, [["Drug"], ["Drug", "Disease"]])
        ((inputs, tables),) = seen
        # In the order of the vocabulary, as in training.
        for row, expected in enumerate([[drug], [disease, drug]]):
            ids = [*(expected if prompt else []), *word, tokenizer.eos_id]
            assert np.asarray(inputs)[row, : len(ids) + 1].tolist() == [*ids, 0]
        permitted = [np.array(tokenizer.labels)[row].tolist() for row in tables.permitted]
        assert permitted == [["Drug"], ["Disease", "Drug"], [], []]


def test_a_long_sentence_is_what_its_windows_give_merged(labeller, tiny_model):
    pieces = tiny_model.tokenizer.encode_words(LONG)
    windows = cut_windows([len(ids) for ids in pieces], room=16 - 2 - 1)
    assert len(windows) >= 3
    (whole,) = labeller.label([LONG], ["Disease", "Drug"])
    assert [(p.start, p.end) for p in whole.passages] == windows
    alone = [labeller.label([LONG[first:end]], ["Disease", "Drug"])[0] for first, end in windows]
    shifted = [
        [span._replace(start=span.start + first, end=span.end + first) for span in labelled.spans]
        for (first, _), labelled in zip(windows, alone, strict=True)
    ]
    picked = merge_spans(windows, [[span[:2] for span in spans] for spans in shifted])
    assert list(whole.spans) == [shifted[window][index] for window, index in picked]
    assert whole.spans
    assert all(a.end <= b.start for a, b in itertools.pairwise(whole.spans))
    for scored, (window, index) in zip(whole.scored_spans, picked, strict=True):
        assert scored[1:] == pytest.approx(alone[window].scored_spans[index][1:], abs=1e-5)


def test_a_word_longer_than_a_window_is_labelled_by_its_first_pieces_and_told(labeller, caplog):
    with caplog.at_level(logging.WARNING, logger="medmt5"):
        (labelled,) = labeller.label([["os", "nephritis" * 40, "car"]], ["Disease"])
    assert "1 words have more pieces than the model's 16 input tokens hold" in caplog.text
    assert "nephritis" not in caplog.text
    assert {number for p in labelled.passages for number in range(p.start, p.end)} == {0, 1, 2}


def test_nothing_to_label(labeller):
    assert labeller.label([], ["Disease"]) == []
    (empty,) = labeller.label([[]], ["Disease"])
    assert (empty.spans, empty.score, empty.passages) == ((), 0.0, ())


def test_the_n_best_are_in_order_and_share_the_probability(labeller):
    for labelled in labeller.label(SHORT, ["Disease", "Drug"]):
        for passage in labelled.passages:
            scores = [alternative.score for alternative in passage.alternatives]
            assert scores == sorted(scores, reverse=True)
            assert len({alternative.spans for alternative in passage.alternatives}) == len(scores) == 3
            assert sum(alternative.probability for alternative in passage.alternatives) == pytest.approx(1)
            assert passage.alternatives[0].spans == labelled.spans
            for span, probability, local in labelled.scored_spans:
                holding = [a.probability for a in passage.alternatives if span in a.spans]
                assert probability == pytest.approx(sum(holding))
                assert 0 < local <= 1


def test_two_batches_are_under_way_at_once(labeller, monkeypatch):
    both = threading.Barrier(2, timeout=60)
    decode = labeller._decode

    def decode_together(*arguments):
        both.wait()  # breaks where one batch waits for the end of the other
        return decode(*arguments)

    monkeypatch.setattr(labeller, "_decode", decode_together)
    assert len(labeller.label([["car"]] * 8, ["Disease", "Drug"])) == 8


@pytest.fixture(scope="module")
def spelling(tiny_model):
    """A labeller of the same model with a vocabulary that has no label tokens."""
    tokenizer = Tokenizer(tiny_model.tokenizer.model_file, labels=())
    model = dataclasses.replace(tiny_model, tokenizer=tokenizer, feature_lengths={"inputs": 48, "targets": 16})
    return Labeller(model, beam_size=3, scoring="local", batch_size=4)


def test_a_vocabulary_without_label_tokens_spells_the_tags_as_in_training(spelling, monkeypatch):
    seen = []
    monkeypatch.setattr(spelling, "_decode", lambda _, inputs, tables, __: seen.append((np.asarray(inputs), tables)))
    words = ["nephritis", "<", "<Disease>"]
    with pytest.raises(AttributeError):  # there is no result to fetch
        spelling.label([words], ["Drug", "Disease"])
    tokenizer = spelling.model.tokenizer
    ((inputs, tables),) = seen
    expected = encode_input(words, ["Drug", "Disease"], tokenizer)
    assert inputs[0, : len(expected)].tolist() == expected
    assert not np.any(inputs[0, len(expected) :])
    # The choices of each target's spans write the target.
    for spans in ([], [Span(0, 2, "Disease")], [Span(1, 2, "Drug"), Span(2, 3, "Disease")]):
        state, written = start(tables), []
        target = encode_target(words, spans, tokenizer)
        for choice in choices_of(words, spans, tokenizer):
            ids, allowed = candidates(tables, state)
            assert allowed[0, 0, choice]
            written.append(int(ids[0, 0, choice]))
            state = advance(tables, state, np.full((4, 1), choice))
        assert written == target
        assert bool(state.done[0, 0])


def choices_of(words, spans, tokenizer):
    """In the order of LABELS Disease stands before Drug, and so for both while their tags are alike."""
    opens = [tokenizer.tag_pieces(label, closing=False) for label in ("Disease", "Drug")]
    shared = next(n for n, (one, other) in enumerate(zip(*opens, strict=False)) if one != other)
    choices = []
    for number, pieces in enumerate([*tokenizer.encode_words(words), []]):
        for _, end, label in spans:
            choices += [1] * len(tokenizer.tag_pieces(label, closing=True)) if end == number else []
        for begin, _, label in spans:
            if begin == number:
                which = ("Disease", "Drug").index(label)
                choices += [2] * shared + [2 + which] * (len(opens[which]) - shared)
        choices += [0] * len(pieces)
    return [*choices, 1]


def test_a_vocabulary_without_label_tokens_takes_any_label(spelling, tiny_model):
    labels = [["Fracture"], ["Disease", "side-effect"], [], ["Drug"], ["Disease"]]
    together = spelling.label(SHORT, labels)
    assert sum(len(labelled.spans) for labelled in together) > 0
    turned = spelling.label([*reversed(SHORT)], [*reversed(labels)])
    for words, permitted, labelled, other in zip(SHORT, labels, together, reversed(turned), strict=True):
        alike(labelled, other)
        assert {span.label for span in labelled.spans} <= set(permitted)
        ends = [0, *itertools.chain(*((span.start, span.end) for span in labelled.spans)), len(words)]
        assert ends == sorted(ends)
    words = ["cardinephritis"] * 16
    (long,) = spelling.label([words], ["Disease"])
    room = 48 - len(spelling.model.tokenizer.tag_pieces("Disease", closing=False)) - 1
    windows = cut_windows([len(ids) for ids in spelling.model.tokenizer.encode_words(words)], room)
    assert [(passage.start, passage.end) for passage in long.passages] == windows
    assert len(windows) > 1
    with pytest.raises(InputError, match="letters, digits, _ and -, not '<b>'"):
        spelling.label([["a"]], ["<b>"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["Diseas"], "unknown label 'Diseas'; use one of Disease"),
        ("Disease", "not the string 'Disease'"),
        ([["Disease"]], "a list of names for each of the 2 texts; got 1 lists and 0 names"),
        ([["Disease"], "Drug"], "got 1 lists and 1 names"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labeller, labels, message):
    with pytest.raises(InputError, match=message):
        labeller.label([["a"], ["b"]], labels)
