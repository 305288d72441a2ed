"""Who may import what (docs/architecture.md), from the syntax tree and in a fresh process."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "medmt5"

DATA_STACK = {"tensorflow", "seqio", "tensorflow_datasets", "clu"}
JAX_STACK = {"jax", "flax", "optax", "orbax"}
TEXT = {"languages", "annotation", "tokenizer", "vocabularies", "sample", "corpus", "evaluation"}
CORE = {"model", "partitioning", "processes", "failure", "decoding", "checkpoints", "training"}
SEQIO = {"datasets", "preprocessing", "tasks", "mixtures"}

# unit -> (outside modules, our units) it must never import
FORBIDDEN = {
    **{unit: (DATA_STACK | JAX_STACK | {"gin"}, CORE | SEQIO) for unit in TEXT},
    **{unit: (DATA_STACK | {"gin"}, TEXT | SEQIO) for unit in CORE},
    **{unit: (JAX_STACK | {"gin"}, CORE) for unit in SEQIO},
    "configuration": (DATA_STACK | JAX_STACK, TEXT | CORE | SEQIO | {"tokens"}),
    "conversion": (DATA_STACK | {"gin", "torch", "transformers", "pickle"}, SEQIO),
    "tokens": (DATA_STACK | JAX_STACK | {"gin"}, CORE | SEQIO),
    "serving": (DATA_STACK | JAX_STACK | {"gin"}, CORE | SEQIO),
    "batch": (DATA_STACK | JAX_STACK | {"gin"}, TEXT | CORE | SEQIO | {"tokens"}),
    **{
        unit: (DATA_STACK | JAX_STACK | {"gin"}, TEXT | CORE | SEQIO | {"tokens"})
        for unit in ("errors", "environment", "extensions", "download", "storage")
    },
    **{
        unit: (DATA_STACK | {"gin"}, SEQIO)
        for unit in (
            "document_labelling",
            "file_labelling",
            "resumable_output",
            "labelling",
            "serve",
            "trained_model",
            "loaded_model",
            "evaluate",
            "train",
            "plan",
            "average",
            "describe",
            "doctor",
            "model_files",
            "progress",
        )
    },
}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Returns the dotted names a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_unit_imports_only_what_its_layer_may(path):
    outside, ours = FORBIDDEN.get(unit_of(path), (set(), set()))
    for name in imports(path):
        parts = name.split(".")
        assert parts[0] not in outside, f"{path} imports {name}"
        if parts[0] == "medmt5" and len(parts) > 1:
            assert parts[1] not in ours or parts[1] == unit_of(path), f"{path} imports {name}"
        if parts[0] == "gin":
            assert unit_of(path) in ("config", "configuration"), "only these know gin"


def test_every_unit_has_a_rule():
    entry_points = {"__init__", "arguments", "cli", "config", "demo"}
    assert {unit_of(path) for path in FILES} == set(FORBIDDEN) | entry_points


def test_the_rules_would_notice(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from tensorflow import io\n", encoding="utf-8")
    assert "tensorflow" in {name.split(".")[0] for name in imports(file)}


WITHOUT_TENSORFLOW = [
    "tokens.loader",
    "model.mt5",
    "training.loop",
    "training.step",
    "decoding.constrained",
    "checkpoints.manager",
    "train",
    "file_labelling",
    "evaluate",
    "datasets.check",
    "datasets.download",
    "datasets.listing",
    "doctor",
]


def test_importing_loads_no_tensorflow_and_nothing_that_tensorboard_could_do_without():
    """One after the other, in one process: what brings it is named."""
    code = f"""
import importlib, sys
for module in {WITHOUT_TENSORFLOW!r}:
    importlib.import_module(f"medmt5.{{module}}")
    if brought := {DATA_STACK | {"torch", "boto3", "google.cloud.storage"}!r} & sys.modules.keys():
        sys.exit(f"medmt5.{{module}} brings {{', '.join(brought)}}")
"""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr


def test_importing_the_package_alone_loads_nothing_heavy():
    code = f"import sys, medmt5; sys.exit(', '.join({DATA_STACK | JAX_STACK | {'numpy'}!r} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
