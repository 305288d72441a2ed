"""Probabilities of spans: marginal ones against the exact posterior of enumerated outputs, local ones by hand."""

import math
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmt5.decoding import label_automaton, search
from medmt5.decoding.span_probabilities import score_hypotheses

COPY, END, OPEN = 0, 1, 2
VOCAB, FEATURES = 12, 6
OPEN_IDS, CLOSE_IDS = [8, 10], [9, 11]
SENTENCES = [[[2], [3, 4], [5]], [[6, 2], [2]], [[7]], []]
PERMITTED = [[False, True], [True, True], [True, True], [True, True]]
BEAM = 13  # outputs of the first sentence
RNG = np.random.default_rng(0)
EMBEDDING, KERNEL = (RNG.normal(size=shape).astype(np.float32) for shape in ((VOCAB, FEATURES), (FEATURES, VOCAB)))
SCALES = np.arange(1, FEATURES + 1, dtype=np.float32) / 3


START = (np.zeros(FEATURES), 0)


def step(state, token):
    """A net whose logits depend on all tokens so far and their places."""
    total, position = state
    return total + EMBEDDING[token] * np.cos(position * SCALES), position + 1


def logits_of(state):
    return np.tanh(state[0]) @ KERNEL.astype(np.float64)


def extend(memory, used, tokens, positions, visible):
    """The same net over a tree of tokens."""
    new = jnp.asarray(EMBEDDING)[tokens] * jnp.cos(positions[..., None] * SCALES)
    memory = memory.write(used, new)
    total = jnp.einsum("bns,bsf->bnf", visible.astype(jnp.float32), memory.written, precision="highest")
    return jnp.tanh(total), memory


@pytest.fixture(scope="module")
def found(memory):
    """All outputs of all sentences, as the search finds them."""
    tables = label_automaton.build_tables(SENTENCES, OPEN_IDS, CLOSE_IDS, PERMITTED, 4)
    decode = jax.jit(
        lambda empty: search.search_labels(
            extend, memory(empty), jnp.asarray(KERNEL), tables,
            beam_size=BEAM, num_steps=11, scoring="full", normalize_length=True, tokens_per_pass=8,
        )
    )  # fmt: skip
    return jax.device_get(decode(jnp.zeros((len(SENTENCES), 0, FEATURES))))


def posterior(words, outputs):
    """Returns {(start, end, label): probability} by total probability under the whole vocabulary, in float64."""
    pieces = [piece for word in words for piece in word]
    word_of_piece = [number for number, word in enumerate(words) for _ in word] + [len(words)]
    totals, spans_of = [], []
    for output in outputs:
        state, token, total, copied, opened, spans = START, 0, 0.0, 0, None, []
        for choice in output:
            state = step(state, token)
            if choice == COPY:
                token, copied = pieces[copied], copied + 1
            elif choice == END:
                token = 1 if opened is None else CLOSE_IDS[opened[1]]
                if opened is not None:
                    spans.append((opened[0], word_of_piece[copied], opened[1]))
                opened = None
            else:
                token, opened = OPEN_IDS[choice - OPEN], (word_of_piece[copied], choice - OPEN)
            logits = logits_of(state)
            total += logits[token] - np.log(np.sum(np.exp(logits)))
        totals.append(total)
        spans_of.append(spans)
    shares = np.exp(totals) / np.sum(np.exp(totals))
    marginals = defaultdict(float)
    for share, spans in zip(shares, spans_of, strict=True):
        for span in spans:
            marginals[span] += share
    return marginals, sorted(shares, reverse=True)


def test_a_beam_of_all_outputs_gives_the_exact_posterior(found, permitted_outputs):
    for row, words in enumerate(SENTENCES):
        word_lengths = [len(word) for word in words]
        outputs = list(permitted_outputs(tuple(word_lengths), np.flatnonzero(PERMITTED[row]).tolist()))
        hypotheses = score_hypotheses(
            found.choices[row], found.local_log_probs[row], found.sums[row], word_lengths, num_labels=2
        )
        assert len(hypotheses) == len(outputs)
        exact, shares = posterior(words, outputs)
        probabilities = {span[:3]: span.probability for h in hypotheses for span in h.spans}
        assert probabilities == pytest.approx(dict(exact), abs=1e-6)
        assert sorted((h.probability for h in hypotheses), reverse=True) == pytest.approx(shares, abs=1e-6)


def test_local_probability_is_of_the_decisions_that_make_the_span():
    """Words of 1, 2 and 1 pieces: copy, open, copy, (copy on), copy copy, close, copy, EOS."""
    choices = np.array([[COPY, OPEN + 1, COPY, COPY, COPY, END, END, -1]])
    #          copied, not opened: no part of it; opened .5; forced; not closed .25; forced; closed: forced; EOS forced
    local = np.log([[0.9, 0.5, 1, 0.25, 1, 1, 1, 1]])
    (only,) = score_hypotheses(choices, local, np.array([-7.0]), word_lengths=[1, 1, 2], num_labels=2)
    assert only.spans == [(1, 3, 1, 1.0, pytest.approx(0.5 * 0.25))]
    # Two mentions side by side; the first is closed where it could have gone on.
    choices = np.array([[OPEN, COPY, END, OPEN, COPY, END, END]])
    local = np.log([[0.5, 1, 0.4, 0.3, 1, 1, 1]])
    (only,) = score_hypotheses(choices, local, np.array([-1.0]), word_lengths=[1, 1], num_labels=1)
    assert [span.local_probability for span in only.spans] == pytest.approx([0.5 * 0.4, 0.3])


def test_local_probabilities_of_the_search_are_products_over_the_permitted_candidates(found):
    """The two-word sentence, one tag at the beginning: by hand from the net's logits."""
    hypotheses = score_hypotheses(found.choices[1], found.local_log_probs[1], found.sums[1], [2, 1], num_labels=2)
    local = {tuple(span[:3] for span in h.spans): [s.local_probability for s in h.spans] for h in hypotheses}

    def share(state, wanted, *others):
        logits = logits_of(state)
        return math.exp(logits[wanted]) / sum(math.exp(logits[i]) for i in (wanted, *others))

    first = step(START, 0)
    opened = step(first, OPEN_IDS[1])
    copied = step(step(opened, 6), 2)
    opens = share(first, OPEN_IDS[1], OPEN_IDS[0], 6)
    assert local[((0, 1, 1),)] == pytest.approx([opens * share(copied, CLOSE_IDS[1], 2)], rel=1e-5)
    assert local[((0, 2, 1),)] == pytest.approx([opens * share(copied, 2, CLOSE_IDS[1])], rel=1e-5)


def test_hypotheses_that_do_not_exist_count_for_nothing():
    choices = np.array([[COPY, END, -1, -1], [-1] * 4, [OPEN, COPY, END, END]])
    sums = np.array([-1.0, -np.inf, -1.0])
    plain, tagged = score_hypotheses(choices, np.zeros((3, 4)), sums, word_lengths=[1], num_labels=1)
    assert (plain.spans, plain.probability, tagged.probability) == ([], 0.5, 0.5)
    with pytest.raises(ValueError, match="no hypothesis has ended"):
        score_hypotheses(choices[1:2], np.zeros((1, 4)), sums[1:2], word_lengths=[1], num_labels=1)


def test_sums_far_below_what_a_float_holds_are_weighed_against_each_other():
    choices = np.array([[COPY, END, -1, -1], [OPEN, COPY, END, END]])
    plain, tagged = score_hypotheses(choices, np.zeros((2, 4)), np.array([-5000.0, -5000.0 - np.log(3)]), [1], 1)
    assert plain.probability == pytest.approx(0.75)
    assert tagged.spans[0].probability == pytest.approx(0.25)
