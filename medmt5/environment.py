"""What a process must set before JAX starts: huge pages for the allocator and the persistent compilation cache.

Imports nothing heavy: it runs first.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

# Keeping freed memory as well (glibc.malloc.mmap_max=0 and a high trim_threshold) saves a few percent more, but the
# heap tears: a step of mT5-small then took up to 9.5 GB instead of 5.
HUGE_PAGES = "glibc.malloc.hugetlb=1"


def prepare_process() -> None:
    """Call first in a program that trains or labels; it may start the program again, once, with another environment.

    * `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` (Linux): the allocator asks for transparent huge pages. On CPUs much of a
      train step is page faults on fresh buffers; measured 1.1 to 1.4 times as fast. glibc reads it only when a
      process starts, hence the new start. A GLIBC_TUNABLES that is set already is respected.
    * `JAX_CPU_ENABLE_ASYNC_DISPATCH=false`: on a CPU a step that is dispatched before the last one ends takes its
      memory at once and wins nothing. Accelerators are not concerned.
    * `JAX_COMPILATION_CACHE_DIR`: programs compiled once are read from disk the next time. Set it to an empty string
      for no cache.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "xla"))
    os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "false")
    if platform.system() == "Linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        # orig_argv: the interpreter's own options and `-m` included
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def cache_folder() -> Path:
    """Returns the folder of what can be made or fetched again: compiled programs, published vocabularies."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medmt5"
