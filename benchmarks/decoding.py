"""Label decoding: sentences/s and decoder passes a sentence, with random weights, which tag and untag all the time.

    python benchmarks/decoding.py --data_dir raw/benchmarks --vocabulary spiece.model --mode local --beam 4

Sentences are AbstRCT's English test, or made of its words; the last line is one JSON object. Timed from words to spans:
tables, search and probabilities, not compilation. `--mode free` writes without the automaton, greedily, as many tokens
as a sentence has pieces, one more, and padding to the length of its batch.
"""

from __future__ import annotations

from medmt5.environment import prepare_process

if __name__ == "__main__":
    prepare_process()

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from medmt5.annotation.repairs import Repairs
from medmt5.datasets.declarations import find
from medmt5.datasets.raw_files import require_files
from medmt5.datasets.reading import read_split
from medmt5.decoding.buckets import bucket_length
from medmt5.decoding.generation import make_generator
from medmt5.labelling import Labeller
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.tokenizer import Tokenizer
from medmt5.trained_model import TrainedModel

LABELS = ("Claim", "Premise")
SHAPES = {  # embed, heads, encoder and decoder layers, head_dim, mlp; rows of the vocabulary, or what it takes
    "tiny": (256, 4, 4, 64, 512, None),
    "small": (512, 6, 8, 64, 1024, 250_112),
    "base": (768, 12, 12, 64, 2048, 250_112),
    "large": (1024, 16, 24, 64, 2816, 250_112),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=f"example: {__doc__.splitlines()[2]}")
    parser.add_argument("--data_dir", type=Path, required=True, help="a folder with AbstRCT, as `medmt5 data` finds it")
    parser.add_argument("--vocabulary", type=Path, required=True, help="a SentencePiece model")
    parser.add_argument("--model", choices=SHAPES, default="tiny", help="shape (default: %(default)s)")
    parser.add_argument("--mode", choices=("local", "full", "marginal", "free"), default="local")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="sentences decoded at once (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--words", type=int, help="make sentences of so many words, of those there are")
    parser.add_argument("--inputs", type=int, help="tokens of a window, as trained (default: no sentence is cut)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs, after one other (default: %(default)s)")
    args = parser.parse_args()
    sentences = read_sentences(args.data_dir, args.sentences, args.words)
    model = random_model(args.model, args.vocabulary, args.dtype, args.inputs or 8 * max(map(len, sentences)) + 512)
    run = free(model, sentences, args.batch) if args.mode == "free" else constrained(model, sentences, args)
    print(json.dumps(vars(args) | measure(run, args.repeat, sentences), default=str))


def read_sentences(folder: Path, count: int, words: int | None) -> list[list[str]]:
    dataset = find("abstrct")
    examples = read_split(dataset, "en", require_files(dataset, "en", folder), "test", Repairs())
    if not words:
        return [list(example.words) for example in itertools.islice(examples, count)]
    stream = itertools.cycle([word for example in examples for word in example.words])
    return [list(itertools.islice(stream, words)) for _ in range(count)]


def random_model(shape: str, vocabulary: Path, dtype: str, inputs: int) -> TrainedModel:
    tokenizer = Tokenizer(vocabulary, LABELS)
    embed, heads, layers, head_dim, mlp, rows = SHAPES[shape]
    rows = max(rows or 0, -(-tokenizer.size // 128) * 128)
    config = mt5.MT5Config(rows, embed, heads, layers, layers, head_dim, mlp, dtype=dtype)
    params = jax.jit(lambda: mt5.init_params(config, jax.random.key(0)))()
    params = jax.tree.map(lambda box: box.value, params, is_leaf=lambda x: hasattr(x, "names"))
    mesh = Partitioning(num_devices=1).make_mesh()
    lengths = {"inputs": inputs, "targets": 512}
    return TrainedModel(config, params, tokenizer, lengths, True, mesh, Path("random"), 0)


def constrained(model: TrainedModel, sentences: list[list[str]], args: argparse.Namespace):
    labeller = Labeller(model, beam_size=args.beam, scoring=args.mode, batch_size=args.batch)

    def run() -> dict:
        labelled = labeller.label(sentences, LABELS)
        return {
            "decoder_passes_per_sentence": statistics.mean(s.decoder_passes for s in labelled),
            "spans": sum(len(s.spans) for s in labelled),
            "mean_score": statistics.mean(s.score for s in labelled),
        }

    return run


def free(model: TrainedModel, sentences: list[list[str]], batch_size: int):
    """Greedy without the automaton, of as many tokens as the pieces of the sentences: a token, a pass."""
    generate = make_generator(model.config, model.mesh)
    rows = sorted(([i for w in model.tokenizer.encode_words(words) for i in w] for words in sentences), key=len)

    def run() -> dict:
        steps = 0
        for at in range(0, len(rows), batch_size):
            batch = rows[at : at + batch_size]
            longest = bucket_length(max(map(len, batch)) + 1)
            inputs = np.zeros((len(batch), longest), np.int32)
            for row, ids in enumerate(batch):
                inputs[row, : len(ids) + 1] = [*ids, model.tokenizer.eos_id]
            steps += int(jax.device_get(generate(model.params, jnp.asarray(inputs), longest).decoder_passes)) * len(
                batch
            )
        return {"decoder_passes_per_sentence": steps / len(rows)}

    return run


def measure(run, repeat: int, sentences: list[list[str]]) -> dict:
    start = time.perf_counter()
    facts = run()
    first_seconds = time.perf_counter() - start
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {
        "sentences_per_second": len(sentences) / median,
        "seconds_median": median,
        "seconds_min": min(seconds),
        "first_run_seconds": first_seconds,
        "words_in_all": sum(map(len, sentences)),
        **facts,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("jax", "jaxlib", "flax", "medmt5")},
        },
    }


if __name__ == "__main__":
    main()
