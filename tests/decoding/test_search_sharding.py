"""Search over a device mesh: the same answers, and no memory leaves its device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from medmt5.decoding import label_automaton, search

BATCH, BEAM, FEATURES, VOCAB, STEPS = 16, 4, 8, 32, 16
RNG = np.random.default_rng(0)
EMBEDDING = RNG.normal(size=(VOCAB, FEATURES)).astype(np.float32)
KERNEL = RNG.normal(size=(FEATURES, VOCAB)).astype(np.float32)
SENTENCES = [[[i + j] * j for j in range(1, i % 4 + 1)] for i in range(BATCH)]
TABLES = label_automaton.build_tables(SENTENCES, [28, 30], [29, 31], [True, True], 9)


def extend(memory, used, tokens, positions, visible):
    """Attends to what it sees."""
    x = jnp.asarray(EMBEDDING)[tokens] + jnp.sin(positions)[..., None]
    memory = memory.write(used, x)
    scores = jnp.where(visible, jnp.einsum("bqf,bsf->bqs", x, memory.written), -1e9)
    return jnp.tanh(jnp.einsum("bqs,bsf->bqf", jax.nn.softmax(scores), memory.written)), memory


@pytest.mark.parametrize(("scoring", "data"), [("full", 8), ("local", 4)])
def test_sharding_over_a_mesh_changes_no_answer_and_gathers_no_memory(memory, scoring, data):
    @jax.jit
    def decode(empty, kernel, tables):
        return search.search_labels(
            extend,
            memory(empty),
            kernel,
            tables,
            beam_size=BEAM,
            num_steps=STEPS,
            scoring=scoring,
            normalize_length=True,
            tokens_per_pass=8,
        )

    empty = np.zeros((BATCH, 0, FEATURES), np.float32)
    alone = decode(empty, KERNEL, TABLES)
    mesh = jax.make_mesh((data, 8 // data), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def put(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, P(*spec)))

    rows = {"source": "data", "word_end": "data", "num_pieces": "data", "permitted": "data"}
    tables = type(TABLES)(
        **{name: put(getattr(TABLES, name), rows.get(name)) for name in (*rows, "open_ids", "close_ids")}
    )
    inputs = put(empty, "data"), put(KERNEL, None, "model"), tables
    compiled = decode.lower(*inputs).compile()
    together = compiled(*inputs)
    np.testing.assert_array_equal(alone.tokens, together.tokens)
    np.testing.assert_array_equal(alone.choices, together.choices)
    np.testing.assert_array_equal(alone.decoder_passes, together.decoder_passes)
    np.testing.assert_allclose(alone.scores, together.scores, rtol=1e-5)
    assert together.tokens.sharding.spec[0] == "data", together.tokens.sharding
    slots = BEAM * (STEPS + 1) + 8
    assert f"f32[{BATCH // data},{slots},{FEATURES}]" in compiled.as_text()
    assert f"f32[{BATCH},{slots},{FEATURES}]" not in compiled.as_text(), "the whole memory lies on one device"
    assert "all-gather" not in compiled.as_text()
