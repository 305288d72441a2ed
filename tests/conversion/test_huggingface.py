"""Equal to transformers with the same weights, in what it computes and in what it saves; other models are refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medmt5.conversion import huggingface
from medmt5.conversion.huggingface import RULES, HuggingFaceWeights, read_config, write_model
from medmt5.conversion.parameters import as_tree, by_name
from medmt5.conversion.safetensors import read_header, row_blocks, write_safetensors
from medmt5.conversion.weights import TensorInfo
from medmt5.decoding.generation import make_generator
from medmt5.errors import InputError
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.training import step as steps

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = mt5.MT5Config(  # conftest's
    vocab_size=640, emb_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=3, head_dim=8, mlp_dim=48
)
# mT5-small's proportions (heads * head_dim is not emb_dim), and T5 1.1-base's.
SHAPES = {
    "mt5": dataclasses.replace(CONFIG, num_heads=3, num_encoder_layers=2, num_decoder_layers=2, mlp_dim=64),
    "t5_1_1": dataclasses.replace(CONFIG, vocab_size=320, num_encoder_layers=3, num_decoder_layers=2, mlp_dim=80),
}


def write(folder, weights, config, dtype="float32"):
    folder.mkdir()
    write_model(folder, weights, config, dtype, lambda count: None)
    return folder


@dataclasses.dataclass
class Pair:
    """The same weights, in both programs."""

    config: mt5.MT5Config
    params: dict
    theirs: object


@pytest.fixture(scope="module", params=SHAPES)
def pair(request, tmp_path_factory, random_weights):
    config = SHAPES[request.param]
    weights = random_weights(config, seed=1)
    # Logits of about one, so that losses and choices hang on every layer.
    weights["decoder/logits_dense/kernel"] *= 0.5
    folder = write(tmp_path_factory.mktemp("same") / "model", weights, config)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    return Pair(config, as_tree({name: jnp.asarray(x) for name, x in weights.items()}), theirs)


def make_batch(config, rows=3, inputs=13, targets=9):
    rng = np.random.default_rng(2)
    encoder = rng.integers(3, config.vocab_size, (rows, inputs)).astype(np.int32)
    decoder = rng.integers(3, config.vocab_size, (rows, targets)).astype(np.int32)
    encoder[1, 6:], decoder[1, 5:], encoder[2, 12:] = 0, 0, 0
    shifted = np.pad(decoder[:, :-1], ((0, 0), (1, 0)))
    return {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": decoder,
        "decoder_loss_weights": (decoder > 0).astype(np.float32),
    }


def assert_near(actual, expected):
    """Within 1e-4 of the array's largest value."""
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_encoder_logits_loss_and_gradients_equal_those_of_transformers(pair):
    batch = make_batch(pair.config)
    inputs = torch.tensor(batch["encoder_input_tokens"]).long()
    labels = (
        torch.tensor(batch["decoder_target_tokens"])
        .long()
        .masked_fill(torch.tensor(batch["decoder_target_tokens"]) == 0, -100)
    )
    theirs = pair.theirs(input_ids=inputs, attention_mask=(inputs > 0).long(), labels=labels)
    pair.theirs.zero_grad()
    theirs.loss.backward()
    model, mesh = mt5.MT5(pair.config), Partitioning(num_devices=1).make_mesh()

    @jax.jit
    def ours(params):
        def loss(params):
            hidden = model.apply({"params": params}, batch)
            count = batch["decoder_loss_weights"].sum()
            found = steps.batch_loss(hidden, params, batch, steps.Objective(), mesh, count)
            return found.objective, hidden @ mt5.output_kernel(params)

        encoded = model.apply({"params": params}, batch["encoder_input_tokens"], method="encode")
        return encoded, jax.value_and_grad(loss, has_aux=True)(params)

    encoded, ((loss, logits), gradients) = jax.device_get(ours(pair.params))
    real = batch["encoder_input_tokens"] > 0
    assert_near(encoded[real], theirs.encoder_last_hidden_state.detach().numpy()[real])
    assert_near(logits, theirs.logits.detach().numpy())
    assert_near(loss, theirs.loss.item())
    named = dict(pair.theirs.named_parameters())
    gradients = by_name(gradients)
    for rule in RULES:
        stack = gradients[rule.ours] if "{layer}" in rule.theirs else gradients[rule.ours][None]
        for layer, gradient in enumerate(stack):
            expected = named[rule.theirs.format(layer=layer)].grad.numpy()
            assert_near(gradient.T if rule.transposed else gradient, expected)


@pytest.mark.parametrize("pair", ["t5_1_1"], indirect=True)
def test_packed_segments_equal_what_transformers_computes_of_each(pair):
    rng = np.random.default_rng(3)
    lengths = [(5, 4), (6, 3), (4, 5)]
    pairs = [[rng.integers(3, pair.config.vocab_size, n).astype(np.int32) for n in both] for both in lengths]
    for _, targets in pairs:
        targets[0] = 0  # each segment begins as an unpacked target does
    segments = [np.repeat([1, 2, 3], [both[side] for both in lengths])[None] for side in (0, 1)]
    packed = {
        "encoder_input_tokens": np.concatenate([inputs for inputs, _ in pairs])[None],
        "decoder_input_tokens": np.concatenate([targets for _, targets in pairs])[None],
        "encoder_segment_ids": segments[0].astype(np.int32),
        "decoder_segment_ids": segments[1].astype(np.int32),
    }
    model = mt5.MT5(pair.config)
    hidden = jax.jit(lambda p: model.apply({"params": p}, packed) @ mt5.output_kernel(p))(pair.params)[0]
    start = 0
    for inputs, targets in pairs:
        with torch.no_grad():
            expected = pair.theirs(
                input_ids=torch.tensor(inputs[None]).long(), decoder_input_ids=torch.tensor(targets[None]).long()
            ).logits[0]
        assert_near(hidden[start : start + len(targets)], expected.numpy())
        start += len(targets)


@pytest.mark.parametrize("pair", ["mt5"], indirect=True)
def test_greedy_outputs_equal_token_for_token(pair):
    batch, num_steps = make_batch(pair.config, rows=3), 16
    inputs = torch.tensor(batch["encoder_input_tokens"]).long()
    theirs = pair.theirs.generate(
        input_ids=inputs, attention_mask=(inputs > 0).long(), max_new_tokens=num_steps, num_beams=1, do_sample=False
    ).numpy()[:, 1:]
    generate = make_generator(pair.config, Partitioning(num_devices=1).make_mesh())
    ours = np.asarray(generate(pair.params, batch["encoder_input_tokens"], num_steps).tokens)[:, 0]
    np.testing.assert_array_equal(ours[:, : theirs.shape[1]], theirs)
    assert not ours[:, theirs.shape[1] :].any()
    assert len(np.unique(ours)) > 6  # not one token over and over


@pytest.mark.parametrize("pair", ["mt5"], indirect=True)
def test_what_transformers_saves_is_read_in_shards_and_in_bfloat16(pair, tmp_path):
    pair.theirs.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    opened = HuggingFaceWeights(tmp_path / "sharded")
    assert read_config(tmp_path / "sharded") == dataclasses.replace(
        pair.config, dropout_rate=opened.config.dropout_rate
    )
    for name, array in by_name(pair.params).items():
        np.testing.assert_array_equal(opened.read(name), array)
    write(tmp_path / "half", opened, pair.config, "bfloat16")
    half = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "half", torch_dtype="auto")
    assert half.dtype == torch.bfloat16
    for (name, there), (_, here) in zip(
        half.state_dict().items(), pair.theirs.bfloat16().state_dict().items(), strict=True
    ):
        assert torch.equal(there, here), name
    pair.theirs.float()


def test_parts_are_parts_of_the_whole(tmp_path, weights, same_bits):
    opened = HuggingFaceWeights(write(tmp_path / "a", weights, CONFIG))
    same_bits(opened, weights)
    for name, array in weights.items():
        part = tuple(slice(n // 3, max(n // 3 + 1, n - 1)) for n in array.shape)
        np.testing.assert_array_equal(opened.read(name, part), array[part])


def test_shards_are_written_above_the_limit(tmp_path, weights, monkeypatch, same_bits):
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 40_000)
    folder = write(tmp_path / "a", weights, CONFIG)
    files = sorted(folder.glob("*.safetensors"))
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 3
    same_bits(HuggingFaceWeights(folder), weights)
    files[1].unlink()
    with pytest.raises(InputError, match=f"names the file {files[1].name}, which is not in"):
        HuggingFaceWeights(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "umt5"}, "umT5 has relative positions in every layer"),
        ({"feed_forward_proj": "relu"}, r"T5 1\.0 has 'relu'"),
        ({"model_type": "t5", "tie_word_embeddings": True}, r"its embedding, scaled \(T5 1\.0\)"),
        ({"model_type": "t5", "scale_decoder_outputs": True}, r"its embedding, scaled \(T5 1\.0\)"),
        ({"tokenizer_class": "ByT5Tokenizer"}, "ByT5's ids are bytes"),
        ({"model_type": "bart"}, "'bart', not an mT5"),
        ({"relative_attention_num_buckets": 64}, "32 buckets"),
        ({"d_ff": "wide"}, "whole numbers"),
        ({"num_layers": 3}, r"missing: encoder\.block\.2\.layer\.0"),
        ({"num_layers": 1}, r"unknown: encoder\.block\.1\.layer\.0"),
        ({"d_ff": 64}, r"mlp/wi_0/kernel: \(2, 32, 48\) there, \(2, 32, 64\)"),
        ({"vocab_size": 600}, r"token_embedder/embedding: \(640, 32\) there, \(600, 32\)"),
    ],
)
def test_another_model_is_refused_with_the_reason(tmp_path, weights, change, message):
    folder = write(tmp_path / "a", weights, CONFIG)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=message):
        HuggingFaceWeights(folder)


def test_flan_t5s_configuration_is_read(tmp_path):
    """As published: no decoder layers of its own, tied by default, a long list of other keys."""
    facts = {"model_type": "t5", "vocab_size": 32128, "d_model": 768, "num_heads": 12, "num_layers": 12, "d_kv": 64}
    facts |= {"d_ff": 2048, "dropout_rate": 0.1, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    facts |= {"num_decoder_layers": None, "layer_norm_epsilon": 1e-06, "n_positions": 512, "output_past": True}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    assert read_config(tmp_path) == mt5.MT5Config(32128, 768, 12, 12, 12, 64, 2048, 0.1)


def rewrite(folder, change):
    """Writes model.safetensors again with other tensors."""
    path = folder / "model.safetensors"
    tensors = {name: stored.read() for name, stored in read_header(path).items()}
    change(tensors)
    infos = {name: TensorInfo(tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()}
    write_safetensors(path, infos, ((n, block) for n, t in tensors.items() for block in row_blocks(t, t.dtype)))


def test_copies_of_the_embedding_are_one_and_leftovers_are_named(tmp_path, weights, same_bits):
    folder = write(tmp_path / "a", weights, CONFIG)

    def as_older_versions(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
        tensors["decoder.embed_tokens.weight"] = tensors["encoder.embed_tokens.weight"]
        name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        tensors[name] = np.zeros((32, 4), np.float32)

    rewrite(folder, as_older_versions)
    same_bits(HuggingFaceWeights(folder), weights)
    rewrite(folder, lambda tensors: tensors.update({"decoder.embed_tokens.weight": np.zeros((640, 32), np.float32)}))
    with pytest.raises(InputError, match="one embedding for encoder and decoder"):
        HuggingFaceWeights(folder)
    rewrite(folder, lambda tensors: tensors.pop("decoder.embed_tokens.weight"))
    rewrite(folder, lambda tensors: tensors.update({"adapter.weight": np.zeros((1,), np.float32)}))
    with pytest.raises(InputError, match=r"unknown: adapter\.weight \(1,\)"):
        HuggingFaceWeights(folder)


def test_values_that_float16_cannot_hold_are_refused(tmp_path, random_weights):
    large = random_weights(CONFIG)
    large["encoder/encoder_norm/scale"][3] = 1e5
    with pytest.raises(InputError, match=r"encoder\.final_layer_norm\.weight has values beyond float16"):
        write(tmp_path / "a", large, CONFIG, "float16")
