"""Tags of several pieces: the search returns what exhaustive search returns, and only tagged copies of its sentences.

The reference enumerates outputs from the rules and compares readings as such: what may come next after the tokens
written so far is what any output that begins with these tokens writes next. It knows no states.
"""

from collections import defaultdict
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmt5.decoding import label_automaton, search
from medmt5.decoding.label_spans import choices_to_spans
from medmt5.decoding.span_probabilities import score_hypotheses
from medmt5.errors import InputError

COPY, END, OPEN = 0, 1, 2
VOCAB, FEATURES = 20, 8
OPENS = ((10, 11, 12), (10, 11, 14), (10, 15))
CLOSES = ((13, 11), (13, 14, 12), (16,))
KERNEL = np.random.default_rng(0).normal(size=(FEATURES, VOCAB)).astype(np.float32)
MIXERS = np.random.default_rng(1).integers(0, 2**32, FEATURES, np.uint32) | 1
# Word pieces and permitted labels. Words begin as tags do, none is a whole tag, and none goes on with one begun before.
SENTENCES = (
    ([], (0, 1)),
    ([[10]], (0, 1, 2)),
    ([[2], [10, 11, 5]], (0, 1, 2)),
    ([[3], [13, 4], [10]], (0, 1)),
    ([[10, 3], [13], [4, 10]], (0, 2)),
    ([[6], [1, 7], [0]], (1,)),
    ([[10], [11, 2]], ()),
)
UNLIKE = 5  # has one label, and no word that begins as its tags do
MODELS, MOST_OUTPUTS = 60, 41
SEEDS = np.random.default_rng(2).integers(0, 2**32, (len(SENTENCES), MODELS), np.uint32)


def token_hash(tokens, positions):
    """int32 arrays -> uint32; numpy or jax."""
    x = (tokens.astype(np.uint32) + np.uint32(1)) * np.uint32(374761393)
    x = x + positions.astype(np.uint32) * np.uint32(668265263)
    return (x ^ (x >> 15)) * np.uint32(2246822519)


def hidden_of(hashes):
    """[...] uint32, a model's seed plus the hashes of what was written -> [..., features], exact in float32."""
    hashes = (hashes ^ (hashes >> 15)) * np.uint32(2654435761)
    return ((hashes[..., None] ^ (hashes[..., None] >> 13)) * MIXERS >> 16).astype(np.float32) / 32768 - 1


class Memory(NamedTuple):
    hashes: jax.Array  # [batch, slots] uint32

    def keep(self, order):
        return Memory(jnp.take_along_axis(self.hashes, order, axis=1))

    def grow(self, slots):
        return Memory(jnp.pad(self.hashes, ((0, 0), (0, slots - self.hashes.shape[1]))))


@partial(jax.jit, static_argnames=("beam_size", "num_steps", "scoring", "normalize_length", "width"))
def run(seeds, tables, *, beam_size, num_steps, scoring, normalize_length=True, width=8):
    def extend(memory, used, tokens, positions, visible):
        hashes = jax.lax.dynamic_update_slice_in_dim(memory.hashes, token_hash(tokens, positions), used, axis=1)
        seen = jnp.sum(jnp.where(visible, hashes[:, None], jnp.uint32(0)), axis=-1, dtype=jnp.uint32)
        return hidden_of(seen + seeds[:, None]), Memory(hashes)

    return search.search_labels(
        extend, Memory(jnp.zeros((len(seeds), 0), jnp.uint32)), jnp.asarray(KERNEL), tables,
        beam_size=beam_size, num_steps=num_steps, scoring=scoring, normalize_length=normalize_length,
        tokens_per_pass=width,
    )  # fmt: skip


def make_tables(sentences, num_pieces):
    permitted = [[label in labels for label in range(len(OPENS))] for _, labels in sentences]
    return label_automaton.build_tables([words for words, _ in sentences], OPENS, CLOSES, permitted, num_pieces)


class Output(NamedTuple):
    choices: tuple[int, ...]
    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int, int], ...]


def enumerate_outputs(words, labels, first=0):
    """Yields every output of the words from number `first` on: one is copied, or some stand in a label."""
    if first == len(words):
        yield Output((END,), (1,), ())
        return
    for rest in enumerate_outputs(words, labels, first + 1):
        yield Output((COPY,) * len(words[first]) + rest.choices, (*words[first], *rest.tokens), rest.spans)
    for end in range(first + 1, len(words) + 1):
        copied = [piece for word in words[first:end] for piece in word]
        for rest in enumerate_outputs(words, labels, end):
            for label in labels:
                opening = tuple(
                    OPEN + min(other for other in labels if OPENS[other][: n + 1] == OPENS[label][: n + 1])
                    for n in range(len(OPENS[label]))
                )
                yield Output(
                    (*opening, *(COPY,) * len(copied), *(END,) * len(CLOSES[label]), *rest.choices),
                    (*OPENS[label], *copied, *CLOSES[label], *rest.tokens),
                    ((first, end, label), *rest.spans),
                )


class Reference(NamedTuple):
    """All outputs of a sentence; `log_probs[choices so far][choice]` is [models] float64."""

    outputs: dict[tuple[int, ...], Output]
    log_probs: dict[tuple[int, ...], dict[int, np.ndarray]]

    def total(self, choices):
        return sum(self.log_probs[choices[:t]][choice] for t, choice in enumerate(choices))


def log_sum_exp(logits):
    return np.log(np.sum(np.exp(logits), axis=1))


def make_reference(sentence, seeds, scoring):
    outputs = {output.choices: output for output in enumerate_outputs(*sentence)}
    following, written = defaultdict(dict), {}
    readings = defaultdict(lambda: (set(), set()))  # of tokens: the next ones that copy, and all next ones
    for output in outputs.values():
        for t, (choice, token) in enumerate(zip(output.choices, output.tokens, strict=True)):
            following[output.choices[:t]][choice] = token
            written[output.choices[:t]] = output.tokens[:t]
            copies, every = readings[output.tokens[:t]]
            every.add(token)
            copies.update({token} if choice == COPY else ())
    log_probs = {}
    for prefix, of_choice in following.items():
        tokens = np.array([0, *written[prefix]], np.int32)
        hashes = seeds + np.sum(token_hash(tokens, np.arange(len(tokens), dtype=np.int32)), dtype=np.uint32)
        logits = hidden_of(hashes).astype(np.float64) @ KERNEL.astype(np.float64)
        copies, every = readings[written[prefix]]
        permitted, tags = logits[:, sorted(every)], logits[:, sorted(every - copies)]
        everything = log_sum_exp(logits)
        log_probs[prefix] = {}
        for choice, token in sorted(of_choice.items()):
            score = logits[:, token] - (log_sum_exp(permitted) if scoring == "local" else everything)
            if scoring == "marginal" and not copies:
                score = logits[:, token] - log_sum_exp(tags)
            elif scoring == "marginal" and token in copies:
                score = np.log1p(-np.sum(np.exp(tags - everything[:, None]), axis=1))
            log_probs[prefix][choice] = score
    return Reference(outputs, log_probs)


@pytest.fixture(scope="module")
def references():
    """scoring -> a Reference of each sentence."""
    return cache(lambda scoring: [make_reference(s, seeds, scoring) for s, seeds in zip(SENTENCES, SEEDS, strict=True)])


@pytest.fixture(scope="module")
def tables():
    return make_tables([sentence for sentence in SENTENCES for _ in range(MODELS)], 5)


def found_by_model(found):
    """Yields (row, sentence, model, {choices: score}) of a search over `tables`."""
    for row, (scores, lengths, choices) in enumerate(zip(found.scores, found.lengths, found.choices, strict=True)):
        outputs = [tuple(c[:length].tolist()) for c, length in zip(choices, lengths, strict=True) if length]
        assert len(set(outputs)) == len(outputs)
        yield row, *divmod(row, MODELS), dict(zip(outputs, scores.tolist(), strict=False))


@pytest.mark.parametrize("scoring", ["full", "local", "marginal"])
def test_a_beam_as_wide_as_the_outputs_ranks_all_of_them_as_brute_force(references, tables, scoring):
    made = references(scoring)
    assert max(len(reference.outputs) for reference in made) == MOST_OUTPUTS
    steps = label_automaton.max_steps(tables)
    arguments = {"beam_size": MOST_OUTPUTS, "num_steps": steps, "scoring": scoring}
    found = jax.device_get(run(SEEDS.reshape(-1), tables, normalize_length=scoring != "local", **arguments))
    for row, sentence, model, scores in found_by_model(found):
        reference = made[sentence]
        expected = {
            choices: reference.total(choices)[model] / (1 if scoring == "local" else len(choices))
            for choices in reference.outputs
        }
        assert scores.keys() == expected.keys()
        assert scores == pytest.approx(expected, abs=3e-5)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        for k, choices in enumerate(scores):
            output = reference.outputs[choices]
            assert tuple(found.tokens[row, k, : len(choices)].tolist()) == output.tokens
            if scoring == "local":
                local = found.local_log_probs[row, k, : len(choices)]
                assert np.sum(local) == pytest.approx(found.sums[row, k], abs=1e-5)
                check_forced(sentence, choices, local)
        if scoring == "full" and model < 5:
            check_probabilities(found, row, SENTENCES[sentence][0], expected, reference.outputs)


def check_forced(sentence, choices, local):
    """Asserts that the pieces of a tag cost nothing after the first, where no word and no other tag begins like it."""
    if sentence == UNLIKE:
        kinds = np.minimum(choices, OPEN)
        assert not np.any(local[1:][(kinds[1:] == kinds[:-1]) & (kinds[1:] != COPY)])


def check_probabilities(found, row, words, means, outputs):
    """Asserts that spans have the exact posterior of all outputs."""
    lengths = [len(word) for word in words]
    got = score_hypotheses(found.choices[row], found.local_log_probs[row], found.sums[row], lengths, len(OPENS))
    weights = {choices: np.exp(mean * len(choices)) for choices, mean in means.items()}
    exact = defaultdict(float)
    for choices, weight in weights.items():
        for span in outputs[choices].spans:
            exact[span] += weight / sum(weights.values())
    assert {span[:3]: span.probability for h in got for span in h.spans} == pytest.approx(dict(exact), abs=1e-5)


def reference_beam(reference, model, beam_size):
    """Beam search in plain Python. Returns ({choices: score}, whether two were equal where one had to go)."""
    beam, tied = {(): 0.0}, False

    def rank(item):
        return item[1] / len(item[0])

    while any(prefix in reference.log_probs for prefix in beam):
        extended = {}
        for prefix, total in beam.items():
            if prefix not in reference.log_probs:
                extended[prefix] = total
            for choice, log_probs in reference.log_probs.get(prefix, {}).items():
                extended[*prefix, choice] = total + log_probs[model]
        best = sorted(extended.items(), key=rank, reverse=True)
        tied |= len(best) > beam_size and rank(best[beam_size - 1]) - rank(best[beam_size]) < 1e-6
        beam = dict(best[:beam_size])
    return {prefix: rank((prefix, total)) for prefix, total in beam.items()}, tied


@pytest.mark.parametrize(("scoring", "beam_size", "width", "first_slots"), [("full", 1, 8, 96), ("local", 3, 3, 8)])
def test_greedy_and_narrow_beams_equal_a_plain_python_search(
    references, tables, monkeypatch, scoring, beam_size, width, first_slots
):
    made = references(scoring)
    monkeypatch.setattr(search, "FIRST_SLOTS", first_slots)
    decode = jax.jit(
        partial(
            run.__wrapped__,
            beam_size=beam_size,
            num_steps=label_automaton.max_steps(tables),
            scoring=scoring,
            width=width,
        )
    )
    found, others = jax.device_get(decode(SEEDS.reshape(-1), tables)), 0
    for _, sentence, model, scores in found_by_model(found):
        expected, tied = reference_beam(made[sentence], model, beam_size)
        if tied and list(scores) != list(expected):  # a word and a tag that begin alike; either may stay
            others += 1
            continue
        assert list(scores) == list(expected)
        assert scores == pytest.approx(expected, abs=3e-5)
    assert others < 0.02 * SEEDS.size


def walk(tables, state, choices):
    """Yields the choices and tokens of every output reachable through `candidates` and `advance`."""
    if bool(state.done[0, 0]):
        yield choices
        return
    ids, allowed = jax.jit(label_automaton.candidates)(tables, state)
    for choice in np.flatnonzero(allowed[0, 0]).tolist():
        after = jax.jit(label_automaton.advance)(tables, state, jnp.array([[choice]]))
        yield from walk(tables, after, (*choices, (choice, int(ids[0, 0, choice]))))


@pytest.mark.parametrize("sentence", [SENTENCES[0], SENTENCES[1], SENTENCES[4]])
def test_the_automaton_permits_exactly_what_the_rules_enumerate(sentence):
    tables = make_tables([sentence], 6)
    reached = sorted(walk(tables, label_automaton.start(tables), ()))
    outputs = list(enumerate_outputs(*sentence))
    assert reached == sorted(tuple(zip(output.choices, output.tokens, strict=True)) for output in outputs)
    assert label_automaton.max_steps(tables) == max(len(output.tokens) for output in outputs)


def test_spans_are_read_from_choices_whatever_pieces_a_tag_has():
    for words, labels in SENTENCES:
        for output in enumerate_outputs(words, labels):
            choices = np.array([*output.choices, -1, -1])
            assert choices_to_spans(choices, [len(word) for word in words], len(OPENS)) == list(output.spans)


def test_any_sentence_is_copied_and_tagged_by_the_rules():
    """Words of any ids, among them whole tags."""
    rng = np.random.default_rng(3)
    drawn = [10, 10, 11, 12, 13, 14, 15, 16, 0, 1, 2, 3]
    sentences = [
        (
            [rng.choice(drawn, rng.integers(1, 5)).tolist() for _ in range(rng.integers(0, 6))],
            np.flatnonzero(rng.random(3) < 0.6).tolist(),
        )
        for _ in range(256)
    ]
    tables = make_tables(sentences, 20)
    steps = label_automaton.max_steps(tables)
    seeds = rng.integers(0, 2**32, len(sentences), np.uint32)
    found = jax.device_get(run(seeds, tables, beam_size=4, num_steps=steps, scoring="marginal"))
    assert np.all(found.lengths[:, 0] > 0)
    assert np.all(found.decoder_passes <= found.lengths.max(axis=1))
    tagged = 0
    for i, (words, labels) in enumerate(sentences):
        seen = set()
        for tokens, choices, length in zip(found.tokens[i], found.choices[i], found.lengths[i], strict=True):
            if not length:
                continue
            spans = choices_to_spans(choices, [len(word) for word in words], len(OPENS))
            # Words with the tags of spans that are in order, apart and permitted: that is all the rules say.
            edges = [edge for start, end, _ in spans for edge in (start + 0.5, end)]
            assert edges == sorted(edges)
            assert {label for *_, label in spans} <= set(labels)
            assert tokens[:length].tolist() == write(words, spans)
            seen.add(tuple(spans))
            tagged += bool(spans)
        assert len(seen) == np.sum(found.lengths[i] > 0), "the hypotheses of a sentence differ"
    assert tagged > 50


def write(words, spans):
    tokens = []
    for number in range(len(words) + 1):
        tokens += [piece for _, end, label in spans if end == number for piece in CLOSES[label]]
        tokens += [piece for start, _, label in spans if start == number for piece in OPENS[label]]
        tokens += words[number] if number < len(words) else [1]
    return tokens


def test_tags_of_one_piece_need_no_arrays():
    words, permitted = [[[2, 3], [4]]], [[True, False]]
    one = label_automaton.build_tables(words, [10, 12], [11, 13], permitted, 4)
    lists = label_automaton.build_tables(words, [[10], [12]], [[11], [13]], permitted, 4)
    assert one.tags is None
    assert jax.tree.structure(one) == jax.tree.structure(lists)
    jax.tree.map(np.testing.assert_array_equal, one, lists)


@pytest.mark.parametrize(
    ("opens", "closes", "message"),
    [
        ([[5, 6], [5, 6, 7]], [[8], [9]], r"label 1, pieces \[5, 6, 7\], begins with that of label 0, \[5, 6\]"),
        ([[5, 6], [5, 6]], [[8], [9]], "give one of them another name"),
        ([[5, 6], [7]], [[8], []], "label 1 has a tag without pieces"),
    ],
)
def test_tags_that_cannot_be_told_apart_are_refused(opens, closes, message):
    with pytest.raises(InputError, match=message):
        label_automaton.build_tables([[[2]]], opens, closes, [True, True], 1)
