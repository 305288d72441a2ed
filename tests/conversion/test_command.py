"""A model goes from one format to another and comes back bit for bit, usable, or leaves nothing behind."""

import dataclasses
import json
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medmt5.cli import main, run
from medmt5.conversion.command import convert
from medmt5.conversion.formats import detect_format, open_source
from medmt5.conversion.initial import load_params
from medmt5.conversion.parameters import by_name
from medmt5.errors import InputError
from medmt5.labelling import Labeller
from medmt5.model.mt5 import init_params
from medmt5.model_files import read_model_files
from medmt5.partitioning import Partitioning, parameter_shardings
from medmt5.tokenizer import Tokenizer
from medmt5.trained_model import load_trained_model

EMBEDDING, OUTPUT = "token_embedder/embedding", "decoder/logits_dense/kernel"


@pytest.fixture(scope="module")
def exported(model_dir, tmp_path_factory):
    """`model_dir` as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("exported") / "huggingface"
    assert main(["convert", str(model_dir), str(folder), "--format", "huggingface", "--license", "cc-by-4.0"]) == 0
    return folder


def test_a_round_trip_through_hugging_face_is_bitwise_and_labels_alike(
    model_dir, exported, weights, same_bits, tmp_path
):
    convert(exported, tmp_path / "back", "medmt5")
    back = open_source(tmp_path / "back")
    same_bits(back.weights, weights)
    before, after = read_model_files(model_dir), read_model_files(tmp_path / "back")
    assert dataclasses.replace(after.config, dropout_rate=0.0) == before.config
    assert (after.tokenizer.sha256, after.tokenizer.labels) == (before.tokenizer.sha256, before.tokenizer.labels)
    assert after.feature_lengths["inputs"] == 64
    sentences = [["cardine", "matis", "nephri"], ["cien"]]
    first, second = (
        Labeller(load_trained_model(folder), beam_size=1, batch_size=2).label(sentences, ["Disease"])
        for folder in (model_dir, tmp_path / "back")
    )
    assert first == second


def test_a_round_trip_through_t5x_is_bitwise(model_dir, weights, same_bits, tokenizer, tmp_path):
    convert(model_dir, tmp_path / "t5x", "t5x")
    assert detect_format(tmp_path / "t5x") == ("t5x", tmp_path / "t5x" / "checkpoint_7")
    convert(tmp_path / "t5x", tmp_path / "back", "medmt5", vocabulary=tokenizer.model_file)
    same_bits(open_source(tmp_path / "back").weights, weights)


def test_the_card_tells_recipe_scores_and_licence_and_no_place(model_dir, tmp_path):
    folder = shutil.copytree(model_dir, tmp_path / "run")
    (folder / "config.gin").write_text(
        "INITIAL_CHECKPOINT_PATH = '/secret/place/mt5-large'\nTRAIN_STEPS = 400\nMODEL_DIR = '/secret/run'\n"
        "MIXTURE_OR_TASK_NAME = 'multitask'\nLORA_RANK = 0\nLORA_ALPHA = 16.0\n"
        "TRAINABLE = \\\n    (('a|c', True),\n     ('b', False))\n"
        "optimizers.adafactor.learning_rate = 0.1\n"
    )
    lines = [
        {"step": 6, "epochs/e3c.es": 0.5, "epochs/e3c.en": 1.5},
        {"step": 7, "eval/es/perplexity": 2.5},
        {"step": 8, "epochs/e3c.es": 9.0, "eval/es/perplexity": 9.0, "eval/it/perplexity": 9.0},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = {"f1": 0.75, "precision": 0.8, "recall": None, "gold": 12}
    scores = {"split": "test", "decoding": {"beam": 4, "scoring": "full"}, "tasks": {"e3c.es": counts}, "all": counts}
    (folder / "evaluation/checkpoint_7").mkdir(parents=True)
    (folder / "evaluation/checkpoint_7/scores.json").write_text(json.dumps(scores | {"languages": {"es": counts}}))
    convert(folder, tmp_path / "out", "huggingface", licence="Apache-2.0")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    for part in ('license: "apache-2.0"', 'language: ["es"]', "| TRAIN_STEPS | `400` |", "place/mt5-large"):
        assert part in card
    for part in ("| e3c.es | 0.50 |", "| e3c.en | 1.50 |", "last evaluation of the run: es 2.50."):
        assert part in card
    assert "| TRAINABLE | `(('a\\|c', True), ('b', False))` |\n| optimizers.adafactor.learning_rate | `0.1` |" in card
    assert "LORA" not in card
    assert "| e3c.es | 0.750 | 0.800 | – | 12 |" in card
    assert "no medical device" in card
    assert "secret" not in card
    assert str(tmp_path) not in card


def test_rows_are_added_and_labels_move_to_our_ids(exported, weights, tmp_path):
    """As the authors' release: its tags have ids in an order of their own, some of ours are not there."""
    folder = shutil.copytree(exported, tmp_path / "theirs")
    tokenizer = read_model_files_of(exported)
    pieces = tokenizer.num_pieces
    (folder / "added_tokens.json").write_text(json.dumps({"</Claim>": pieces, "<Claim>": pieces + 1}))
    (folder / "tokenizer_config.json").unlink()
    convert(folder, tmp_path / "ours", "medmt5")
    read = open_source(tmp_path / "ours").weights
    for name, axis in ((EMBEDDING, 0), (OUTPUT, 1)):
        before, after = np.moveaxis(weights[name], axis, 0), np.moveaxis(read.read(name), axis, 0)
        assert len(after) == len(before)
        np.testing.assert_array_equal(after[:pieces], before[:pieces])
        np.testing.assert_array_equal(after[tokenizer.open_id("Claim")], before[pieces + 1])
        np.testing.assert_array_equal(after[tokenizer.close_id("Claim")], before[pieces])
        mean = before[:pieces].mean(0, dtype=np.float64)
        np.testing.assert_allclose(after[tokenizer.open_id("Disease")], mean, rtol=1e-6, atol=1e-7)
    (folder / "added_tokens.json").write_text(json.dumps({"<Fracture>": pieces}))
    with pytest.raises(InputError, match="adds the tokens <Fracture>, which are no labels"):
        convert(folder, tmp_path / "again", "medmt5")


@pytest.mark.parametrize("rows", [640, 656])
def test_rows_of_labels_follow_their_names_where_the_lists_have_another_order(rows, model_dir, weights, tokenizer):
    """A user's own labels: the model was trained without one that now stands before another."""
    files = read_model_files(model_dir)
    config = dataclasses.replace(files.config, vocab_size=rows)
    shuffled = Tokenizer(tokenizer.model_file, ["Exame", *reversed(tokenizer.labels)])
    table = by_name(load_params(model_dir, config, shuffled, *shardings_of(config, Partitioning())))[EMBEDDING]
    before, pieces = weights[EMBEDDING], tokenizer.num_pieces
    for label in tokenizer.labels:
        np.testing.assert_array_equal(table[shuffled.open_id(label)], before[tokenizer.open_id(label)])
        np.testing.assert_array_equal(table[shuffled.close_id(label)], before[tokenizer.close_id(label)])
    np.testing.assert_array_equal(table[:pieces], before[:pieces])
    mean = before[:pieces].mean(0, dtype=np.float64)
    np.testing.assert_allclose(table[shuffled.open_id("Exame")], mean, rtol=1e-6, atol=1e-6)
    # More labels at the end of the list change no row that is there.
    longer = Tokenizer(tokenizer.model_file, [*tokenizer.labels, "Exame"])
    same = by_name(load_params(model_dir, files.config, longer, *shardings_of(files.config, Partitioning())))
    np.testing.assert_array_equal(same[EMBEDDING], before)


def read_model_files_of(exported):
    return Tokenizer(exported / "spiece.model")


def shardings_of(config, rules):
    boxed = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    shapes = jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda x: hasattr(x, "names"))
    return shapes, parameter_shardings(boxed, rules.make_mesh(), rules)


@pytest.mark.parametrize("kind", ["huggingface", "t5x", "medmt5"])
def test_training_starts_from_any_format_sharded_over_8_devices(
    kind, exported, model_dir, weights, tokenizer, tmp_path
):
    path = {"huggingface": exported, "medmt5": model_dir}.get(kind, tmp_path / "t5x")
    if kind == "t5x":
        convert(model_dir, path, "t5x")
    config = read_model_files(model_dir).config
    shapes, shardings = shardings_of(config, Partitioning(num_model_partitions=2, shard_parameters_over_data=True))
    params = by_name(load_params(path, config, tokenizer, shapes, shardings))
    for name, array in weights.items():
        np.testing.assert_array_equal(params[name], array)
        assert params[name].sharding == by_name(shardings)[name]
    table = params[EMBEDDING]
    assert {shard.data.shape for shard in table.addressable_shards} == {(320, 8)}
    # A model with more rows than the checkpoint.
    wider = dataclasses.replace(config, vocab_size=656)
    table = by_name(load_params(path, wider, tokenizer, *shardings_of(wider, Partitioning(num_model_partitions=2))))[
        OUTPUT
    ]
    np.testing.assert_array_equal(table[:, :640], weights[OUTPUT])
    np.testing.assert_allclose(table[:, 655], weights[OUTPUT][:, : tokenizer.num_pieces].mean(1), rtol=1e-4, atol=1e-6)


def test_each_process_reads_what_its_shards_hold(weights):
    from medmt5.conversion.initial import place

    asked = []

    class Recorded:
        tensors = staticmethod(weights.tensors)

        def read(self, name, index=None):
            asked.append(weights.read(name, index).size)
            return weights.read(name, index)

    mesh = Partitioning(num_model_partitions=4).make_mesh()
    place(Recorded(), {EMBEDDING: NamedSharding(mesh, PartitionSpec("model"))})
    assert asked == [640 // 4 * 32] * 4  # copies on two devices are read once


def test_a_model_of_another_shape_or_vocabulary_is_refused(exported, model_dir, tokenizer, tmp_path):
    config = read_model_files(model_dir).config
    other = dataclasses.replace(config, mlp_dim=64, vocab_size=768)
    for path in (exported, model_dir):
        with pytest.raises(InputError, match=r"mlp/wi_0/kernel: \(2, 32, 48\) there, \(2, 32, 64\) in this model"):
            load_params(path, other, tokenizer, *shardings_of(other, Partitioning()))
    changed = tmp_path / "other.model"
    data = tokenizer.model_file.read_bytes()
    changed.write_bytes(data.replace("▁car".encode(), "▁caz".encode()))
    assert changed.read_bytes() != data
    for path in (exported, model_dir):
        with pytest.raises(InputError, match="its rows would belong to other pieces"):
            load_params(path, config, Tokenizer(changed), *shardings_of(config, Partitioning()))


def test_nothing_is_left_of_a_conversion_that_failed(model_dir, exported, tmp_path, capsys):
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(InputError, match="there exists; convert to a new folder"):
        convert(model_dir, there, "huggingface")
    with pytest.raises(InputError, match="our checkpoints hold float32, not bfloat16"):
        convert(exported, tmp_path / "new", "medmt5", dtype="bfloat16")
    with pytest.raises(InputError, match="is a checkpoint of medmt5 already"):
        convert(model_dir, tmp_path / "new", "medmt5")
    damaged = shutil.copytree(exported, tmp_path / "damaged")
    (damaged / "spiece.model").unlink()
    assert main(["convert", str(damaged), str(tmp_path / "new"), "--format", "medmt5"]) == 2
    assert "has no SentencePiece model" in capsys.readouterr().err
    (damaged / "spiece.model").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match=r"spiece\.model: the vocabulary is no SentencePiece model.*git lfs pull"):
        convert(damaged, tmp_path / "new", "medmt5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "there"]


def test_sigterm_leaves_nothing(model_dir, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    command = ["medmt5", "convert", str(model_dir), str(tmp_path / "new"), "--format=huggingface"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr("medmt5.conversion.command.write_tokenizer", lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        with pytest.raises(SystemExit, match="143"):
            run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())
