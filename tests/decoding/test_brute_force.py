"""Small random mT5s: the label decoder returns what scoring every permitted output by teacher forcing returns.

Nothing is shared with the search but the model's parameters and the meaning of choices: outputs come from the rules'
enumeration (conftest), their probabilities from whole passes without a cache, sums from numpy in float64. A beam as
wide as the outputs must hold all of them, each once, best first; a beam of 1 must take a likeliest candidate of every
step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from medmt5.decoding.constrained import make_label_decoder
from medmt5.decoding.label_automaton import build_tables
from medmt5.decoding.label_spans import choices_to_spans
from medmt5.model import mt5
from medmt5.partitioning import Partitioning

CONFIG = mt5.MT5Config(
    vocab_size=24,
    emb_dim=8,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=4,
    mlp_dim=16,
    attention="plain",  # compiles faster
)
EOS, OPEN_IDS, CLOSE_IDS = 1, (20, 22), (21, 23)
COPY, END, OPEN = 0, 1, 2
SCORINGS = ("full", "local", "marginal")
TOLERANCE = 2e-5  # a token, float32, as in test_search; 1 - p of `marginal` loses most

# Word pieces and permitted labels; ids that collide with padding (0), EOS (1) and tags (20 to 23) are meant.
SENTENCES = [
    ([], (0, 1)),
    ([[1]], (0, 1)),
    ([[0, 21, 20]], (1,)),
    ([[2, 3], [20]], (0, 1)),
    ([[4], [22, 0], [23]], (0, 1)),
    ([[7, 8, 9], [7], [7, 8]], (0, 1)),
    ([[12], [1], [13, 14], [15]], (1,)),
    ([[5], [6, 0], [16], [17], [18], [19, 1]], ()),
]
LONG_SENTENCES = [
    ([[3], [20, 4], [5], [0], [6, 7], [21]], (0, 1)),
    ([[8, 9], [1], [10], [11, 12, 13], [22], [23]], (0,)),
]
MODELS = 1000
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimized")]


class Outputs(NamedTuple):
    """Every permitted output of some sentences, padded to the most outputs and the longest one.

    counts:     [sentences]                    outputs
    tokens:     [sentences, outputs, steps]    then 0
    choices:    [sentences, outputs, steps]    then -1
    candidates: [sentences, outputs, steps, 4] ids of the candidates before the step
    permitted:  [sentences, outputs, steps, 4] bool
    """

    counts: np.ndarray
    tokens: np.ndarray
    choices: np.ndarray
    candidates: np.ndarray
    permitted: np.ndarray


def list_outputs(sentences, enumerate_outputs) -> Outputs:
    listed = [list(enumerate_outputs(tuple(map(len, words)), labels)) for words, labels in sentences]
    shape = (len(sentences), max(map(len, listed)), max(len(output) for outputs in listed for output in outputs))
    tokens, choices = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    candidates, permitted = np.zeros((*shape, 4), np.int32), np.zeros((*shape, 4), bool)
    for s, ((words, _), outputs) in enumerate(zip(sentences, listed, strict=True)):
        pieces = [piece for word in words for piece in word]
        following: dict[tuple[int, ...], set[int]] = {}
        for output in outputs:
            for t, choice in enumerate(output):
                following.setdefault(output[:t], set()).add(choice)
        for o, output in enumerate(outputs):
            copied, label = 0, None
            for t, choice in enumerate(output):
                piece = pieces[copied] if copied < len(pieces) else 0
                candidates[s, o, t] = piece, EOS if label is None else CLOSE_IDS[label], *OPEN_IDS
                permitted[s, o, t, list(following[output[:t]])] = True
                tokens[s, o, t], choices[s, o, t] = candidates[s, o, t, choice], choice
                copied += choice == COPY
                label = choice - OPEN if choice >= OPEN else label if choice == COPY else None
    return Outputs(np.array([len(outputs) for outputs in listed]), tokens, choices, candidates, permitted)


def random_params(models: int, seed: int):
    """Returns parameters with `models` on axis 0: large enough that each model has strong opinions of its own."""
    rng = np.random.default_rng(seed)
    shapes = nn.unbox(jax.eval_shape(lambda: mt5.init_params(CONFIG, jax.random.key(0))))

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name:
            return np.ones((models, *leaf.shape), np.float32)
        spread = 1.0 if "embedding" in name else 1.5 / np.sqrt(leaf.shape[-2])
        return rng.normal(0, spread, (models, *leaf.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    params["decoder"]["logits_dense"]["kernel"][..., OPEN_IDS[0] :] *= 1.5  # tags among 24 tokens
    return params


class Reference(NamedTuple):
    """Of each output under each model, [models, sentences of a model, outputs] float64; by scoring.

    totals: sums of log-probabilities
    regret: the most that a candidate of any step was better than the one taken
    """

    totals: dict[str, np.ndarray]
    regret: dict[str, np.ndarray]


@jax.jit
@jax.vmap
def teacher_force(params, inputs, targets):
    """Inputs [rows, inputs], targets [rows, steps] -> logits [rows, steps, vocab]."""
    batch = {"encoder_input_tokens": inputs, "decoder_input_tokens": jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))}
    hidden = mt5.MT5(CONFIG).apply({"params": params}, batch)
    return jnp.einsum("rsf,fv->rsv", hidden, mt5.output_kernel(params), precision="highest")


def log_sum_exp(x):
    largest = np.maximum(np.max(x, axis=-1, keepdims=True), np.finfo(np.float32).min)
    with np.errstate(divide="ignore"):  # after the end of an output there is no candidate
        return largest + np.log(np.sum(np.exp(x - largest), axis=-1, keepdims=True, dtype=np.float64))


def score_outputs(params, inputs, outputs: Outputs, sentences_of) -> Reference:
    """Scores every output by each model: inputs [models, sentences of a model, inputs], `sentences_of` [models, …]."""
    tokens = outputs.tokens[sentences_of]
    models, each, most, steps = tokens.shape
    logits = np.asarray(
        teacher_force(params, np.repeat(inputs, most, axis=1), tokens.reshape(models, each * most, steps))
    )
    logits = logits.reshape(*tokens.shape, -1)
    permitted, choices = outputs.permitted[sentences_of], outputs.choices[sentences_of]
    candidates = np.take_along_axis(logits, outputs.candidates[sentences_of], axis=-1).astype(np.float64)
    full = candidates - log_sum_exp(logits)
    local = candidates - log_sum_exp(np.where(permitted, candidates, -np.inf))
    # One candidate is certain; of several the copy has what the tags leave.
    tags = np.sum(np.exp(full), axis=-1, where=permitted & (np.arange(4) != COPY))
    marginal = full.copy()
    marginal[..., COPY] = np.log1p(-np.where(permitted[..., COPY], tags, 0))
    marginal[np.sum(permitted, axis=-1) == 1] = 0
    totals, regret = {}, {}
    for scoring, log_probs in zip(SCORINGS, (full, local, marginal), strict=True):
        taken = np.take_along_axis(log_probs, np.maximum(choices, 0)[..., None], axis=-1)[..., 0]
        best = np.max(log_probs, axis=-1, where=permitted, initial=-np.inf)
        totals[scoring] = np.sum(taken, axis=-1, where=choices >= 0)
        regret[scoring] = np.max(best - taken, axis=-1, where=choices >= 0, initial=0)
    return Reference(totals, regret)


class Trial(NamedTuple):
    """Models, each with the sentences it labels, and what it must find.

    inputs: [models, sentences of a model, inputs]; tables: leaves [models, sentences of a model, …].
    """

    params: object
    inputs: np.ndarray
    tables: object
    sentences: Sequence[tuple]
    sentences_of: np.ndarray
    outputs: Outputs
    reference: Reference

    @property
    def num_steps(self) -> int:
        return self.outputs.tokens.shape[-1]


def make_trial(sentences, models, enumerate_outputs, seed) -> Trial:
    # Every two sentences meet in some model's batch.
    sentences_of = (np.arange(models)[:, None] * [1, 3] + [0, 1]) % len(sentences)
    outputs = list_outputs(sentences, enumerate_outputs)
    num_pieces = max(sum(map(len, words)) for words, _ in sentences)
    inputs = np.zeros((len(sentences), num_pieces + 3), np.int32)
    for row, (words, labels) in zip(inputs, sentences, strict=True):
        ids = [*(OPEN_IDS[label] for label in labels), *(piece for word in words for piece in word), EOS]
        row[: len(ids)] = ids
    tables = [
        build_tables(
            [sentences[s][0] for s in of_model],
            OPEN_IDS,
            CLOSE_IDS,
            [[label in sentences[s][1] for label in (0, 1)] for s in of_model],
            num_pieces,
        )
        for of_model in sentences_of
    ]
    params = random_params(models, seed)
    parts = [
        score_outputs(jax.tree.map(lambda leaf: leaf[part], params), inputs[of_part], outputs, of_part)  # noqa: B023
        for part in np.array_split(np.arange(models), min(models, 4))  # a quarter of the logits in memory
        for of_part in [sentences_of[part]]
    ]
    reference = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    tables = jax.tree.map(lambda *leaves: np.stack(leaves), *tables)
    return Trial(params, inputs[sentences_of], tables, sentences, sentences_of, outputs, reference)


@pytest.fixture(scope="module")
def trial(optimized, permitted_outputs):
    return make_trial(SENTENCES, MODELS, permitted_outputs, seed=0)


@pytest.fixture(scope="module")
def long_trial(optimized, permitted_outputs):
    """One model: a beam of thousands is slow."""
    return make_trial(LONG_SENTENCES, 1, permitted_outputs, seed=1)


def make_decoder(beam_size, scoring, normalize_length):
    mesh = Partitioning(num_devices=1).make_mesh()
    return make_label_decoder(CONFIG, mesh, beam_size=beam_size, scoring=scoring, normalize_length=normalize_length)


def decode_all(decode, trial: Trial):
    """One call a model of one compiled program: hypotheses with leaves [models, sentences of a model, …]."""
    found = []
    for m in range(len(trial.inputs)):
        arguments = jax.tree.map(lambda leaf: leaf[m], (trial.params, trial.inputs, trial.tables))  # noqa: B023
        found.append(jax.device_get(decode(*arguments, trial.num_steps)))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def find_outputs(found, trial: Trial) -> np.ndarray:
    """Returns which output each hypothesis is, [models, sentences of a model, beam], -1 where there is none.

    Asserts that each is one of the permitted outputs and written as it must be.
    """
    numbers = [
        {choices.tobytes(): o for o, choices in enumerate(of_sentence[:count].astype(np.int8))}
        for of_sentence, count in zip(trial.outputs.choices, trial.outputs.counts, strict=True)
    ]
    places = np.full(found.lengths.shape, -1)
    for m, b, k in np.argwhere(found.lengths > 0):
        places[m, b, k] = numbers[trial.sentences_of[m, b]][found.choices[m, b, k].astype(np.int8).tobytes()]
    made = places >= 0
    written = trial.outputs.tokens[trial.sentences_of[..., None], places]
    np.testing.assert_array_equal(found.tokens, np.where(made[..., None], written, 0))
    lengths = np.sum(trial.outputs.choices >= 0, axis=-1)[trial.sentences_of[..., None], places]
    np.testing.assert_array_equal(found.lengths, np.where(made, lengths, 0))
    np.testing.assert_array_equal(np.isneginf(found.scores), ~made)
    return places


def check_scores(found, places, trial: Trial, scoring, normalize_length) -> None:
    """Asserts that scores, sums and local log-probabilities of the hypotheses are those of the reference."""
    made = places >= 0
    totals, local = (
        np.take_along_axis(trial.reference.totals[of], np.maximum(places, 0), axis=-1)[made]
        for of in (scoring, "local")
    )
    sums, lengths = found.sums[made], found.lengths[made]
    np.testing.assert_allclose(sums / lengths, totals / lengths, atol=TOLERANCE, rtol=0)
    local_sums = np.sum(found.local_log_probs, axis=-1, dtype=np.float64)[made]
    np.testing.assert_allclose(local_sums / lengths, local / lengths, atol=TOLERANCE, rtol=0)
    scores = sums / lengths if normalize_length else sums
    np.testing.assert_allclose(found.scores[made], scores, rtol=1e-6)


def rank_outputs(trial: Trial, scoring, normalize_length) -> np.ndarray:
    """Returns what each output is compared by, [models, sentences of a model, outputs]; -inf where there is none."""
    lengths = np.sum(trial.outputs.choices >= 0, axis=-1)[trial.sentences_of]
    ranks = trial.reference.totals[scoring] / (np.maximum(lengths, 1) if normalize_length else 1)
    return np.where(lengths > 0, ranks, -np.inf)


def check_ranking(found, trial: Trial, scoring, normalize_length) -> None:
    """Asserts that every permitted output is there, once, with its score, best first, and the first is the best."""
    places = find_outputs(found, trial)
    counts = trial.outputs.counts[trial.sentences_of]
    for (m, b), count in np.ndenumerate(counts):
        np.testing.assert_array_equal(np.sort(places[m, b])[-count:], np.arange(count))
    np.testing.assert_array_equal(np.sum(places >= 0, axis=-1), counts)
    check_scores(found, places, trial, scoring, normalize_length)
    assert np.all(found.scores[..., :-1] >= found.scores[..., 1:])
    ranks = rank_outputs(trial, scoring, normalize_length)
    short = np.max(ranks, axis=-1) - np.take_along_axis(ranks, places[..., :1], axis=-1)[..., 0]
    assert np.all(short <= TOLERANCE * (1 if normalize_length else found.lengths[..., 0]))


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_beam_as_wide_as_the_outputs_ranks_all_of_them_as_teacher_forcing(trial, scoring):
    decode = make_decoder(int(trial.outputs.counts.max()), scoring, normalize_length=True)
    check_ranking(decode_all(decode, trial), trial, scoring, normalize_length=True)


@pytest.mark.parametrize("scoring", ["full", "local"])
def test_six_words_have_thousands_of_outputs_and_the_best_is_found(long_trial, scoring):
    assert long_trial.outputs.counts.tolist() == [2131, 233]
    decode = make_decoder(2131, scoring, normalize_length=False)
    check_ranking(decode_all(decode, long_trial), long_trial, scoring, normalize_length=False)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_beam_of_one_is_greedy_and_often_not_the_best(trial, scoring):
    found = decode_all(make_decoder(1, scoring, normalize_length=True), trial)
    places = find_outputs(found, trial)
    assert np.all(places >= 0)
    check_scores(found, places, trial, scoring, normalize_length=True)
    regret = np.take_along_axis(trial.reference.regret[scoring], places, axis=-1)
    assert regret.max() < TOLERANCE
    for m in range(0, MODELS, 100):
        for b, s in enumerate(trial.sentences_of[m]):
            words, labels = trial.sentences[s]
            spans = choices_to_spans(found.choices[m, b, 0], list(map(len, words)), num_labels=2)
            assert {label for _, _, label in spans} <= set(labels)
    best = np.max(rank_outputs(trial, scoring, normalize_length=True), axis=-1)
    missed = np.mean(found.scores[..., 0] < best - TOLERANCE)
    assert missed > 0.02, "greedy search finds nearly every best output: these models cannot tell a search from another"
