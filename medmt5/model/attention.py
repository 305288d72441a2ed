"""Multi-head attention of T5: no 1/sqrt(d) (it is folded into the query's initialisation), float32 scores and softmax.

`attend` is the one place where scores are made; modules here only project. Three implementations compute the same:

    plain    all scores at once, [batch, heads, queries, keys]; what the others are held to
    chunked  one example at a time, scores made again in the backward pass: they stay in the cache of a CPU, and memory
             does not grow with batch x queries x keys
    cudnn    `jax.nn.dot_product_attention` with cuDNN's fused kernels, on GPUs in bfloat16

Attention dropout is not in there. T5X shares its mask over the queries, and then it is the same to drop a key's weight
or its value: values are dropped before (`drop_values`), which costs one number a key instead of one a score.
"""

from __future__ import annotations

import logging
from functools import cache

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from medmt5.model.layers import Kernel
from medmt5.model.lora import NO_LORA, LoRA

MASKED = -1e10
IMPLEMENTATIONS = ("auto", "plain", "chunked", "cudnn")
logger = logging.getLogger(__name__)


def attend(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    *,
    mask: jax.Array,
    bias: jax.Array | None,
    implementation: str = "plain",
) -> jax.Array:
    """Returns softmax(q k^T + bias) v, [batch, queries, heads, head_dim] in the dtype of `values`.

    Args:
      queries, keys, values: [batch, length, heads, head_dim].
      mask: [batch or 1, 1, queries or 1, keys] bool, True = may be seen. One row for all queries is padding: what may
        not be seen comes last.
      bias: [1, heads, queries, keys] float32, or None; shared by the examples, never copied for each.
      implementation: one of `IMPLEMENTATIONS`; "auto" is what `choose` says.
    """
    if implementation == "auto":
        implementation = choose(queries.dtype)
    if implementation == "chunked":
        return _sharded(_chunked, queries, keys, values, mask, bias)
    if implementation == "cudnn":
        return _cudnn(queries, keys, values, mask, bias)
    return _plain(queries, keys, values, mask, bias)


def choose(dtype: jnp.dtype) -> str:
    """Returns the implementation for a device of the default backend: what it is fast at and computes rightly."""
    platform = jax.default_backend()
    if platform == "cpu":
        return "chunked"
    if platform == "gpu" and dtype == jnp.bfloat16 and cudnn_is_right():
        return "cudnn"
    return "plain"


@cache
def cudnn_is_right() -> bool:
    """Returns whether cuDNN's attention works here and has right gradients, the bias's too: some versions have not.

    Computes small cases both ways, once a process; says so when it is not used.
    """
    with jax.ensure_compile_time_eval():
        try:
            errors = {name: _cudnn_error(*case) for name, case in _cases().items()}
        except Exception as error:  # whatever XLA raises where cuDNN is missing or refuses
            logger.warning("attention without cuDNN: %s", str(error).strip().splitlines()[0][:200])
            return False
    wrong = {name: size for name, size in errors.items() if not size < 0.05}
    for name, size in wrong.items():
        logger.warning("attention without cuDNN: wrong here with %s (relative error %.2g)", name, size)
    return not wrong


def _cases() -> dict[str, tuple[jax.Array, jax.Array | None]]:
    """Returns what the model asks for -> mask and bias of 8 examples, 129 queries and 129 keys."""
    batch, heads, length = 8, 2, 129
    bias = jax.random.normal(jax.random.key(3), (1, heads, length, length), jnp.float32)
    padding = jnp.arange(length) < jnp.arange(length - 7 * 16, length + 1, 16)[:, None]
    segments = jnp.arange(length) // (3 * jnp.arange(7, 7 + batch)[:, None])
    return {
        "padding and a bias": (padding[:, None, None], bias),
        "padding": (padding[:, None, None], None),
        "a causal mask and a bias": (jnp.tril(jnp.ones((length, length), bool))[None, None], bias),
        "packed rows and a bias": ((segments[:, :, None] == segments[:, None])[:, None], bias),
        "packed rows": ((segments[:, :, None] == segments[:, None])[:, None], None),
    }


def _cudnn_error(mask: jax.Array, bias: jax.Array | None) -> float:
    """Returns the largest relative error of cuDNN's values and gradients."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (8, mask.shape[3], 2, 64), jnp.bfloat16) / 4 for key in keys)

    def both(attention):
        def total(q, k, v, bias):
            out = attention(q, k, v, mask, bias)
            return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

        return jax.jit(jax.grad(total, (0, 1, 2) if bias is None else (0, 1, 2, 3), has_aux=True))(q, k, v, bias)

    (gradients, out), (right_gradients, right_out) = both(_cudnn), both(_plain)
    pairs = zip((out, *gradients), (right_out, *right_gradients), strict=True)
    return max(float(_relative_error(a, b)) for a, b in pairs)


def _relative_error(a: jax.Array, b: jax.Array) -> jax.Array:
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.linalg.norm(a - b) / jnp.linalg.norm(b)


def drop_values(values: jax.Array, rate: float, rng: jax.Array) -> jax.Array:
    """Drops whole rows of values [batch, keys, heads, head_dim]: attention dropout with T5X's mask."""
    keep = jax.random.bernoulli(rng, 1 - rate, (*values.shape[:3], 1))
    return values * (keep / (1 - rate)).astype(values.dtype)


def _plain(queries, keys, values, mask, bias):
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(values.dtype), values)


def _cudnn(queries, keys, values, mask, bias):
    """Holds one bias and its gradient for all examples: cuDNN takes padding as lengths, and what hides keys from all
    examples alike is added to the bias. Packed rows alone, each with a mask of its own, ask for a bias an example.
    """
    num_queries, lengths = queries.shape[1], None
    if mask.shape[2] == 1:
        # A row without a key has weights of 0 / 0 there; what comes of its first one is used by nobody.
        lengths = jnp.maximum(jnp.sum(mask, axis=(1, 2, 3), dtype=jnp.int32), 1)
        lengths, mask = jnp.broadcast_to(lengths, queries.shape[:1]), None
    # Gradients are there for even lengths alone; keys that are added are beyond the lengths, or hidden by the mask.
    more_queries, more_keys = (0, num_queries % 2), (0, keys.shape[1] % 2)
    queries = jnp.pad(queries, ((0, 0), more_queries, (0, 0), (0, 0)))
    keys, values = (jnp.pad(x, ((0, 0), more_keys, (0, 0), (0, 0))) for x in (keys, values))
    square = ((0, 0), (0, 0), more_queries, more_keys)
    bias = None if bias is None else jnp.pad(bias.astype(queries.dtype), square)
    mask = None if mask is None else jnp.pad(mask, square)
    out = jax.nn.dot_product_attention(
        queries, keys, values, bias, mask, scale=1.0, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return out[:, :num_queries]


def _sharded(attention, queries, keys, values, mask, bias):
    """Runs `attention` on each device's own examples and heads: a loop over examples must not cross devices."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attention(queries, keys, values, mask, bias)
    batch, _, heads, _ = nn.logical_to_mesh_axes(("batch", "length", "heads", "kv")) or (None,) * 4
    lengths = PartitionSpec(batch, None, heads, None)
    mask_spec = PartitionSpec(batch if mask.shape[0] > 1 else None, None, None, None)
    bias_spec = None if bias is None else PartitionSpec(None, heads, None, None)
    return jax.shard_map(
        attention,
        in_specs=(lengths, lengths, lengths, mask_spec, bias_spec),
        out_specs=lengths,
        check_vma=False,
    )(queries, keys, values, mask, bias)


@jax.custom_vjp
def _chunked(queries, keys, values, mask, bias):
    return _chunked_forward(queries, keys, values, mask, bias)[0]


def _chunked_forward(queries, keys, values, mask, bias):
    """Walks over the examples; keeps the row maxima and sums [batch, heads, queries], from which weights come again."""

    def one(example):
        q, k, v, hidden = example
        scores = _scores(q, k, hidden, bias)
        largest = jnp.max(scores, axis=-1)
        weights = jnp.exp(scores - largest[..., None])
        total = jnp.sum(weights, axis=-1)
        out = jnp.einsum("hqk,hkd->hqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (out / total[..., None]).astype(v.dtype), largest, total

    q, k, v = (_heads_first(x) for x in (queries, keys, values))
    # Added to scores, not selected: an addition of one row of keys fuses with the bias's, a select asks for all of it.
    hidden = jnp.broadcast_to(jnp.where(mask, 0.0, MASKED), (q.shape[0], *mask.shape[1:]))
    out, largest, total = jax.lax.map(one, (q, k, v, hidden))
    return _heads_first(out), (q, k, v, hidden, bias, out, largest, total)


def _chunked_backward(kept, d_out):
    q, k, v, hidden, bias, out, largest, total = kept

    def one(d_bias, example):
        q, k, v, hidden, out, largest, total, d_out = example
        weights = jnp.exp(_scores(q, k, hidden, bias) - largest[..., None]) / total[..., None]
        # Gradients of keys and values come out as [heads, head_dim, keys]: products that read the large factor as it
        # lies are twice as fast here as those that read it across.
        d_v = jnp.einsum("hqd,hqk->hdk", d_out, weights.astype(v.dtype))
        d_weights = jnp.einsum("hqd,hkd->hqk", d_out, v, preferred_element_type=jnp.float32)
        # The softmax's own term: sum_k w_k dw_k = out . d_out.
        inner = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1, keepdims=True)
        sees_any = (largest > MASKED / 2).astype(jnp.float32)[..., None]  # else weights are equal, whatever the scores
        d_scores = weights * (d_weights - inner) * sees_any
        d_bias = None if d_bias is None else d_bias + d_scores
        d_scores = d_scores.astype(q.dtype)
        d_q = jnp.einsum("hqk,hkd->hqd", d_scores, k)
        d_k = jnp.einsum("hqd,hqk->hdk", q, d_scores)
        return d_bias, (d_q, d_k, d_v)

    examples = (q, k, v, hidden, out, largest, total, _heads_first(d_out))
    d_bias, gradients = jax.lax.scan(one, None if bias is None else jnp.zeros(bias.shape[1:], jnp.float32), examples)
    d_q, d_k, d_v = gradients
    d_k, d_v = (jnp.moveaxis(x, 3, 1) for x in (d_k, d_v))
    return _heads_first(d_q), d_k, d_v, None, None if d_bias is None else d_bias[None]


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _scores(q, k, hidden, bias):
    """[heads, queries, head_dim], [heads, keys, head_dim] -> [heads, queries, keys] float32, of one example; `hidden`
    [1, queries or 1, keys] is `MASKED` where a key may not be seen, else 0.
    """
    scores = jnp.einsum("hqd,hkd->hqk", q, k, preferred_element_type=jnp.float32) + hidden
    return scores if bias is None else scores + bias[0]


def _heads_first(x):
    """[batch, length, heads, head_dim] <-> [batch, heads, length, head_dim]."""
    return jnp.swapaxes(x, 1, 2)


class Attention(nn.Module):
    """Projections around `attend`. Kernels are 2-D, [embed, heads * head_dim], as in T5X's and Hugging Face's
    checkpoints.
    """

    num_heads: int
    head_dim: int
    dropout_rate: float
    dtype: jnp.dtype
    implementation: str = "auto"
    lora: LoRA = NO_LORA

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        source: jax.Array,
        *,
        mask: jax.Array,
        bias: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """Attends from `x` [batch, queries, embed] to `source` [batch, keys, embed]; returns the shape of `x`."""
        joined = self.num_heads * self.head_dim
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

        def query_initializer(key, shape, dtype):
            return fan_in(key, shape, dtype) / jnp.sqrt(self.head_dim)

        def project(name, y, initializer=fan_in):
            y = Kernel(joined, ("embed", "heads"), initializer, self.dtype, self.lora, name=name)(y)
            y = y.reshape(*y.shape[:-1], self.num_heads, self.head_dim)
            return nn.with_logical_constraint(y, ("batch", "length", "heads", "kv"))

        queries = project("query", x, query_initializer)
        keys, values = project("key", source), project("value", source)
        if self.dropout_rate and not deterministic:
            values = drop_values(values, self.dropout_rate, self.make_rng("dropout"))
        out = attend(queries, keys, values, mask=mask, bias=bias, implementation=self.implementation)
        out = out.reshape(*out.shape[:-2], joined)
        return Kernel(x.shape[-1], ("heads", "embed"), fan_in, self.dtype, self.lora, name="out")(out)
