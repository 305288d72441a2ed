"""The automaton permits exactly the outputs that the rules enumerate, and refuses sentences it cannot copy."""

import jax.numpy as jnp
import numpy as np
import pytest

from medmt5.decoding import label_automaton
from medmt5.errors import InputError

CASES = [
    ((), (0, 1)),
    ((1,), (0, 1)),
    ((3,), (1,)),
    ((2, 1, 1), (0, 1)),
    ((1, 2, 1, 3), (0,)),
    ((1, 1, 2), ()),
]


def tables_of(word_lengths, labels):
    words = [[5] * length for length in word_lengths]
    return label_automaton.build_tables([words], [20, 22], [21, 23], [0 in labels, 1 in labels], 8)


def walk(tables, state, choices):
    """Yields the choices of every output reachable through `candidates` and `advance`."""
    if bool(state.done[0, 0]):
        yield choices
        return
    _, allowed = label_automaton.candidates(tables, state)
    for choice in np.flatnonzero(allowed[0, 0]).tolist():
        yield from walk(tables, label_automaton.advance(tables, state, jnp.array([[choice]])), (*choices, choice))


@pytest.mark.parametrize(("word_lengths", "labels"), CASES)
def test_the_outputs_it_permits_are_exactly_those_the_rules_enumerate(word_lengths, labels, permitted_outputs):
    tables = tables_of(word_lengths, labels)
    reached = list(walk(tables, label_automaton.start(tables), ()))
    expected = list(permitted_outputs(word_lengths, labels))
    assert len(set(expected)) == len(expected)
    assert sorted(reached) == sorted(expected)


@pytest.mark.parametrize(("word_lengths", "labels"), CASES)
def test_max_steps_is_the_length_of_the_longest_output(word_lengths, labels, permitted_outputs):
    assert label_automaton.max_steps(tables_of(word_lengths, labels)) == max(
        map(len, permitted_outputs(word_lengths, labels))
    )


def test_candidates_carry_the_ids_of_what_they_write():
    tables = label_automaton.build_tables([[[7, 8], [9]]], [20, 22], [21, 23], [True, True], 4)
    state, seen = label_automaton.start(tables), []
    for choice in (3, 0, 0, 1, 0, 1, 0):
        ids, allowed = label_automaton.candidates(tables, state)
        assert allowed[0, 0, choice]
        seen.append(int(ids[0, 0, choice]))
        state = label_automaton.advance(tables, state, jnp.array([[choice]]))
    assert seen == [22, 7, 8, 23, 9, 1, 0]


def test_a_finished_hypothesis_only_pads_and_stays_finished():
    tables = label_automaton.build_tables([[[5]]], [20], [21], [True], 1)
    state = label_automaton.start(tables)
    for choice in (0, 1):
        state = label_automaton.advance(tables, state, jnp.array([[choice]]))
    for _ in range(3):
        ids, allowed = label_automaton.candidates(tables, state)
        assert bool(state.done[0, 0])
        assert allowed[0, 0].tolist() == [True, False, False]
        assert int(ids[0, 0, 0]) == 0
        state = label_automaton.advance(tables, state, jnp.array([[0]]))
    assert int(state.position[0, 0]) == 1


def test_permitted_labels_may_differ_by_sentence():
    tables = label_automaton.build_tables([[[5]], [[5]]], [20, 22], [21, 23], [[True, False], [False, True]], 2)
    _, allowed = label_automaton.candidates(tables, label_automaton.start(tables))
    assert allowed[:, 0].tolist() == [[True, False, True, False], [True, False, False, True]]


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([], "at least one sentence"),
        ([[[5]], [[5], []]], "word 1 of sentence 1 has no pieces"),
        ([[[5]], [[5, 6], [7, 8, 9]]], "sentence 1 has 5 pieces, num_pieces_padded is 4; raise it to 5"),
    ],
)
def test_sentences_that_cannot_be_copied_are_refused(sentences, message):
    with pytest.raises(InputError, match=message):
        label_automaton.build_tables(sentences, [20], [21], [True], 4)


def test_labels_without_both_tags_are_refused():
    with pytest.raises(InputError, match="got 2 and 1"):
        label_automaton.build_tables([[[5]]], [20, 22], [21], [True, True], 4)
