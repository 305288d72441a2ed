"""Free decoding with an mT5: greedy, beam and nucleus sampling (Holtzman et al. 2020), as one compiled program.

Any token may follow any other; EOS ends an output, then there is only padding. The loop is `beam`'s: a hypothesis
offers its `beam_size` likeliest tokens, for no other can be among the best of its row; sampling offers the one drawn.
A row's output depends neither on the other rows nor on padding. Ids in, ids out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from medmt5 import partitioning
from medmt5.decoding.beam import FLOOR, Beams, beam_search, descending, of_parents, rank
from medmt5.decoding.label_automaton import EOS_ID, PAD_ID
from medmt5.decoding.token_tree import ExtendFn, make_decoder
from medmt5.model import mt5


class Generated(NamedTuple):
    """The outputs of a batch, best first.

    tokens:    [batch, beam, num_steps] int32    EOS included where the output ended, then 0
    log_probs: [batch, beam]            float32  sum of the tokens' log-probabilities under the model; -inf where there
               are fewer outputs than `beam`
    lengths:   [batch, beam]            int32    tokens, EOS included; an output without EOS was cut at `num_steps`; 0
               where there is none
    decoder_passes: int32 scalar, calls of the model
    """

    tokens: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    decoder_passes: jax.Array


@struct.dataclass
class _State:
    done: jax.Array  # [batch, beam] bool: EOS is written


def make_generator(
    config: mt5.MT5Config, mesh: Mesh, *, beam_size: int = 1, normalize_length: bool = True
) -> Callable[[Any, jax.Array, int], Generated]:
    """Returns generate(params, encoder_tokens [batch, inputs] int32, num_steps) -> Generated; see `search_tokens`.

    Compiles once for each shape of (batch, inputs, num_steps).
    """

    def generate(params, encoder_tokens, num_steps):
        decoder = make_decoder(config, params, encoder_tokens, longest=num_steps)
        return search_tokens(
            decoder.extend,
            decoder.empty(),
            mt5.output_kernel(params),
            batch=encoder_tokens.shape[0],
            beam_size=beam_size,
            num_steps=num_steps,
            normalize_length=normalize_length,
        )

    return partitioning.in_context(jax.jit(generate, static_argnums=2), mesh)


def make_sampler(
    config: mt5.MT5Config, mesh: Mesh, *, top_p: float = 1.0, temperature: float = 1.0
) -> Callable[[Any, jax.Array, jax.Array, int], Generated]:
    """Returns sample(params, encoder_tokens [batch, inputs] int32, seeds [batch] uint32, num_steps) -> Generated with
    one output a row; see `sample_tokens`. Compiles once for each shape of (batch, inputs, num_steps).
    """

    def sample(params, encoder_tokens, seeds, num_steps):
        decoder = make_decoder(config, params, encoder_tokens, longest=num_steps)
        return sample_tokens(
            decoder.extend,
            decoder.empty(),
            mt5.output_kernel(params),
            seeds,
            num_steps=num_steps,
            top_p=top_p,
            temperature=temperature,
        )

    return partitioning.in_context(jax.jit(sample, static_argnums=3), mesh)


def search_tokens(
    extend: ExtendFn,
    memory: Any,
    output_kernel: jax.Array,
    *,
    batch: int,
    beam_size: int,
    num_steps: int,
    normalize_length: bool,
) -> Generated:
    """Returns the best `beam_size` outputs of each row; 1 is greedy. Traceable by `jax.jit`.

    Args:
      extend, memory: the model and its memory; see `beam.beam_search`.
      output_kernel: [features, vocab].
      num_steps: an output that has not ended by then is cut there, and competes as it is.
      normalize_length: compare, at every step and at the end, sums of log-probabilities divided by the tokens so far,
        EOS included (as the Medical mT5 authors do), instead of sums.
    """
    count = min(beam_size, output_kernel.shape[1])

    def propose(hidden, state, _):
        return _if_open(state, *_likeliest(jax.nn.log_softmax(_logits(hidden, output_kernel)), count))

    beams, passes = beam_search(
        extend,
        memory,
        _open(batch, beam_size),
        propose,
        _advance,
        num_steps=num_steps,
        normalize_length=normalize_length,
    )
    order = descending(rank(beams.sums, beams.lengths, normalize_length))
    return _generated(of_parents(beams, order), passes)


def sample_tokens(
    extend: ExtendFn,
    memory: Any,
    output_kernel: jax.Array,
    seeds: jax.Array,
    *,
    num_steps: int,
    top_p: float,
    temperature: float,
) -> Generated:
    """Returns one random output a row, as `search_tokens` does the best.

    Args:
      seeds: [batch] uint32. A row's output is a function of its seed and its input: give the rows different ones.
      top_p: draw among the fewest tokens that together have this probability (after `temperature`), in (0, 1]; tokens
        of equal probability stay or go together. Towards 0 it is greedy.
      temperature: logits are divided by it, > 0.
    """
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is a probability in (0, 1], not {top_p}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}; a small top_p is greedy")
    keys = jax.vmap(jax.random.key)(seeds)

    def propose(hidden, state, step):
        logits = _logits(hidden, output_kernel)
        cooled = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature
        nucleus = keep_nucleus(jax.nn.softmax(cooled), top_p)
        noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, step), logits.shape[1:]))(keys)
        # The largest of logits + Gumbel noise is a draw from their softmax.
        drawn = jnp.argmax(jnp.where(nucleus, cooled + noise, -jnp.inf), axis=-1, keepdims=True)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn, axis=-1)
        return _if_open(state, drawn.astype(jnp.int32), log_probs)

    beams, passes = beam_search(
        extend, memory, _open(seeds.shape[0], 1), propose, _advance, num_steps=num_steps, normalize_length=False
    )
    return _generated(beams, passes)


def keep_nucleus(probabilities: jax.Array, top_p: float) -> jax.Array:
    """Returns which of [..., vocab] float32 belong to the nucleus: at least as likely as a threshold, the highest that
    leaves `top_p` in total.

    The threshold is found bit by bit, for floats above 0 are ordered as their bits: 31 sums, where sorting a quarter of
    a million tokens a row would take longer, and would gather a sharded vocabulary.
    """
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def lower(i, threshold):
        higher = threshold | jnp.left_shift(1, 30 - i)
        total = jnp.sum(jnp.where(bits >= higher, probabilities, 0.0), axis=-1, keepdims=True)
        return jnp.where(total >= top_p, higher, threshold)

    return bits >= jax.lax.fori_loop(0, 31, lower, jnp.zeros((*bits.shape[:-1], 1), jnp.int32))


def _logits(hidden: jax.Array, output_kernel: jax.Array) -> jax.Array:
    """[batch, beam, features] -> [batch, beam, vocab], finite float32 whatever the model returns."""
    # HIGHEST: accelerators would else round float32 factors.
    kernel = output_kernel.astype(jnp.float32)
    logits = jnp.einsum("bkf,fv->bkv", hidden, kernel, precision=jax.lax.Precision.HIGHEST)
    return jnp.nan_to_num(logits, nan=FLOOR, posinf=-FLOOR, neginf=FLOOR)


def _likeliest(log_probs: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """[batch, beam, vocab] -> (ids int32, log-probabilities), both [batch, beam, count], best first.

    On a mesh each device finds the best of its rows and its part of the vocabulary: `top_k` alone would gather both.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        values, ids = jax.lax.top_k(log_probs, count)
        return ids, values
    axes = dict(partitioning.COMPUTE_RULES)
    batch, vocab = axes["batch"], axes["vocab"]
    split = PartitionSpec(batch, None, vocab)

    def best_of_part(part):
        values, ids = jax.lax.top_k(part, min(count, part.shape[-1]))
        return ids + jax.lax.axis_index(vocab) * part.shape[-1], values

    ids, values = jax.shard_map(best_of_part, in_specs=split, out_specs=(split, split))(log_probs)
    best = jnp.argsort(values, axis=-1, descending=True)[..., :count]
    return jnp.take_along_axis(ids, best, axis=-1), jnp.take_along_axis(values, best, axis=-1)


def _if_open(state: _State, ids: jax.Array, log_probs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Replaces the candidates [batch, beam, n] of hypotheses that are done by padding, once and at no cost."""
    done = state.done[..., None]
    padding = jnp.where(jnp.arange(ids.shape[-1]) == 0, 0.0, -jnp.inf)
    return jnp.where(done, PAD_ID, ids), jnp.where(done, padding, jnp.maximum(log_probs, FLOOR))


def _open(batch: int, beam_size: int) -> _State:
    return _State(jnp.zeros((batch, beam_size), bool))


def _advance(state: _State, _: jax.Array, token: jax.Array) -> _State:
    return _State(state.done | (token == EOS_ID))


def _generated(beams: Beams, passes: jax.Array) -> Generated:
    found = ~jnp.isneginf(beams.sums)
    return Generated(
        tokens=jnp.where(found[..., None], beams.tokens, PAD_ID),
        log_probs=beams.sums,
        lengths=jnp.where(found, beams.lengths, 0),
        decoder_passes=passes,
    )
