"""Memory and time of `medmt5 average` on two models of random weights; prints one JSON line.

    python benchmarks/average.py --size large --vocabulary spiece.model --work /tmp/average

Writes two MODEL_DIRs, has their mean made in a process of its own, and compares it with NumPy's. Needs three times the
model's size on disk, in --work, and removes it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from conversion import SIZES, RandomWeights, measure

from medmt5.conversion.checkpoint import CheckpointWeights, write_checkpoint
from medmt5.model_files import ModelFiles, write_model_files
from medmt5.tokenizer import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--vocabulary", type=Path, required=True, metavar="FILE")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR")
    arguments = parser.parse_args()
    config = SIZES[arguments.size]
    models = [RandomWeights(config, seed) for seed in (1, 2)]
    sizes = [4 * math.prod(info.shape) for info in models[0].tensors().values()]
    files = ModelFiles(config, Tokenizer(arguments.vocabulary, labels=()), {"inputs": 512, "targets": 512})
    folder = Path(tempfile.mkdtemp(prefix="average-", dir=arguments.work))
    try:
        for step, model in enumerate(models):
            (folder / f"{step}").mkdir()
            write_checkpoint(folder / f"{step}" / f"checkpoint_{step}", model, lambda count: None)
            write_model_files(folder / f"{step}", files)
        average = measure("average", folder / "0", folder / "1", "--output", folder / "mean")
        mean = CheckpointWeights(folder / "mean" / "checkpoint_1")
        equal = True
        for name in mean.tensors():
            total = models[0].read(name)
            total += models[1].read(name)
            equal &= bool(np.allclose(mean.read(name), total / 2, rtol=1e-6, atol=1e-7))
        result = {
            "size": arguments.size,
            "bytes": sum(sizes),
            "allowed_GiB": round(1.3 * max(sizes) / 2**30 + 1, 3),
            "average": average,
            "equal": equal,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "tensorstore")},
        }
        print(json.dumps(result))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
