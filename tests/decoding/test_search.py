"""Search returns what exhaustive search returns, and only tagged copies of its sentences, whatever the model.

The toy model hashes the tokens that a node sees, each with its position: a node that sees another's token, or not its
own ancestor's, gets other scores. The reference follows the enumerated outputs with the same hashes, in numpy and
float64.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmt5.decoding import label_automaton, search
from medmt5.decoding.label_spans import choices_to_spans

VOCAB, FEATURES = 16, 8
OPEN_IDS, CLOSE_IDS = [12, 14], [13, 15]
MIXERS = np.array(
    [0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D, 0xFD7046C5, 0xB55A4F09], np.uint32
)
KERNEL = np.random.default_rng(0).normal(size=(FEATURES, VOCAB)).astype(np.float32)


def token_hash(tokens, positions):
    """int32 arrays -> uint32, of one token at its position; numpy or jax."""
    x = (tokens.astype(np.uint32) + np.uint32(1)) * np.uint32(374761393)
    x = x + positions.astype(np.uint32) * np.uint32(668265263)
    return (x ^ (x >> 15)) * np.uint32(2246822519)


def hidden_of(hashes):
    """[...] uint32, a seed plus the hashes of a prefix -> [..., features], exact in float32."""
    hashes = (hashes ^ (hashes >> 15)) * np.uint32(2654435761)
    mixed = (hashes[..., None] ^ (hashes[..., None] >> 13)) * MIXERS >> 16
    return mixed.astype(np.float32) / 32768 - 1


class ToyMemory(NamedTuple):
    hashes: jax.Array  # [batch, slots] uint32

    def keep(self, order):
        return ToyMemory(jnp.take_along_axis(self.hashes, order, axis=1))

    def grow(self, slots):
        return ToyMemory(jnp.pad(self.hashes, ((0, 0), (0, slots - self.hashes.shape[1]))))


def toy_model(seeds, dtype=jnp.float32):
    """Sentence i is labelled by the random model `seeds[i]`."""

    def extend(memory, used, tokens, positions, visible):
        hashes = jax.lax.dynamic_update_slice_in_dim(memory.hashes, token_hash(tokens, positions), used, axis=1)
        seen = jnp.sum(jnp.where(visible, hashes[:, None], jnp.uint32(0)), axis=-1, dtype=jnp.uint32)
        return hidden_of(seen + seeds[:, None]).astype(dtype), ToyMemory(hashes)

    return extend, ToyMemory(jnp.zeros((len(seeds), 0), jnp.uint32))


@partial(jax.jit, static_argnames=("beam_size", "num_steps", "scoring", "normalize_length", "width", "dtype"))
def run(seeds, tables, kernel=KERNEL, *, beam_size, num_steps, scoring, normalize_length, width=8, dtype=jnp.float32):
    return search.search_labels(
        *toy_model(seeds, dtype),
        kernel,
        tables,
        beam_size=beam_size,
        num_steps=num_steps,
        scoring=scoring,
        normalize_length=normalize_length,
        tokens_per_pass=width,
    )


def write(choices, words):
    """Returns the ids that choices write."""
    tokens, pieces, label = [], [piece for word in words for piece in word], None
    for choice in choices:
        if choice == 0:
            tokens.append(pieces.pop(0))
        elif choice >= 2:
            label = choice - 2
            tokens.append(OPEN_IDS[label])
        else:
            tokens.append(1 if label is None else CLOSE_IDS[label])
            label = None
    return tokens


def parse(choices, word_lengths, labels):
    """Returns the spans of an output, asserting each rule; a third statement of them, one choice at a time."""
    spans, word, left, opened = [], 0, 0, None  # left: pieces of the current word still to copy
    for at, choice in enumerate(choices):
        if choice == 0:
            assert left or word < len(word_lengths), "copies past the sentence"
            left = (left or word_lengths[word]) - 1
            word += left == 0
            continue
        assert left == 0, "a tag or the end within a word"
        if choice >= 2:
            assert opened is None, "nested"
            assert word < len(word_lengths), "opens after the last word"
            assert choice - 2 in labels, "label not permitted"
            opened = (word, choice - 2)
        elif opened is not None:
            assert choice == 1
            assert word > opened[0], "an empty mention"
            spans.append((opened[0], word, opened[1]))
            opened = None
        else:
            assert choice == 1
            assert word == len(word_lengths), "ends too early"
            assert at == len(choices) - 1, "goes on after the end"
            return spans
    raise AssertionError("does not end")


def random_sentences(count, rng):
    """Sentences of 0 to 6 words of 1 to 4 pieces; ids are any, padding, EOS and tags too; and permitted labels."""
    sentences = [
        [rng.integers(0, VOCAB, rng.integers(1, 5)).tolist() for _ in range(rng.integers(0, 7))] for _ in range(count)
    ]
    return sentences, rng.random((count, 2)) < 0.6


def broken(kernel):
    kernel = kernel.copy()
    kernel[:, [0, 5, 13]], kernel[:, [1, 12]], kernel[:, 7] = np.nan, np.inf, -np.inf
    return kernel


@pytest.mark.parametrize(("scoring", "beam_size"), [("full", 1), ("full", 4), ("local", 4), ("marginal", 4)])
@pytest.mark.parametrize("kernel", [KERNEL, broken(KERNEL)], ids=["random", "overflowing"])
def test_every_output_obeys_the_rules_and_copies_its_sentence(scoring, beam_size, kernel):
    rng = np.random.default_rng(1)
    sentences, permitted = random_sentences(1024, rng)
    tables = label_automaton.build_tables(sentences, OPEN_IDS, CLOSE_IDS, permitted, 24)
    seeds = rng.integers(0, 2**32, len(sentences), np.uint32)
    found = jax.device_get(
        run(seeds, tables, kernel, beam_size=beam_size, num_steps=37, scoring=scoring, normalize_length=True)
    )
    assert np.all(found.lengths[:, 0] > 0)
    assert np.array_equal(found.lengths == 0, np.isneginf(found.scores))
    assert not np.any(np.isnan(found.scores))
    assert np.all(found.scores[:, :-1] >= found.scores[:, 1:])
    assert np.all(found.decoder_passes <= found.lengths.max(axis=1))
    for i, words in enumerate(sentences):
        word_lengths, labels = [len(word) for word in words], np.flatnonzero(permitted[i])
        outputs = set()
        for length, tokens, choices in zip(found.lengths[i], found.tokens[i], found.choices[i], strict=True):
            assert not np.any(tokens[length:])
            assert np.all(choices[length:] == -1)
            if length:
                output = tuple(choices[:length].tolist())
                spans = parse(output, word_lengths, labels)
                assert spans == choices_to_spans(choices, word_lengths, num_labels=2)
                assert tokens[:length].tolist() == write(output, words)
                copied = tokens[:length][choices[:length] == 0].tolist()
                assert copied == [piece for word in words for piece in word]
                outputs.add(output)
        assert len(outputs) == np.sum(found.lengths[i] > 0), "the hypotheses of a sentence differ"


# Word pieces and permitted labels; ids that collide with padding (0), EOS (1) and tags (12 to 15) are meant.
SENTENCES = [
    ([], (0, 1)),
    ([[1]], (0, 1)),
    ([[0, 13, 12]], (0, 1)),
    ([[2, 3], [12], [1]], (0, 1)),
    ([[7], [14, 0], [15], [7]], (0,)),
    ([[4], [5], [1, 1, 0]], ()),
]
MOST_OUTPUTS, MODELS = 41, 40
SEEDS = np.random.default_rng(2).integers(0, 2**32, (len(SENTENCES), MODELS), np.uint32)
TABLES = label_automaton.build_tables(
    [words for words, _ in SENTENCES for _ in range(MODELS)],
    OPEN_IDS,
    CLOSE_IDS,
    [[0 in labels, 1 in labels] for _, labels in SENTENCES for _ in range(MODELS)],
    6,
)
NUM_STEPS = label_automaton.max_steps(TABLES)
run_all = partial(run, SEEDS.reshape(-1), TABLES, num_steps=NUM_STEPS)


@dataclasses.dataclass
class Reference:
    """All outputs of one sentence, and the log-probability of each choice after each prefix under each model.

    `log_probs[prefix][choice]` is [models] float64.
    """

    outputs: list[tuple[int, ...]]
    log_probs: dict[tuple[int, ...], dict[int, np.ndarray]]

    def total(self, choices):
        return sum(self.log_probs[choices[:t]][choice] for t, choice in enumerate(choices))


def make_reference(words, outputs, seeds, scoring):
    following: dict[tuple[int, ...], set[int]] = {}
    for output in outputs:
        for t, choice in enumerate(output):
            following.setdefault(output[:t], set()).add(choice)
    hashes, log_probs = {}, {}
    for prefix in sorted(following, key=len):
        before = hashes[prefix[:-1]] if prefix else seeds
        token, position = (np.array([x], np.int32) for x in (write(prefix, words)[-1] if prefix else 0, len(prefix)))
        hashes[prefix] = before + token_hash(token, position)
        logits = hidden_of(hashes[prefix]).astype(np.float64) @ KERNEL.astype(np.float64)
        of_choice = {choice: logits[:, write((*prefix, choice), words)[-1]] for choice in following[prefix]}
        competing = np.stack(list(of_choice.values()), axis=1) if scoring == "local" else logits
        normaliser = np.log(np.sum(np.exp(competing), axis=1))
        log_probs[prefix] = {choice: logit - normaliser for choice, logit in of_choice.items()}
        if scoring == "marginal":
            tags = sum(np.exp(p) for choice, p in log_probs[prefix].items() if choice != label_automaton.COPY)
            if label_automaton.COPY in following[prefix]:
                log_probs[prefix][label_automaton.COPY] = np.log1p(-tags) * np.ones(len(seeds))
            else:
                log_probs[prefix] = {choice: p - np.log(tags) for choice, p in log_probs[prefix].items()}
    return Reference(outputs, log_probs)


@pytest.fixture(scope="module", params=["full", "local", "marginal"])
def references(request, permitted_outputs):
    """(scoring, a Reference for each of SENTENCES)."""
    made = []
    for (words, labels), seeds in zip(SENTENCES, SEEDS, strict=True):
        outputs = list(permitted_outputs(tuple(map(len, words)), labels))
        made.append(make_reference(words, outputs, seeds, request.param))
    return request.param, made


def found_by_model(found):
    """Yields (sentence number, model number, {choices: score}) of a search over TABLES."""
    found = jax.device_get(found)
    for row, (scores, lengths, choices) in enumerate(zip(found.scores, found.lengths, found.choices, strict=True)):
        outputs = [tuple(c[:length].tolist()) for c, length in zip(choices, lengths, strict=True) if length]
        assert len(set(outputs)) == len(outputs)
        yield *divmod(row, MODELS), dict(zip(outputs, scores.tolist(), strict=False))


@pytest.mark.parametrize("normalize_length", [True, False])
def test_a_beam_as_wide_as_the_outputs_ranks_all_of_them_as_brute_force(references, normalize_length):
    scoring, made = references
    assert max(len(reference.outputs) for reference in made) == MOST_OUTPUTS
    found = run_all(beam_size=MOST_OUTPUTS, scoring=scoring, normalize_length=normalize_length)
    for sentence, model, scores in found_by_model(found):
        reference = made[sentence]
        expected = {
            output: reference.total(output)[model] / (len(output) if normalize_length else 1)
            for output in reference.outputs
        }
        assert scores.keys() == expected.keys()
        assert scores == pytest.approx(expected, abs=2e-5)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert expected[next(iter(scores))] == pytest.approx(max(expected.values()), abs=2e-5)


def reference_beam(reference, model, beam_size, normalize_length):
    """Beam search in plain Python: finished and open hypotheses compete at every step. Returns {choices: score}."""
    beam = {(): 0.0}

    def rank(item):
        return item[1] / len(item[0]) if normalize_length else item[1]

    while any(prefix in reference.log_probs for prefix in beam):
        extended = {}
        for prefix, total in beam.items():
            if prefix in reference.log_probs:
                for choice, log_probs in reference.log_probs[prefix].items():
                    extended[*prefix, choice] = total + log_probs[model]
            else:
                extended[prefix] = total
        beam = dict(sorted(extended.items(), key=rank, reverse=True)[:beam_size])
    return {prefix: rank((prefix, total)) for prefix, total in beam.items()}


@pytest.mark.parametrize(("beam_size", "normalize_length"), [(1, True), (3, True), (3, False)])
def test_greedy_and_narrow_beams_equal_a_plain_python_search(references, beam_size, normalize_length):
    scoring, made = references
    found = run_all(beam_size=beam_size, scoring=scoring, normalize_length=normalize_length)
    for sentence, model, scores in found_by_model(found):
        expected = reference_beam(made[sentence], model, beam_size, normalize_length)
        assert list(scores) == list(expected)
        assert scores == pytest.approx(expected, abs=2e-5)


def test_greedy_takes_the_likeliest_candidate_of_every_step(references):
    scoring, made = references
    found = run_all(beam_size=1, scoring=scoring, normalize_length=True)
    for sentence, model, scores in found_by_model(found):
        log_probs, choices = made[sentence].log_probs, ()
        while choices in log_probs:
            following = log_probs[choices]
            choices = (*choices, max(following, key=lambda choice: following[choice][model]))
        assert list(scores) == [choices]


@pytest.mark.parametrize("references", ["full"], indirect=True)
def test_the_toy_model_notices_nodes_that_are_not_its_own(references, monkeypatch):
    scoring, made = references
    monkeypatch.setattr(search, "FIRST_SLOTS", 24)
    monkeypatch.setattr(ToyMemory, "keep", lambda memory, order: memory)
    found = run.__wrapped__(
        SEEDS.reshape(-1), TABLES, beam_size=3, num_steps=NUM_STEPS, scoring=scoring, normalize_length=True
    )
    wrong = sum(
        scores != pytest.approx(reference_beam(made[sentence], model, 3, True), abs=2e-5)
        for sentence, model, scores in found_by_model(found)
    )
    assert wrong > 10


@pytest.mark.parametrize(
    ("scoring", "beam_size", "width", "first_slots"),
    [("full", 1, 1, 96), ("local", 1, 3, 8), ("full", 3, 3, 8), ("marginal", 3, 7, 24), ("local", 3, 20, 32)],
)
def test_what_a_pass_holds_and_when_the_memory_is_tidied_changes_no_answer(
    monkeypatch, scoring, beam_size, width, first_slots
):
    arguments = {"beam_size": beam_size, "num_steps": NUM_STEPS, "scoring": scoring, "normalize_length": True}
    expected = run(SEEDS.reshape(-1), TABLES, **arguments)
    monkeypatch.setattr(search, "FIRST_SLOTS", first_slots)
    found = jax.jit(partial(run.__wrapped__, width=width, **arguments))(SEEDS.reshape(-1), TABLES)
    for name in ("tokens", "choices", "lengths"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("scores", "sums", "local_log_probs"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6)


def test_chains_of_forced_tokens_take_one_pass_however_long_where_they_cost_nothing():
    tables = label_automaton.build_tables([[[2, 3], [4], [5] * 7]], OPEN_IDS, CLOSE_IDS, [False, False], 12)
    arguments = {"beam_size": 1, "num_steps": 16, "normalize_length": True}
    full = run(np.array([1], np.uint32), tables, scoring="full", width=11, **arguments)
    assert full.decoder_passes.tolist() == [1]
    local = run(np.array([1], np.uint32), tables, scoring="local", width=2, **arguments)
    assert local.decoder_passes.tolist() == [1]
    np.testing.assert_array_equal(full.tokens, local.tokens)


def test_scores_are_float32_whatever_the_dtype_of_the_model():
    kernel = KERNEL.astype(jnp.bfloat16)
    arguments = {"beam_size": 3, "num_steps": NUM_STEPS, "scoring": "full", "normalize_length": True}
    low = run(SEEDS.reshape(-1), TABLES, kernel, dtype=jnp.bfloat16, **arguments)
    high = run(SEEDS.reshape(-1), TABLES, kernel.astype(np.float32), **arguments)
    assert low.scores.dtype == jnp.float32
    rounded = run(SEEDS.reshape(-1), TABLES, kernel.astype(np.float32), dtype=jnp.bfloat16, **arguments)
    np.testing.assert_array_equal(low.tokens, rounded.tokens)
    np.testing.assert_array_equal(low.scores, rounded.scores)
    assert not np.array_equal(low.scores, high.scores)


def test_beams_without_a_hypothesis_do_not_keep_the_search_going():
    tables = label_automaton.build_tables([[[2, 3], [4]]], OPEN_IDS, CLOSE_IDS, [False, False], 4)
    arguments = {"num_steps": 8, "scoring": "full", "normalize_length": False}
    found = run(np.array([1], np.uint32), tables, beam_size=16, **arguments)
    assert found.lengths.tolist() == [[4] + [0] * 15]


def test_hypotheses_cut_off_by_num_steps_count_as_none_and_are_refused():
    words = [[2, 3], [4]]
    tables = label_automaton.build_tables([words, []], OPEN_IDS, CLOSE_IDS, [True, True], 4)
    found = run(np.array([1, 2], np.uint32), tables, beam_size=2, num_steps=3, scoring="full", normalize_length=False)
    assert np.all(np.isneginf(found.scores[0]))
    assert found.lengths.tolist() == [[0, 0], [1, 0]]
    with pytest.raises(ValueError, match="num_steps below max_steps"):
        choices_to_spans(np.asarray(found.choices[0, 0]), [2, 1], num_labels=2)


def test_a_sentence_is_labelled_alike_in_any_batch_and_padding():
    rng = np.random.default_rng(3)
    sentences, permitted = random_sentences(32, rng)
    seeds = rng.integers(0, 2**32, len(sentences), np.uint32)
    whole = label_automaton.build_tables(sentences, OPEN_IDS, CLOSE_IDS, permitted, 24)
    half = label_automaton.build_tables(sentences[16:], OPEN_IDS, CLOSE_IDS, permitted[16:], 32)
    first = run(seeds, whole, beam_size=3, num_steps=37, scoring="full", normalize_length=True)
    second = run(seeds[16:], half, beam_size=3, num_steps=48, scoring="full", normalize_length=True)
    np.testing.assert_array_equal(first.tokens[16:], second.tokens[..., :37])
    np.testing.assert_allclose(first.scores[16:], second.scores, rtol=1e-5)


def test_misuse_is_refused_with_the_numbers():
    tables = label_automaton.build_tables([[[2]], [[3]]], OPEN_IDS, CLOSE_IDS, [True, True], 2)
    run_both = partial(run, np.array([1, 2], np.uint32), tables, num_steps=5, normalize_length=True)
    with pytest.raises(ValueError, match="at least 1, not -1"):
        run_both(beam_size=4, scoring="full", width=-1)
    with pytest.raises(ValueError, match="full, local, marginal, not 'global'"):
        run_both(beam_size=1, scoring="global")
