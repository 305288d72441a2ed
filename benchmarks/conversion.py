"""Memory and time of `medmt5 convert` on a model of random weights, there and back; prints one JSON line.

    python benchmarks/conversion.py --size large --vocabulary spiece.model --work /tmp/conversion

Makes a Hugging Face folder, converts it to medmt5 and that back, each in a process of its own, and compares the tensors
of the two folders bit for bit. Then the folder to int8, and that to medmt5. Needs three times the model's size on disk,
in --work, and removes it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medmt5.conversion.huggingface import INDEX, SINGLE, HuggingFaceWeights, write_model
from medmt5.conversion.int8 import FILE
from medmt5.conversion.parameters import parameter_shapes
from medmt5.conversion.safetensors import read_header
from medmt5.conversion.weights import TensorInfo
from medmt5.model.mt5 import MT5Config

# rows, embed, heads, layers, decoder layers, head_dim, mlp (Xue et al. 2021)
SIZES = {
    "tiny": MT5Config(32128, 64, 4, 2, 2, 16, 128),
    "small": MT5Config(250112, 512, 6, 8, 8, 64, 1024),
    "base": MT5Config(250112, 768, 12, 12, 12, 64, 2048),
    "large": MT5Config(250112, 1024, 16, 24, 24, 64, 2816),
}
CHILD = """
import sys
from medmt5.cli import main
code = main(sys.argv[1:])
print(open("/proc/self/status").read())
sys.exit(code)
"""


class RandomWeights:
    """A model that is drawn as it is read."""

    def __init__(self, config: MT5Config, seed: int = 0):
        self._shapes, self._seed = parameter_shapes(config), seed

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(shape, "float32") for name, shape in self._shapes.items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        rng = np.random.default_rng([self._seed, *name.encode()])
        return rng.standard_normal(self._shapes[name], np.float32)[index or ...]


def measure(*arguments: str | Path) -> dict[str, float]:
    """Returns seconds and peak memory of `medmt5` with these arguments."""
    start = time.monotonic()
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    status = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    return {"seconds": round(time.monotonic() - start, 1), "peak_GiB": round(int(peak[1]) / 2**20, 3)}


def same_rows(before: Path, after: Path) -> bool:
    """Returns whether all tensors are equal bit for bit; of the vocabulary's, the rows that `before` has."""
    stored = [
        {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in read_header(file).items()}
        for folder in (before, after)
    ]
    if stored[0].keys() != stored[1].keys():
        return False
    for name, first in stored[0].items():
        step = max(1, (1 << 26) // (4 * math.prod(first.shape[1:])))
        for start in range(0, first.shape[0], step):
            part = (slice(start, min(start + step, first.shape[0])), *(slice(None) for _ in first.shape[1:]))
            if first.read(part).tobytes() != stored[1][name].read(part).tobytes():
                return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--vocabulary", type=Path, required=True, metavar="FILE")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR")
    arguments = parser.parse_args()
    config = SIZES[arguments.size]
    weights = RandomWeights(config)
    infos = weights.tensors().values()
    folder = Path(tempfile.mkdtemp(prefix="conversion-", dir=arguments.work))
    try:
        first, ours, back = folder / "first", folder / "ours", folder / "back"
        first.mkdir()
        write_model(first, weights, config, "float32", lambda count: None)
        shutil.copy(arguments.vocabulary, first / "spiece.model")
        there = measure("convert", first, ours, "--format", "medmt5")
        again = measure("convert", ours, back, "--format", "huggingface")
        bitwise, rows = same_rows(first, back), HuggingFaceWeights(back).config.vocab_size
        files = len(list(back.glob("*.safetensors")))
        index = (back / INDEX).is_file() != (back / SINGLE).is_file()
        for done in (ours, back):
            shutil.rmtree(done)
        small = folder / "int8"
        rounded = measure("convert", first, small, "--format", "int8")
        read = measure("convert", small, ours, "--format", "medmt5")
        largest = max(math.prod(info.shape) for info in infos) * 4
        result = {
            "size": arguments.size,
            "bytes": sum(math.prod(info.shape) for info in infos) * 4,
            "largest_tensor_GiB": round(largest / 2**30, 3),
            "allowed_GiB": round(1.3 * largest / 2**30 + 1, 3),
            "huggingface_to_medmt5": there,
            "medmt5_to_huggingface": again,
            "files": files,
            "index": index,
            "bitwise": bitwise,
            "rows": rows,
            "huggingface_to_int8": rounded,
            "int8_to_medmt5": read,
            "int8_bytes": sum(file.stat().st_size for file in small.rglob(FILE)),
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "tensorstore", "orbax-checkpoint")},
        }
        print(json.dumps(result))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
