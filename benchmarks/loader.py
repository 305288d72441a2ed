"""How many tokens a second the loader makes, from one process: `python benchmarks/loader.py --batch 64`.

Writes two token stores of random ids to a temporary folder (20,000 documents of about 400 tokens; 5,000 pairs of about
60 and 70), reads them as training does, and prints one JSON object as its last line. Its `tokens_per_second` are those
of span corruption; `pairs` has those of pairs. Tokens are inputs and targets without padding. `cores` is processor time
over wall time: on a busy machine, look at `tokens_per_cpu_second`. `microseconds_per_batch` is processor time, too.

`python benchmarks/loader.py --pack --batch 32 --inputs 512 --targets 512` reads 30,000 labelled sentences instead
(about 35 tokens, targets with two tags for each 12 of them), one a row and packed; and `seconds_to_pack_1000000`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from medmt5.tokenizer import Tokenizer
from medmt5.tokens import loader, packing, span_corruption
from medmt5.tokens.shuffle import Shuffle
from medmt5.tokens.store import StoreWriter, TokenStore

VOCABULARY = mock.Mock(Tokenizer, sha256="0" * 64, num_pieces=250_100, labels=())
SENTINEL_IDS = np.arange(250_099, 249_999, -1, dtype=np.int32)
STAGES = [
    (TokenStore, "read", "reading"),
    (TokenStore, "read_text", "reading"),
    (span_corruption, "corrupt", "corruption"),
    (Shuffle, "__call__", "shuffling"),
    (loader, "_make_batch", "batch"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="examples a batch")
    parser.add_argument("--inputs", type=int, default=512, help="tokens of the inputs")
    parser.add_argument("--targets", type=int, default=114, help="tokens of the targets")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each kind of store is read")
    parser.add_argument("--pack", action="store_true", help="labelled sentences, one a row and packed")
    arguments = parser.parse_args()
    if arguments.pack:
        with tempfile.TemporaryDirectory() as folder:
            store = write_labelled(Path(folder))
            results = {
                "one_a_row": measure(store, arguments),
                "packed": measure(store, arguments, pack=True),
                "seconds_to_pack_1000000": measure_packing(arguments),
            }
        print(json.dumps(describe(arguments) | results))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = {
            store.manifest["objective"]: measure(store, arguments)
            for store in (write_documents(Path(folder)), write_pairs(Path(folder)))
        }
    text = results["span_corruption"]
    print(json.dumps(describe(arguments) | text | {"pairs": results["pairs"]}))


def write_documents(folder: Path) -> TokenStore:
    rng = np.random.default_rng(0)
    return _write(
        folder / "text/train", "span_corruption", ({"targets": ids} for ids in _random_texts(rng, 20_000, 400, 20_000))
    )


def write_pairs(folder: Path) -> TokenStore:
    rng = np.random.default_rng(0)
    texts = zip(_random_texts(rng, 5_000, 60, 110), _random_texts(rng, 5_000, 70, 110), strict=True)
    return _write(folder / "pairs/train", "pairs", ({"inputs": a, "targets": b} for a, b in texts))


def write_labelled(folder: Path) -> TokenStore:
    rng = np.random.default_rng(0)
    sentences = _random_texts(rng, 30_000, 35, 200)
    return _write(
        folder / "labelled/train",
        "pairs",
        ({"inputs": ids, "targets": np.resize(ids, len(ids) + 2 * rng.poisson(len(ids) / 12))} for ids in sentences),
    )


def measure_packing(arguments: argparse.Namespace) -> float:
    rng = np.random.default_rng(0)
    inputs = np.clip(rng.lognormal(np.log(35), 0.7, 1_000_000), 1, 200).astype(int)
    lengths = np.stack([inputs, inputs + 2 * rng.poisson(inputs / 12)], axis=1)
    limits = np.array([arguments.inputs, arguments.targets])
    start = time.perf_counter()
    packing.pack(np.minimum(lengths, limits), limits)
    return round(time.perf_counter() - start, 3)


def measure(store: TokenStore, arguments: argparse.Namespace, pack: bool = False) -> dict[str, Any]:
    """Returns the figures of reading one store."""

    def make_batches():
        # The store is there twice, at two rates: mixing is part of the work.
        return loader.make_batches(
            [(store, 2.0), (store, 1.0)],
            feature_lengths={"inputs": arguments.inputs, "targets": arguments.targets},
            batch_size=arguments.batch,
            seed=0,
            sentinel_ids=SENTINEL_IDS,
            pack=pack,
        )

    batches = loader.iterate(make_batches())
    next(batches)
    tokens = count = 0
    start, cpu_start = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < arguments.seconds:
        batch = next(batches)
        count += 1
        tokens += sum(np.count_nonzero(batch[name]) for name in ("encoder_input_tokens", "decoder_target_tokens"))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    batches.close()

    start = time.perf_counter()
    resumed = loader.iterate(make_batches(), start_step=1_000_000)
    next(resumed)
    resume_seconds = time.perf_counter() - start
    resumed.close()
    return {
        "tokens_per_second": round(tokens / seconds),
        "tokens_per_cpu_second": round(tokens / cpu_seconds),
        "batches_per_second": round(count / seconds, 1),
        "cores": round(cpu_seconds / seconds, 2),
        "tokens_per_batch": round(tokens / count),
        "padding_share": round(1 - tokens / count / arguments.batch / (arguments.inputs + arguments.targets), 4),
        "seconds_to_a_batch_of_step_1000000": round(resume_seconds, 4),
        "microseconds_per_batch": measure_stages(make_batches),
    }


def measure_stages(make_batches: Callable[[], Any], count: int = 200) -> dict[str, int]:
    """Returns processor time a batch by stage, in one thread and without reading ahead."""
    spent: Counter[str] = Counter()

    def timed(stage, function):
        def call(*args, **kwargs):
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[stage] += time.thread_time() - start

        return call

    with ExitStack() as patches:
        for owner, name, stage in STAGES:
            patches.enter_context(mock.patch.object(owner, name, timed(stage, getattr(owner, name))))
        batches = make_batches()
        batches[0]
        spent.clear()
        start = time.thread_time()
        for step in range(count):
            batches[step]
        spent["all"] = time.thread_time() - start
    spent["mixing"] = spent["all"] - spent["batch"]
    spent["padding"] = spent.pop("batch") - spent["reading"] - spent["corruption"] - spent["shuffling"]
    return {stage: round(seconds / count * 1e6) for stage, seconds in spent.items()}


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "benchmark": "loader",
        "batch": arguments.batch,
        "inputs": arguments.inputs,
        "targets": arguments.targets,
        "device": _processor(),
        "device_cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "grain", "array_record")},
        },
    }


def _write(directory: Path, objective: str, examples: Iterator[dict[str, np.ndarray]]) -> TokenStore:
    with StoreWriter(
        directory, task=directory.parent.name, split="train", objective=objective, tokenizer=VOCABULARY
    ) as writer:
        for example in examples:
            writer.write(example)
    return TokenStore(directory)


def _random_texts(rng: np.random.Generator, count: int, median_tokens: int, most_tokens: int) -> Iterator[np.ndarray]:
    """Yields texts of ids from 300 to 250,000, the frequent ones first, as Zipf's law has it."""
    for length in np.clip(rng.lognormal(np.log(median_tokens), 0.7, count), 1, most_tokens).astype(int):
        yield np.exp(rng.uniform(np.log(300), np.log(249_000), length)).astype(np.int32)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.is_file() else []
    return names[0].split(":")[1].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
