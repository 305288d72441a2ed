"""A process that trains gets its environment before JAX starts, and keeps its command line; what is set stays."""

import json
import os
import subprocess
import sys

CODE = """
import json, os, sys
from medmt5.environment import prepare_process
prepare_process()
print(json.dumps([os.getpid(), sys.argv, {k: os.environ.get(k) for k in %r}]))
"""
NAMES = ["GLIBC_TUNABLES", "JAX_COMPILATION_CACHE_DIR", "JAX_CPU_ENABLE_ASYNC_DISPATCH"]


def run(tmp_path, **environment):
    script = tmp_path / "program.py"
    script.write_text(CODE % NAMES, encoding="utf-8")
    clean = {k: v for k, v in os.environ.items() if k not in NAMES} | {"XDG_CACHE_HOME": str(tmp_path)} | environment
    with subprocess.Popen(
        [sys.executable, str(script), "--a", "b c"], env=clean, stdout=subprocess.PIPE, text=True
    ) as process:
        out, _ = process.communicate(timeout=60)
    pid, arguments, seen = json.loads(out)
    assert pid == process.pid, "the same process, so that signals and job managers still reach it"
    assert arguments[1:] == ["--a", "b c"]
    return seen


def test_what_is_not_set_is_set_before_the_program_runs(tmp_path):
    seen = run(tmp_path)
    assert "glibc.malloc.hugetlb=1" in seen["GLIBC_TUNABLES"]
    assert seen["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "medmt5" / "xla")
    assert seen["JAX_CPU_ENABLE_ASYNC_DISPATCH"] == "false"


def test_what_is_set_stays(tmp_path):
    given = {"GLIBC_TUNABLES": "glibc.malloc.perturb=0", "JAX_COMPILATION_CACHE_DIR": "/elsewhere"}
    seen = run(tmp_path, **given)
    assert given.items() <= seen.items()
