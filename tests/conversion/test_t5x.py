"""T5X checkpoints by an independent writer (msgpack and TensorStore, from the layout as documented), read bitwise; and
what is damaged or foreign, refused by name.
"""

import itertools
import os
import shutil

import ml_dtypes
import msgpack
import numpy as np
import pytest
import tensorstore as ts

from medmt5.conversion import msgpack_index
from medmt5.conversion.t5x import is_t5x, open_t5x, write_t5x_legacy
from medmt5.errors import InputError

VOCAB, EMBED, HEADS, KV, MLP, ENCODER, DECODER = 50, 6, 2, 4, 10, 3, 1
JOINED = HEADS * KV
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def our_arrays(dtype=np.float32):
    """Every parameter of a small mT5 under our names, all numbers different."""
    counter = itertools.count(1)

    def draw(*shape):
        return np.random.default_rng(next(counter)).standard_normal(shape).astype(dtype)

    arrays = {"token_embedder/embedding": draw(VOCAB, EMBED), "decoder/logits_dense/kernel": draw(EMBED, VOCAB)}
    for stack, layers, attentions, norms in (
        ("encoder", ENCODER, ["attention"], ["attention", "mlp"]),
        ("decoder", DECODER, ["self_attention", "encoder_decoder_attention"],
         ["self_attention", "cross_attention", "mlp"]),
    ):  # fmt: skip
        arrays[f"{stack}/relpos_bias/rel_embedding"] = draw(HEADS, 32)
        arrays[f"{stack}/{stack}_norm/scale"] = draw(EMBED)
        for attention in attentions:
            for part in ("query", "key", "value"):
                arrays[f"{stack}/layers/{attention}/{part}/kernel"] = draw(layers, EMBED, JOINED)
            arrays[f"{stack}/layers/{attention}/out/kernel"] = draw(layers, JOINED, EMBED)
        for part in ("wi_0", "wi_1"):
            arrays[f"{stack}/layers/mlp/{part}/kernel"] = draw(layers, EMBED, MLP)
        arrays[f"{stack}/layers/mlp/wo/kernel"] = draw(layers, MLP, EMBED)
        for norm in norms:
            arrays[f"{stack}/layers/pre_{norm}_layer_norm/scale"] = draw(layers, EMBED)
    return arrays


def unscanned_leaves(ours):
    leaves = {}
    for name, array in ours.items():
        if "/layers/" in name:
            leaves |= {name.replace("layers", f"layers_{i}"): layer for i, layer in enumerate(array)}
        else:
            leaves[name] = array
    return leaves


def scanned_leaves(ours, axis=1):
    leaves = {}
    for name, array in ours.items():
        stack = name.split("/")[0]
        if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
            array = array.reshape(len(array), EMBED, HEADS, KV)
        if name.endswith("out/kernel"):
            array = array.reshape(len(array), HEADS, KV, EMBED)
        if "/layers/" in name:
            leaves[name.replace("/layers/", f"/{stack}/")] = np.moveaxis(array, 0, axis)
        elif "relpos_bias" in name:
            layers = {"encoder": ENCODER, "decoder": DECODER}[stack]
            leaves[f"{stack}/{name}"] = np.stack([array] * layers, axis)
        else:
            leaves[name] = array
    return leaves


def inline(array):
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def chunked(array, size):
    flat = array.reshape(-1)
    pieces = [inline(flat[i : i + size]) for i in range(0, flat.size, size)]
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(array.shape)},
        "chunks": {str(i): piece for i, piece in enumerate(pieces)},
    }


def write_zarr(folder, array, compressor):
    """Writes a zarr v2 array with edge chunks; returns its specification, with a path of its own."""
    chunks = [n // 2 + 1 for n in array.shape]
    metadata = {"shape": list(array.shape), "chunks": chunks, "compressor": compressor}
    spec = {"driver": "zarr", "dtype": array.dtype.name, "metadata": metadata}
    store = ts.open({**spec, "kvstore": {"driver": "file", "path": f"{folder}/"}}, create=True).result()
    store.write(array).result()
    return spec


def nested(flat):
    tree = {}
    for name, value in flat.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree


COMPRESSORS = [{"id": "gzip", "level": 1}, {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}, None]


def write_checkpoint(folder, leaves, *, state=True, version=3):
    """Writes a legacy checkpoint: kinds of leaves, compressors and forms of specification take turns."""
    folder.mkdir()
    target, states = {}, {}
    for number, (name, array) in enumerate(leaves.items()):
        dotted = f"target.{name.replace('/', '.')}"
        kind = number % 5
        if kind == 0:
            target[name] = inline(array)
        elif kind == 1 and array.ndim > 1:
            target[name] = chunked(array, array.size // 3 + 1)
        else:
            spec = write_zarr(folder / dotted, array, COMPRESSORS[number % 3])
            kvstore = {"driver": "gcs", "bucket": "t5x-dummy-bucket", "path": f"{dotted}/"}
            if kind == 3:
                kvstore = {"driver": "file", "path": f"{dotted}/"}
            target[name] = {**spec, "kvstore": kvstore}
            if kind == 4:  # as TensorStore before 0.1.14 wrote it
                target[name] = {**spec, "kvstore": {"driver": "file"}, "path": dotted}
        zeros = np.zeros(array.shape, np.float32)
        states[name] = {
            "m": inline(zeros[:1]),
            "v": write_zarr(folder / f"state.param_states.{number}", zeros, COMPRESSORS[0]),
        }
    optimizer = {"target": nested(target)}
    if state:
        optimizer["state"] = {"step": inline(np.int32(7).reshape(())), "param_states": nested(states)}
    (folder / "checkpoint").write_bytes(msgpack.packb({"version": version, "optimizer": optimizer}))
    return folder


def assert_bitwise(weights, expected):
    assert set(weights.tensors()) == set(expected)
    for name, array in expected.items():
        info = weights.tensors()[name]
        assert (info.shape, info.dtype) == (array.shape, array.dtype.name)
        read = weights.read(name)
        assert read.dtype == array.dtype
        assert read.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("layout", ["unscanned", "scanned", "scanned on axis 0"])
def test_reads_what_another_writer_wrote(tmp_path, layout, dtype):
    ours = our_arrays(dtype)
    leaves = unscanned_leaves(ours) if layout == "unscanned" else scanned_leaves(ours, int(layout == "scanned"))
    folder = write_checkpoint(tmp_path / "checkpoint_7", leaves, state=layout != "scanned")
    assert is_t5x(folder)
    assert_bitwise(open_t5x(folder), ours)


@pytest.mark.parametrize("scanned", [False, True])
def test_reads_any_part(tmp_path, scanned):
    ours = our_arrays()
    folder = write_checkpoint(tmp_path / "checkpoint_7", scanned_leaves(ours) if scanned else unscanned_leaves(ours))
    weights = open_t5x(folder)
    for name, array in ours.items():
        middle = tuple(slice(1, max(2, n - 1)) for n in array.shape)
        assert weights.read(name, middle).tobytes() == array[middle].tobytes(), name
        assert weights.read(name, (slice(None),)).tobytes() == array.tobytes(), name
        last = tuple(slice(-1, None) for _ in array.shape)
        assert weights.read(name, last).tobytes() == array[last].tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("scanned", [False, True])
def test_round_trip_is_bitwise(tmp_path, in_memory, scanned, dtype):
    ours = our_arrays(dtype)
    ours["encoder/encoder_norm/scale"][:] = 0  # no chunk of zeros is left out
    path = tmp_path / "checkpoint_3"
    write_t5x_legacy(path, in_memory(ours), scanned=scanned, step=3)
    assert_bitwise(open_t5x(path), ours)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_3"]
    again = tmp_path / "other" / "checkpoint_3"
    write_t5x_legacy(again, open_t5x(path), scanned=not scanned, step=3)
    assert_bitwise(open_t5x(again), ours)


def test_small_blocks_change_nothing(tmp_path, monkeypatch):
    ours = our_arrays()
    folder = write_checkpoint(tmp_path / "checkpoint_7", scanned_leaves(ours))
    monkeypatch.setattr("medmt5.conversion.t5x.BLOCK_BYTES", 200)
    assert_bitwise(open_t5x(folder), ours)
    write_t5x_legacy(tmp_path / "checkpoint_1", open_t5x(folder), scanned=True, step=1)
    assert len(list((tmp_path / "checkpoint_1/target.token_embedder.embedding").iterdir())) > 5
    assert_bitwise(open_t5x(tmp_path / "checkpoint_1"), ours)


def test_reads_in_blocks_not_in_rows(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "checkpoint_7", unscanned_leaves(our_arrays()))
    reads = []
    monkeypatch.setattr(
        msgpack_index.InlineArray, "_bytes", lambda self, *part: reads.append(part) or np.zeros(1200, "u1")
    )
    open_t5x(folder).read("token_embedder/embedding")  # the first leaf: inline
    assert reads == [(0, VOCAB * EMBED * 4)]


def test_reads_the_orbax_layout(tmp_path):
    ours = our_arrays()
    kvstore = {"driver": "ocdbt", "base": f"file://{tmp_path}/checkpoint_7/state/"}
    for name, array in unscanned_leaves(ours).items():
        spec = {"driver": "zarr", "kvstore": {**kvstore, "path": f"target.{name.replace('/', '.')}/"}}
        metadata = {"shape": list(array.shape), "compressor": {"id": "zstd", "level": 1}}
        store = ts.open({**spec, "dtype": array.dtype.name, "metadata": metadata}, create=True).result()
        store.write(array).result()
    folder = tmp_path / "checkpoint_7"
    assert is_t5x(folder)
    assert_bitwise(open_t5x(folder), ours)
    ts.KvStore.open(kvstore).result().write("target.decoder.decoder_norm.scale/0", None).result()
    with pytest.raises(InputError, match=r"target\.decoder\.decoder_norm\.scale has 1 of 1 chunks missing \(0\)"):
        open_t5x(folder)


# What is wrong


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5x") / "checkpoint_7"
    return write_checkpoint(folder, unscanned_leaves(our_arrays()))


@pytest.fixture
def checkpoint(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "checkpoint_7")


def zarr_of(folder):
    return sorted(folder.glob("target.*.mlp.*"))[0]


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
def test_truncated_index(checkpoint, kept):
    index = checkpoint / "checkpoint"
    os.truncate(index, int(index.stat().st_size * kept))
    with pytest.raises(InputError, match=r"ends too early .* truncated, copy it again"):
        open_t5x(checkpoint)


def test_missing_folder(checkpoint):
    folder = zarr_of(checkpoint)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=rf"{folder.name} is missing"):
        open_t5x(checkpoint)


def test_missing_chunk_is_not_read_as_zeros(checkpoint):
    folder = zarr_of(checkpoint)
    (folder / "0.1").unlink()
    with pytest.raises(InputError, match=rf"{folder.name} has 1 of 4 chunks missing \(0\.1\)"):
        open_t5x(checkpoint)


@pytest.mark.parametrize("damage", ["truncated", "one bit"])
def test_damaged_chunk(checkpoint, damage):
    gzip = [f for f in checkpoint.glob("target.*layers_0*") if "gzip" in (f / ".zarray").read_text()]
    folder = sorted(gzip)[0]
    chunk = sorted(folder.glob("0*"))[0]
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content if damage == "one bit" else content[:-9])
    stack, _layer, *rest = folder.name.removeprefix("target.").split(".")
    weights = open_t5x(checkpoint)
    with pytest.raises(InputError, match=rf"{folder.name} cannot be read"):
        weights.read("/".join([stack, "layers", *rest]))


def test_foreign_zarr(checkpoint):
    folder = zarr_of(checkpoint)
    (folder / ".zarray").write_text('{"zarr_format": 3}')
    with pytest.raises(InputError, match=rf"{folder.name} is no zarr array that can be read"):
        open_t5x(checkpoint)


def test_link_out_of_the_checkpoint(checkpoint, whole):
    folder = zarr_of(checkpoint)
    shutil.rmtree(folder)
    folder.symlink_to(whole / folder.name)
    with pytest.raises(InputError, match="link out of the checkpoint"):
        open_t5x(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x | {"decoder/adapter/kernel": np.ones(3, np.float32)}, r"1 not known \(decoder/adapter/kernel\)"),
        (lambda x: {k: v for k, v in x.items() if "layers_1/mlp/wo" not in k}, r"1 missing \(encoder/layers_1/mlp/wo"),
        (
            lambda x: x | {"encoder/layers_1/mlp/wo/kernel": np.ones((MLP, 5), np.float32)},
            r"\(10, 5\), \(10, 6\) would",
        ),
        (
            lambda x: x | {"encoder/encoder_norm/scale": np.ones(6, np.float64)},
            "is float64, not one of float32, bfloat16",
        ),
        (lambda x: x | {"encoder/encoder_norm/scale": np.ones(6, np.uint16)}, "version 2 hold bfloat16 as uint16"),
        (
            lambda x: x | {"encoder/layers_1/mlp/wo/kernel": np.ones((MLP, EMBED), BFLOAT16)},
            "is bfloat16, layer 0 is float32",
        ),
        (lambda x: {k: v for k, v in x.items() if "logits_dense" not in k}, "logits are made with the embedding"),
        (lambda x: {k.replace("wi_0", "wi"): v for k, v in x.items() if "wi_1" not in k}, "the ungated MLP of T5 1.0"),
    ],
    ids=["extra", "missing", "shape", "dtype", "uint16", "mixed", "tied", "T5 1.0"],
)
def test_leaves_that_do_not_fit(tmp_path, change, message):
    folder = write_checkpoint(tmp_path / "checkpoint_7", change(unscanned_leaves(our_arrays())))
    with pytest.raises(InputError, match=message):
        open_t5x(folder)


def test_umt5_is_refused(tmp_path):
    leaves = scanned_leaves(our_arrays())
    leaves["encoder/encoder/relpos_bias/rel_embedding"][0, 1, 3] += 1
    with pytest.raises(InputError, match="layers of the encoder have different tables of relative positions"):
        open_t5x(write_checkpoint(tmp_path / "checkpoint_7", leaves))


def test_layers_on_either_axis_are_refused(tmp_path):
    """With as many layers as embed, heads and mlp have, all shapes are the same for both."""
    equal = {EMBED: 2, MLP: 2, ENCODER: 2, DECODER: 2}
    leaves = {
        name: np.zeros([equal.get(n, n) for n in array.shape], np.float32)
        for name, array in scanned_leaves(our_arrays()).items()
    }
    with pytest.raises(InputError, match="axis 0 or on axis 1, both fit"):
        open_t5x(write_checkpoint(tmp_path / "checkpoint_7", leaves))


@pytest.mark.parametrize("version", [0, 1, 4])
def test_other_versions_are_refused(tmp_path, version):
    folder = write_checkpoint(tmp_path / "checkpoint_7", unscanned_leaves(our_arrays()), version=version)
    with pytest.raises(InputError, match=f"is of version {version}; versions 2 and 3 are read"):
        open_t5x(folder)


@pytest.mark.parametrize("name", ["..", "a/../../b", "a.b", ""])
def test_names_are_no_paths(checkpoint, name):
    index = {"version": 3, "optimizer": {"target": {name: {"driver": "zarr", "kvstore": {}, "metadata": {}}}}}
    (checkpoint / "checkpoint").write_bytes(msgpack.packb(index))
    with pytest.raises(InputError, match="is no name of a T5X parameter"):
        open_t5x(checkpoint)


def test_other_folders_are_not_t5x(tmp_path):
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"')  # TensorFlow's
    assert not is_t5x(tmp_path)
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "checkpoint_100").mkdir()
    with pytest.raises(InputError, match=r"is no checkpoint of T5X .* give one of its folders: checkpoint_100"):
        open_t5x(tmp_path)


def test_what_is_not_written(tmp_path, in_memory):
    ours = our_arrays()
    with pytest.raises(InputError, match=r"finds a checkpoint by its name: .*checkpoint_3"):
        write_t5x_legacy(tmp_path / "out", in_memory(ours), scanned=False, step=3)
    (tmp_path / "checkpoint_3").mkdir()
    with pytest.raises(InputError, match="exists"):
        write_t5x_legacy(tmp_path / "checkpoint_3", in_memory(ours), scanned=False, step=3)
    for change, message in (
        ({"encoder/adapter": np.ones(3)}, r"1 not known \(encoder/adapter\)"),
        ({"decoder/decoder_norm/scale": np.ones(5)}, r"has shape \(5,\), \(6,\) would fit"),
        ({"decoder/decoder_norm/scale": np.ones(6)}, "is float64; T5X keeps float32 or bfloat16"),
    ):
        with pytest.raises(InputError, match=message):
            write_t5x_legacy(tmp_path / "checkpoint_4", in_memory(ours | change), scanned=False, step=4)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_3"]


def test_a_failed_write_leaves_nothing(tmp_path, in_memory):
    class Failing(in_memory):
        def read(self, name, index=None):
            if "decoder" in name:
                raise OSError("no space left on device")
            return super().read(name, index)

    with pytest.raises(OSError, match="no space"):
        write_t5x_legacy(tmp_path / "checkpoint_3", Failing(our_arrays()), scanned=False, step=3)
    assert not list(tmp_path.iterdir())
