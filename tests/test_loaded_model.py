"""The Python door gives what the model gives, text by text, and a model saved in any format is the same model."""

import dataclasses
import doctest
import json
from functools import partial

import jax
import numpy as np
import pytest

import medmt5
from medmt5 import loaded_model
from medmt5.errors import InputError
from medmt5.loaded_model import LoadedModel
from medmt5.model import mt5
from medmt5.tokenizer import Tokenizer

TEXTS = ["The patient has nephritis and fever.", "", "Febbre </s> alta"]


@pytest.fixture(scope="module")
def model(tiny_model):
    return LoadedModel(tiny_model, batch_size=2)


def ids(model, text):
    return [*model.trained.tokenizer.encode(text), 1]


def test_hidden_states_of_a_text_do_not_depend_on_its_batch(model):
    found = model.encode(TEXTS)
    apply = jax.jit(lambda p, t: mt5.MT5(model.trained.config).apply({"params": p}, t, method="encode"))
    for text, states in zip(TEXTS, found, strict=True):
        tokens = np.array([ids(model, text)], np.int32)
        np.testing.assert_allclose(states, apply(model.trained.params, tokens)[0], rtol=1e-4, atol=1e-5)


@partial(jax.jit, static_argnums=0)
def teacher_force(config, params, batch):
    return mt5.MT5(config).apply({"params": params}, batch)


def log_probs(model, source, outputs):
    """[tokens, vocab] of what comes next, by teacher forcing; padded, so that one program serves all."""
    batch = {name: np.zeros((1, 64), np.int32) for name in ("encoder_input_tokens", "decoder_input_tokens")}
    batch["encoder_input_tokens"][0, : len(source)] = source
    batch["decoder_input_tokens"][0, 1 : len(outputs) + 1] = outputs
    hidden = teacher_force(model.trained.config, model.trained.params, batch)
    logits = np.asarray(hidden[0, : len(outputs) + 1], np.float64) @ np.asarray(
        mt5.output_kernel(model.trained.params), np.float64
    )
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_scores_are_the_log_probabilities_of_the_targets(model):
    targets = ["nephritis", "<extra_id_0> fever", ""]
    found = model.score(TEXTS, targets)
    sentinel = int(model.trained.tokenizer.sentinel_ids[0])
    for text, target, score in zip(TEXTS, targets, found, strict=True):
        wanted = ids(model, target.removeprefix("<extra_id_0>"))
        wanted = [sentinel, *wanted] if target.startswith("<") else wanted
        table = log_probs(model, ids(model, text), wanted[:-1])
        assert score == pytest.approx(table[np.arange(len(wanted)), wanted].sum(), rel=1e-4)
    with pytest.raises(InputError, match="3 inputs and 1 targets"):
        model.score(TEXTS, ["x"])


def test_generation_is_greedy_by_default_and_draws_by_its_seed(model):
    (found,) = model.generate(TEXTS[:1], max_tokens=4)
    outputs = []
    while len(outputs) < 4 and 1 not in outputs:
        outputs.append(int(np.argmax(log_probs(model, ids(model, TEXTS[0]), outputs)[-1])))
    assert found == model.trained.tokenizer.decode(outputs)
    draw = [model.generate(TEXTS, max_tokens=4, top_p=0.9, seed=seed) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
    with pytest.raises(InputError, match="leave beam_size = 3 out"):
        model.generate(TEXTS, beam_size=3, top_p=0.9)


@pytest.mark.parametrize("format", ["medmt5", "huggingface", "t5x"])
def test_a_saved_model_is_the_same_model(model, tmp_path, format):
    model.save(tmp_path / "saved", format)
    vocabulary = model.trained.tokenizer.model_file if format == "t5x" else None
    again = medmt5.load(tmp_path / "saved", vocabulary=vocabulary, batch_size=2)
    jax.tree.map(np.testing.assert_array_equal, again.trained.params, model.trained.params)
    for a, b in zip(again.encode(TEXTS), model.encode(TEXTS), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # of another implementation of attention
    with pytest.raises(InputError, match="exists"):
        model.save(tmp_path / "saved", format)
    with pytest.raises(InputError, match="not 'onnx'"):
        model.save(tmp_path / "other", "onnx")


def test_a_folder_of_hugging_face_without_label_tokens_labels_as_it_is(model, tmp_path):
    """An mT5 that was fine-tuned elsewhere and writes tags in pieces; ours has tokens for the same labels."""
    plain = Tokenizer(model.trained.tokenizer.model_file, labels=())
    written = LoadedModel(dataclasses.replace(model.trained, tokenizer=plain), batch_size=2)
    written.save(tmp_path / "plain", "huggingface")
    assert json.loads((tmp_path / "plain/added_tokens.json").read_text()) == {}
    model.save(tmp_path / "tokens", "huggingface")
    loaded, with_tokens = (medmt5.load(tmp_path / name, batch_size=2) for name in ("plain", "tokens"))
    assert loaded.trained.tokenizer.labels == ()
    assert with_tokens.trained.tokenizer.labels == model.trained.tokenizer.labels
    (document,) = loaded.label(["Febbre < 38, nephritis."], ["Disease", "Fracture"], beam_size=2, scoring="local")
    assert document["spans"]
    for span in document["spans"]:
        assert document["text"][span["start"] : span["end"]] == span["text"]
        assert span["label"] in ("Disease", "Fracture")
    assert document == written.label([document["text"]], ["Disease", "Fracture"], beam_size=2, scoring="local")[0]


def test_labels_are_those_of_the_function(model):
    labels = [*model.trained.tokenizer.labels[:2]]
    expected = medmt5.label(TEXTS, labels, model.trained, beam_size=2, scoring="local", batch_size=2)
    assert model.label(TEXTS, labels, beam_size=2, scoring="local") == expected


def test_the_examples_of_the_documentation_run(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("my-model", "huggingface")
    found = [doctest.testmod(module, extraglobs={"m": model}) for module in (medmt5, loaded_model)]
    assert [result.failed for result in found] == [0, 0]
    assert [result.attempted for result in found] == [2, 10]
