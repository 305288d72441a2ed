"""Weights in and out of a folder of Hugging Face's: config.json and safetensors files. Nothing is imported from there.

What is read: T5 1.1's architecture, that is mT5, Medical mT5, T5 1.1 and Flan-T5. `RULES` has the names; PyTorch keeps
its matrices as [outputs, inputs], we as [inputs, outputs], and a stack of layers on axis 0. A name that no rule knows,
on either side, is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmt5.conversion.parameters import check_parameters, shorten
from medmt5.conversion.safetensors import Stored, describe_content, read_header, row_blocks, write_safetensors
from medmt5.conversion.weights import TensorInfo, Weights
from medmt5.errors import InputError
from medmt5.model.mt5 import MT5Config

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SHARD_BYTES = 5_000_000_000  # transformers' own limit of one file


class Rule(NamedTuple):
    """`theirs` has {layer} where `ours` is a stack; `transposed` is said of one layer."""

    ours: str
    theirs: str
    transposed: bool


def _rules() -> Iterator[Rule]:
    yield Rule("token_embedder/embedding", "shared.weight", False)
    stacks = {
        "encoder": (("attention", "SelfAttention", "pre_attention_layer_norm"),),
        "decoder": (
            ("self_attention", "SelfAttention", "pre_self_attention_layer_norm"),
            ("encoder_decoder_attention", "EncDecAttention", "pre_cross_attention_layer_norm"),
        ),
    }
    for stack, attentions in stacks.items():
        first = f"{stack}.block.0.layer.0.SelfAttention"
        yield Rule(f"{stack}/relpos_bias/rel_embedding", f"{first}.relative_attention_bias.weight", True)
        for number, (ours, theirs, norm) in enumerate(attentions):
            part = f"{stack}.block.{{layer}}.layer.{number}"
            yield Rule(f"{stack}/layers/{norm}/scale", f"{part}.layer_norm.weight", False)
            for kernel, letter in {"query": "q", "key": "k", "value": "v", "out": "o"}.items():
                yield Rule(f"{stack}/layers/{ours}/{kernel}/kernel", f"{part}.{theirs}.{letter}.weight", True)
        part = f"{stack}.block.{{layer}}.layer.{len(attentions)}"
        yield Rule(f"{stack}/layers/pre_mlp_layer_norm/scale", f"{part}.layer_norm.weight", False)
        for kernel in ("wi_0", "wi_1", "wo"):
            yield Rule(f"{stack}/layers/mlp/{kernel}/kernel", f"{part}.DenseReluDense.{kernel}.weight", True)
        yield Rule(f"{stack}/{stack}_norm/scale", f"{stack}.final_layer_norm.weight", False)
    yield Rule("decoder/logits_dense/kernel", "lm_head.weight", True)


RULES = tuple(_rules())
# PyTorch's names for one matrix under three names; files may repeat it.
ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# transformers ignores it too: a leftover of Mesh TensorFlow's T5, used by no layer.
IGNORED = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"}


class HuggingFaceWeights:
    """A folder's tensors, open: `Weights` in our names and layout."""

    def __init__(self, folder: Path):
        self.config = read_config(folder)
        stored = _stored_tensors(folder)
        self._parts = _match(folder, stored, self.config)
        check_parameters(folder, self.tensors(), self.config)

    def tensors(self) -> dict[str, TensorInfo]:
        infos = {}
        for rule in RULES:
            first, stack = self._parts[rule.ours][0], len(self._parts[rule.ours])
            shape = first.shape[::-1] if rule.transposed else first.shape
            infos[rule.ours] = TensorInfo((stack, *shape) if _is_stack(rule) else shape, first.dtype.name)
        return infos

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """Returns one parameter or a part of it; a single matrix comes as a transposed view, without a copy."""
        rule = next(rule for rule in RULES if rule.ours == name)
        shape, dtype = self.tensors()[name]
        index = index or (slice(None),) * len(shape)
        if not _is_stack(rule):
            return _read_layer(self._parts[name][0], rule, index)
        layers = range(len(self._parts[name]))[index[0]]
        out = np.empty([len(range(n)[s]) for s, n in zip(index, shape, strict=True)], np.dtype(dtype))
        for view, layer in zip(out, layers, strict=True):
            view[...] = _read_layer(self._parts[name][layer], rule, index[1:])
        return out


def _read_layer(stored: Stored, rule: Rule, index: tuple[slice, ...]) -> np.ndarray:
    return stored.read(index[::-1]).T if rule.transposed else stored.read(index)


def _is_stack(rule: Rule) -> bool:
    return "{layer}" in rule.theirs


def _layers(rule: Rule, config: MT5Config) -> int:
    return config.num_encoder_layers if rule.ours.startswith("encoder") else config.num_decoder_layers


def read_config(folder: Path) -> MT5Config:
    """Returns the model's shape; raises InputError, with the reason, for a model that this is not."""
    file = folder / "config.json"
    c = read_json(file)
    kind, activation = c.get("model_type"), c.get("feed_forward_proj", "relu")
    t5 = kind in ("mt5", "t5")
    # transformers 5 calls T5 1.1 and mT5 tied, too, and has a word of its own for T5 1.0.
    scaled = c.get("scale_decoder_outputs", kind == "t5" and c.get("tie_word_embeddings", True))
    positions = (c.get("relative_attention_num_buckets", 32), c.get("relative_attention_max_distance", 128))
    reasons = {
        "umT5 has relative positions in every layer, this model one table for a stack": kind == "umt5",
        f"it is a {kind!r}, not an mT5 or T5 1.1": not t5 and kind != "umt5",
        "ByT5's ids are bytes, our tokenizer's SentencePiece pieces": "ByT5" in str(c.get("tokenizer_class")),
        f"its MLP is {activation!r}, not 'gated-gelu' (T5 1.0 has 'relu'; use T5 1.1, Flan-T5 or mT5)": t5
        and activation != "gated-gelu",
        "its output matrix is its embedding, scaled (T5 1.0); this model has one of its own": t5 and scaled,
        f"its relative positions are {positions}, not T5's 32 buckets up to 128": positions != (32, 128),
        "its layer norms have another epsilon than 1e-6": c.get("layer_norm_epsilon", 1e-6) != 1e-6,
    }
    wrong = [reason for reason, applies in reasons.items() if applies]
    if wrong:
        raise InputError(f"{file} describes a model that medmt5 does not have: {'; '.join(wrong)}")
    names = ("vocab_size", "d_model", "num_heads", "num_layers", "d_kv", "d_ff")
    try:
        rows, embed, heads, layers, head_dim, mlp = (int(c[name]) for name in names)
        decoder_layers = int(c["num_layers"] if c.get("num_decoder_layers") is None else c["num_decoder_layers"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} must give {', '.join(names)} as whole numbers ({error!r})") from None
    return MT5Config(rows, embed, heads, layers, decoder_layers, head_dim, mlp, float(c.get("dropout_rate", 0.1)))


def read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"no {file.name} in {file.parent}; give a folder that has one beside its safetensors files")
    raw = file.read_bytes()
    try:
        value = json.loads(raw.decode("utf-8"))
    except ValueError as error:
        what = describe_content(raw[:512])
        raise InputError(f"{file} is not JSON: {error if what == 'it is JSON' else what}") from None
    if not isinstance(value, dict):
        raise InputError(f"{file} holds a JSON {type(value).__name__}, not an object; fetch it again")
    return value


def _stored_tensors(folder: Path) -> dict[str, Stored]:
    if not (folder / INDEX).is_file():
        return read_header(folder / SINGLE)
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{folder / INDEX} has no weight_map of names to files; fetch it again")
    stored: dict[str, Stored] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(
                f"{folder / INDEX} names the file {name}, which is not in {folder}; fetch the folder again"
            )
        stored |= read_header(folder / name)
    different = sorted(weight_map.keys() ^ stored.keys())
    if different:
        raise InputError(
            f"{folder / INDEX} and the files it names differ in {len(different)} tensors; fetch the folder again\n"
            + shorten([f"  {name}" for name in different])
        )
    return stored


def _match(folder: Path, stored: dict[str, Stored], config: MT5Config) -> dict[str, list[Stored]]:
    """Returns the stored tensors of each of our names, layer by layer."""
    tables = [name for name in ("shared.weight", *ALIASES) if name in stored]
    for alias in tables[1:]:
        _check_equal(folder, tables[0], stored[tables[0]], alias, stored[alias])
    left = {name: place for name, place in stored.items() if name not in IGNORED and name not in tables[1:]}
    if tables:
        left["shared.weight"] = left.pop(tables[0])
    parts: dict[str, list[Stored]] = {}
    problems = []
    for rule in RULES:
        count = _layers(rule, config) if _is_stack(rule) else 1
        names = [rule.theirs.format(layer=layer) for layer in range(count)]
        problems += [f"  missing: {name}" for name in names if name not in left]
        parts[rule.ours] = [left.pop(name) for name in names if name in left]
        kinds = sorted({f"{p.shape} {p.dtype.name}" for p in parts[rule.ours]})
        if len(kinds) > 1:
            problems.append(f"  {rule.theirs}: layers differ in shape or dtype: {', '.join(kinds)}")
    problems += [f"  unknown: {name} {place.shape}" for name, place in left.items()]
    if problems:
        raise InputError(
            f"the tensors in {folder} are not those of the model that its config.json describes\n" + shorten(problems)
        )
    return parts


def _check_equal(folder: Path, name: str, table: Stored, alias: str, other: Stored) -> None:
    rows = max(1, (1 << 25) // (table.dtype.itemsize * math.prod(table.shape[1:]) or 1))
    same = table.info == other.info and all(
        np.array_equal(table.read(block).view(np.uint8), other.read(block).view(np.uint8))
        for start in range(0, table.shape[0], rows)
        for block in [(slice(start, start + rows), *(slice(None) for _ in table.shape[1:]))]
    )
    if not same:
        raise InputError(f"{folder}: {name} and {alias} differ; T5 has one embedding for encoder and decoder")


def write_model(folder: Path, weights: Weights, config: MT5Config, dtype: str, advance: Callable[[int], None]) -> None:
    """Writes config.json, generation_config.json and the weights, for transformers' MT5ForConditionalGeneration.

    `advance(n)` hears of n parameters. Raises InputError where `weights` are not the model's, or have values that
    `dtype` cannot hold.
    """
    special = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    facts = {
        "architectures": ["MT5ForConditionalGeneration"],
        "model_type": "mt5",
        "transformers_version": "4.57.1",  # whose fields these are; without it 4.57.6 takes the tokenizer for Mistral's
        "torch_dtype": dtype,
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "dropout_rate": config.dropout_rate,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "dense_act_fn": "gelu_new",
        "tie_word_embeddings": False,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "use_cache": True,
        **special,
    }
    _write_json(folder / "config.json", facts)
    _write_json(folder / "generation_config.json", special)
    _write_weights(folder, weights, config, dtype, advance)


def _write_weights(
    folder: Path, weights: Weights, config: MT5Config, dtype: str, advance: Callable[[int], None]
) -> None:
    """Writes model.safetensors, or shards and their index above `SHARD_BYTES`."""
    infos = weights.tensors()
    check_parameters("the source", infos, config)
    entries: list[tuple[str, TensorInfo, Rule, int | None]] = []
    for rule in RULES:
        shape = infos[rule.ours].shape[_is_stack(rule) :]
        info = TensorInfo(shape[::-1] if rule.transposed else shape, dtype)
        for layer in range(_layers(rule, config)) if _is_stack(rule) else [None]:
            entries.append((rule.theirs.format(layer=layer), info, rule, layer))
    shards: list[list[tuple[str, TensorInfo, Rule, int | None]]] = [[]]
    size = total = 0
    for entry in entries:
        count = math.prod(entry[1].shape) * np.dtype(dtype).itemsize
        if shards[-1] and size + count > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size, total = size + count, total + count
    names = [SINGLE] if len(shards) == 1 else [
        f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))
    ]  # fmt: skip
    for name, shard in zip(names, shards, strict=True):
        blocks = _blocks(weights, shard, np.dtype(dtype), advance)
        write_safetensors(folder / name, {entry[0]: entry[1] for entry in shard}, blocks)
    if len(shards) > 1:
        weight_map = {entry[0]: name for name, shard in zip(names, shards, strict=True) for entry in shard}
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _blocks(weights: Weights, shard: list, dtype: np.dtype, advance: Callable[[int], None]):
    for rule, entries in groupby(shard, key=lambda entry: entry[2]):
        yield from _tensor_blocks(weights, rule, [(name, layer) for name, _, _, layer in entries], dtype, advance)


def _tensor_blocks(weights: Weights, rule: Rule, entries: list, dtype: np.dtype, advance: Callable[[int], None]):
    """A generator of its own, so that the tensor is let go before the next one is read."""
    array = weights.read(rule.ours)
    for name, layer in entries:
        part = array if layer is None else array[layer]
        for block in row_blocks(part.T if rule.transposed else part, dtype):
            if dtype == np.float16 and np.isinf(block).any():
                raise InputError(f"{name} has values beyond float16's 65504; write float32 or bfloat16")
            yield name, block
            advance(block.size)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
