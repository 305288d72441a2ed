"""Search over a device mesh: the same answers, and no cache leaves its device."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from medmt5.decoding import label_automaton, search

assert jax.device_count() == 8
scoring, data = sys.argv[1], int(sys.argv[2])
LAYERS, BATCH, BEAM, SLOTS, FEATURES, VOCAB, STEPS = 2, 16, 4, 16, 8, 32, 16
rng = np.random.default_rng(0)
embedding = jnp.asarray(rng.normal(size=(VOCAB, FEATURES)), jnp.float32)
kernel = jnp.asarray(rng.normal(size=(FEATURES, VOCAB)), jnp.float32)
sentences = [[[i + j] * j for j in range(1, i % 4 + 1)] for i in range(BATCH)]
tables = label_automaton.build_tables(sentences, [28, 30], [29, 31], [True, True], 9)
cache = rng.normal(size=(LAYERS, BATCH, 1, SLOTS, FEATURES)).astype(np.float32).repeat(BEAM, axis=2)
cache = cache.reshape(LAYERS, BATCH * BEAM, SLOTS, FEATURES)

def step_fn(cache, tokens, step):  # attends to what it wrote, row by row
    x = embedding[tokens]
    written = cache.at[:, :, step].set(x)
    weights = jax.nn.softmax(jnp.einsum("rf,lrsf->lrs", x, written))
    return jnp.tanh(jnp.einsum("lrs,lrsf->rf", weights, written)), written

def decode(cache, kernel, tables):
    return search.search_labels(
        step_fn, cache, kernel, tables, beam_size=BEAM, num_steps=STEPS, scoring=scoring, normalize_length=True
    )

alone = jax.jit(decode)(cache, kernel, tables)
mesh = jax.make_mesh((data, 8 // data), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
rows = dict(source="data", word_end="data", num_pieces="data", permitted="data", open_ids=None, close_ids=None)
sharded_tables = type(tables)(**{name: put(getattr(tables, name), axis) for name, axis in rows.items()})
inputs = put(cache, None, "data"), put(kernel, None, "model"), sharded_tables
compiled = jax.jit(decode).lower(*inputs).compile()
together = compiled(*inputs)
np.testing.assert_array_equal(alone.tokens, together.tokens)
np.testing.assert_array_equal(alone.choices, together.choices)
np.testing.assert_allclose(alone.scores, together.scores, rtol=1e-5)
assert together.decoder_passes == alone.decoder_passes
assert together.tokens.sharding.spec[0] == "data", together.tokens.sharding
assert f"f32[{LAYERS},{BATCH * BEAM}," not in compiled.as_text(), "the whole cache lies on one device"
assert "all-gather" not in compiled.as_text()
"""


@pytest.mark.parametrize(("scoring", "data"), [("full", 8), ("local", 4)])
def test_sharding_over_a_mesh_changes_no_answer_and_gathers_no_cache(scoring, data):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    program = [sys.executable, "-c", SCRIPT, scoring, str(data)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
