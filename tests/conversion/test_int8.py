"""int8 is off by half a step at most, changes nothing a second time, and is a model like any other."""

import json
import shutil
import struct

import jax
import ml_dtypes
import numpy as np
import pytest

from medmt5.cli import main
from medmt5.conversion import int8
from medmt5.conversion.command import convert
from medmt5.conversion.formats import detect_format, open_source
from medmt5.conversion.int8 import FILE, find_scale, write_int8
from medmt5.conversion.safetensors import read_header
from medmt5.conversion.vocabulary_fit import fit_rows
from medmt5.errors import InputError
from medmt5.model_files import read_model_files
from medmt5.tokenizer import Tokenizer
from medmt5.trained_model import load_trained_model, model_digest

MATRICES = ("/kernel", "/embedding")
EMBEDDING, OUTPUT = "token_embedder/embedding", "decoder/logits_dense/kernel"
SCALE = f"{EMBEDDING}/scale"


@pytest.fixture(scope="module")
def small(model_dir, tmp_path_factory):
    """`model_dir` in int8."""
    folder = tmp_path_factory.mktemp("int8") / "small"
    assert main(["convert", str(model_dir), str(folder), "--format", "int8"]) == 0
    return folder


def test_every_weight_is_off_by_half_a_step_of_its_output_at_most(weights, small):
    source = open_source(small)
    assert source.weights.tensors() == weights.tensors()
    for name, array in weights.items():
        read = source.weights.read(name)
        assert read.dtype == np.float32
        if not name.endswith(MATRICES):
            np.testing.assert_array_equal(read, array)
            continue
        inputs = -2 if name.endswith("kernel") else -1
        step = np.abs(array).max(inputs, keepdims=True).astype(np.float64) / 127
        assert (np.abs(array.astype(np.float64) - read) <= step * (0.5 + 2.0**-17)).all()  # the division has 24
        assert not np.array_equal(read, array)
    assert (small / "checkpoint_7" / FILE).stat().st_size < 0.35 * sum(array.nbytes for array in weights.values())


def test_a_part_is_that_part_of_the_whole(weights, small):
    read = open_source(small).weights.read
    for name, array in weights.items():
        part = tuple(slice(n // 3, n - n // 4) for n in array.shape)
        np.testing.assert_array_equal(read(name, part), read(name)[part])


def test_rounding_what_was_rounded_gives_the_same_file(small, tmp_path):
    convert(small, tmp_path / "again", "int8")
    first, again = (folder / "checkpoint_7" / FILE for folder in (small, tmp_path / "again"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(("format", "step"), [("medmt5", 7), ("huggingface", 0)])
def test_what_is_made_of_it_has_its_weights_and_gives_its_file_again(small, same_bits, tmp_path, format, step):
    convert(small, tmp_path / "floats", format)
    made = open_source(tmp_path / "floats")
    same_bits(made.weights, open_source(small).weights)
    convert(made.path, tmp_path / "again", "int8")
    first, again = (folder / FILE for folder in (small / "checkpoint_7", tmp_path / "again" / f"checkpoint_{step}"))
    assert first.read_bytes() == again.read_bytes()
    assert read_model_files(tmp_path / "again").tokenizer.labels == read_model_files(small).tokenizer.labels
    if format == "huggingface":
        assert "rounded to int8" in (tmp_path / "floats/README.md").read_text(encoding="utf-8")


def test_steps_are_exact_whatever_the_size_of_a_row():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(4000, 9)) * 2.0 ** rng.integers(-160, 120, (4000, 1))).astype(np.float32)
    rows[:3] = [[0] * 9, [-0.0] * 9, [2.0**-149, *[0] * 8]]
    rows[3, 0] = -np.finfo(np.float32).max
    scale = find_scale(EMBEDDING, rows)
    levels = np.rint(rows / scale)
    assert np.abs(levels).max() == 127
    assert (np.abs(levels).max(1) == 127)[np.abs(rows).max(1) > 1e-35].all()
    read = levels.astype(np.int8) * scale
    np.testing.assert_array_equal(read.astype(np.float64), levels.astype(np.float64) * scale)
    np.testing.assert_array_equal(find_scale(EMBEDDING, read), scale)
    np.testing.assert_array_equal(np.rint(read / scale), levels)
    assert not read[:3].any()


def test_blocks_do_not_matter_nor_does_the_dtype_of_the_source(weights, in_memory, tmp_path, monkeypatch):
    half = in_memory({name: array.astype(ml_dtypes.bfloat16) for name, array in weights.items()})
    whole = in_memory({name: array.astype(np.float32) for name, array in half.items()})
    counts = []
    write_int8(tmp_path / "whole", whole, counts.append)
    assert sum(counts) == sum(array.size for array in weights.values())
    monkeypatch.setattr(int8, "BLOCK_BYTES", 4096)
    write_int8(tmp_path / "half", half, lambda count: None)
    assert (tmp_path / "whole" / FILE).read_bytes() == (tmp_path / "half" / FILE).read_bytes()


def test_loaded_it_is_the_rounded_model(weights, small, tmp_path):
    convert(small, tmp_path / "rounded", "medmt5")
    models = [load_trained_model(folder) for folder in (small, tmp_path / "rounded")]
    jax.tree.map(np.testing.assert_array_equal, *(model.params for model in models))
    assert model_digest(models[0]) == model_digest(models[1])  # of all that labels depend on
    assert [model.step for model in models] == [7, 7]
    assert models[0].feature_lengths == models[1].feature_lengths == {"inputs": 64, "targets": 48}


def test_rows_of_labels_follow_their_names(small, tokenizer):
    source, pieces = open_source(small), tokenizer.num_pieces
    reversed_labels = Tokenizer(tokenizer.model_file, [*reversed(tokenizer.labels)])
    before, after = (w.read(EMBEDDING) for w in (source.weights, fit_rows(source, reversed_labels)))
    np.testing.assert_array_equal(after[:pieces], before[:pieces])
    for label in tokenizer.labels:
        np.testing.assert_array_equal(after[reversed_labels.open_id(label)], before[tokenizer.open_id(label)])
        np.testing.assert_array_equal(after[reversed_labels.close_id(label)], before[tokenizer.close_id(label)])


def test_it_is_found_by_folder_or_checkpoint(small):
    checkpoint = small / "checkpoint_7"
    assert detect_format(small) == detect_format(checkpoint) == ("int8", checkpoint)
    with pytest.raises(InputError, match="give its folder"):
        detect_format(checkpoint / FILE)


def change(file, edit):
    """Rewrites a safetensors file after `edit` of its header; what was the last tensor goes with its bytes."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    edit(header)
    end = max(entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :][:end])


def without_scale(header):
    del header[SCALE]


def other_shape(header):
    header[EMBEDDING]["shape"].reverse()


def other_name(header):
    header["other/embedding"] = header.pop(EMBEDDING)


def other_dtype(header):
    header[SCALE] |= {"dtype": "I8", "shape": [640, 4]}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without_scale, rf"not of the model that model.json says\n  missing: {SCALE} \(640, 1\)$"),
        (other_shape, rf"{EMBEDDING}: \(32, 640\) int8 there, \(640, 32\) int8 in this model"),
        (other_name, rf"missing: {EMBEDDING} \(640, 32\)\n  not in this model: other/embedding"),
        (other_dtype, rf"{SCALE}: \(640, 4\) int8 there, \(640, 1\) float32 in this model"),
    ],
)
def test_a_file_of_other_tensors_is_refused(small, tmp_path, edit, message):
    folder = shutil.copytree(small, tmp_path / "other")
    file = folder / "checkpoint_7" / FILE
    assert list(read_header(file, int8.STORED))[-1] == SCALE
    change(file, edit)
    with pytest.raises(InputError, match=message):
        open_source(folder)


def test_a_file_that_was_cut_short_or_stands_alone_is_refused(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "cut")
    file = folder / "checkpoint_7" / FILE
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match="cut short"):
        open_source(folder)
    (folder / "model.json").unlink()
    with pytest.raises(InputError, match=r"no model\.json in"):
        open_source(folder)


def test_what_int8_cannot_hold_is_refused_and_nothing_left(weights, in_memory, model_dir, tmp_path):
    for value in (np.nan, np.inf, -np.inf):
        table = weights[OUTPUT].copy()
        table[3, 5] = value
        with pytest.raises(InputError, match=f"{OUTPUT} has values that are not finite"):
            write_int8(tmp_path / str(value), in_memory({OUTPUT: table}), lambda count: None)
    with pytest.raises(InputError, match="scales in float32, not bfloat16"):
        convert(model_dir, tmp_path / "new", "int8", dtype="bfloat16")
    assert not (tmp_path / "new").exists()
