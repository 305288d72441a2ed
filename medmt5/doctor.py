"""`medmt5 doctor`: what would stop a run on this machine, one line a check, with its remedy.

Versions are compared before JAX is imported, since a wrong one is what most often keeps JAX from being imported: hence
the imports inside of functions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from medmt5 import storage
from medmt5.errors import InputError

if TYPE_CHECKING:
    from medmt5.train import Experiment

# A platform's name for JAX, and what on the machine shows that it has one.
DEVICE_FILES = {
    "cuda": ("/dev/nvidia0", "/dev/nvidiactl"),
    "rocm": ("/dev/kfd",),
    "tpu": ("/dev/accel0", "/dev/vfio/0"),
}
INSTALL = {"cuda": "pip install 'jax[cuda12]'", "rocm": "install JAX for ROCm", "tpu": "pip install 'jax[tpu]'"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check. `remedy` is what to do, "" where all is well."""

    check: str
    found: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        return not self.remedy


def examine(
    build: Callable[[], Experiment] | None = None,
    *,
    platform_wanted: str | None = None,
    devices_wanted: int | None = None,
    connect: Callable[[], None] = lambda: None,
) -> Iterator[Finding]:
    """Yields the findings, cheapest first; what needs a broken thing is left out.

    Args:
      build: makes the experiment of a recipe; None: the machine alone is looked at.
      platform_wanted: "cpu", "gpu" or "tpu"; None: the one that $JAX_PLATFORMS names, or the machine has.
      devices_wanted: how many, over all processes.
      connect: joins the other processes of this run.
    """
    yield check_versions()
    try:
        connect()
        import jax

        found = jax.devices()
    except Exception as error:  # whatever JAX and its plug-ins raise, it is what the user has to see
        wanted = platform_wanted or os.environ.get("JAX_PLATFORMS", "")
        yield Finding("devices", f"JAX does not start: {_line(error)}", _how_to_get(wanted) or "see the versions above")
        return
    yield check_devices(found, platform_wanted, devices_wanted)
    collective = check_collective()
    yield collective
    if build is None:
        return
    try:
        experiment = build()
    except InputError as error:
        yield Finding("recipe", str(error), "correct it as the message says")
        return
    yield check_recipe(experiment)
    yield check_memory(experiment)
    yield check_disk(experiment)
    yield check_writing(experiment.model_dir)


def report(findings: Sequence[Finding], as_json: bool = False) -> int:
    """Prints the findings; returns the exit code: 0, or 1 if any failed."""
    if as_json:
        print(json.dumps([dataclasses.asdict(f) | {"ok": f.ok} for f in findings]))
    else:
        for f in findings:
            print(f"{'ok  ' if f.ok else 'FAIL'} {f.check:<11} {f.found}{f'  ->  {f.remedy}' * (not f.ok)}")
    return int(not all(f.ok for f in findings))


def _wanted(requirements: Sequence[Requirement], extra: str) -> list[Requirement]:
    """Returns those of an extra, those without one included."""
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})]


def check_versions(versions: Mapping[str, str] | None = None) -> Finding:
    """Holds what is installed against what medmt5 is tested with: the ranges of setup.py. Those of an extra count where
    all its packages are installed.

    `versions`: package -> version, in place of what is installed.
    """
    versions = versions or {}
    try:
        of_extras = [Requirement(text) for text in metadata.requires("medmt5") or ()]
        python = SpecifierSet(metadata.metadata("medmt5")["Requires-Python"] or "")
        extras = metadata.metadata("medmt5").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return Finding("versions", "medmt5 is not installed", "pip install -e .")
    wrong, good, install = [], [], []
    if platform.python_version() not in python:
        wrong.append(f"Python {platform.python_version()}, tested with {python}")
        install.append("Python 3.12 in a new virtual environment")
    requirements = _wanted(of_extras, "")
    for extra in extras:
        more = _wanted(of_extras, extra)
        if all(r.name in versions or _installed(r.name) for r in more):
            requirements += [r for r in more if r not in requirements]
    for r in requirements:
        version = versions.get(r.name) or _installed(r.name)
        if version is None or not r.specifier.contains(version, prereleases=True):
            wrong.append(f"{r.name} {version or 'is missing'}, tested with {r.specifier}")
            install.append(f"'{r.name}{r.specifier}'")
        elif r.name in ("jax", "flax", "optax", "orbax-checkpoint"):
            good.append(f"{r.name} {version}")
    # JAX's device plug-ins are built for one version of jaxlib.
    jaxlib = versions.get("jaxlib") or _installed("jaxlib")
    for name in ("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin"):
        version = versions.get(name) or _installed(name)
        if version is not None and version.split(".")[:2] != str(jaxlib).split(".")[:2]:
            wrong.append(f"{name} {version} beside jaxlib {jaxlib}")
            install.append(f"'{name}=={jaxlib}'")
    if wrong:
        return Finding("versions", "; ".join(wrong), f"pip install {' '.join(dict.fromkeys(install))}")
    return Finding("versions", f"Python {platform.python_version()}, {', '.join(good)}: as tested")


def check_devices(
    devices: Sequence[Any],
    platform_wanted: str | None = None,
    devices_wanted: int | None = None,
    exists: Callable[[str], bool] = os.path.exists,
) -> Finding:
    """Holds the devices that JAX uses against those asked for. An accelerator that is not used is an error."""
    seen = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    wanted = platform_wanted or os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if not wanted:
        wanted = next((name for name, files in DEVICE_FILES.items() if any(map(exists, files))), "")
    # Of GPUs JAX says "gpu", whichever they are called in JAX_PLATFORMS.
    if wanted and devices[0].platform != {"cuda": "gpu", "rocm": "gpu"}.get(wanted, wanted):
        here = f"{wanted} was asked for" if platform_wanted or os.environ.get("JAX_PLATFORMS") else f"it has a {wanted}"
        remedy = _how_to_get(wanted) or f"unset JAX_PLATFORMS, or set it to {wanted}"
        return Finding("devices", f"{here}, JAX uses {seen}", remedy)
    if devices_wanted is not None and len(devices) != devices_wanted:
        remedy = "see CUDA_VISIBLE_DEVICES, the processes that were started, and the scheduler's allocation"
        return Finding("devices", f"{devices_wanted} were asked for, JAX uses {seen}", remedy)
    return Finding("devices", seen)


def check_collective() -> Finding:
    """Adds up a number of each device of each process, the first thing that a run would do together."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    devices = np.array(jax.devices())
    where = f"{devices.size} device{'s' * (devices.size > 1)} in {jax.process_count()} process" + "es" * (
        jax.process_count() > 1
    )
    try:
        sharding = NamedSharding(Mesh(devices, ("all",)), PartitionSpec("all"))
        numbers = np.arange(1, devices.size + 1, dtype=np.float32)
        x = jax.make_array_from_callback(numbers.shape, sharding, lambda index: numbers[index])
        total = float(jax.jit(jnp.sum, out_shardings=NamedSharding(sharding.mesh, PartitionSpec()))(x))
    except Exception as error:  # NCCL, gloo and libtpu all raise their own
        remedy = "run again with NCCL_DEBUG=INFO; do all hosts see each other, on all ports, with one driver version?"
        return Finding("collective", f"a sum over {where} fails: {_line(error)}", remedy)
    if total != numbers.sum():
        return Finding("collective", f"a sum over {where} gives {total}, not {numbers.sum()}", "replace the device")
    return Finding("collective", f"a sum over {where} is right")


def check_recipe(e: Experiment) -> Finding:
    """Looks at what training checks before it compiles, and opens the token stores."""
    from medmt5 import plan, train
    from medmt5.tokens.copies import fetch_stores, has_mixture
    from medmt5.tokens.mixture import Mixture

    try:
        _, tokenizer = train.check(e)
        if not has_mixture(e.token_store, e.mixture):
            command = f"medmt5 tokens --mixture={e.mixture} --token_store={e.token_store} --vocabulary={e.vocabulary}"
            return Finding("recipe", f"no token stores of {e.mixture} in {e.token_store}", command)
        root = fetch_stores(e.token_store, e.mixture, ("train",))
        train.open_stores(Mixture.read(root, e.mixture), root, "train", tokenizer)
    except (InputError, OSError) as error:
        return Finding("recipe", str(error), "correct it as the message says")
    return Finding("recipe", f"{plan.describe_model(e)}; batch, mesh, vocabulary and token stores fit")


def check_memory(e: Experiment) -> Finding:
    """Holds the memory that a step is predicted to take against a device's, or the free memory of a CPU's host."""
    import jax

    from medmt5.describe import USABLE_MEMORY, describe

    try:
        plan = describe(e)
    except InputError as error:
        return Finding("memory", str(error), "correct it as the message says")
    device = jax.local_devices()[0]  # of other processes' devices nothing is known here
    if device.platform == "cpu":
        limit: int | None = _free_memory() // jax.local_device_count()
    else:
        limit = (device.memory_stats() or {}).get("bytes_limit") or plan.device_memory_bytes
    text = f"a step takes about {_gib(plan.memory.total)} on a device"
    if limit is None:
        return Finding("memory", f"{text}; how much a {device.device_kind} has is not known")
    text += f", of {_gib(limit)}{' free' * (device.platform == 'cpu')}"
    if plan.memory.total > USABLE_MEMORY * limit:
        return Finding("memory", text, "more devices, gin/mesh/fsdp.gin, NUM_MICROBATCHES, or REMAT_POLICY='full'")
    return Finding("memory", text)


def check_disk(e: Experiment) -> Finding:
    """Holds the checkpoints that are kept, and the one that is being written, against the free disk."""
    from medmt5.plan import checkpoints_kept, state_bytes

    kept, size = checkpoints_kept(e, 0)[1] + 1, state_bytes(e)
    if storage.is_url(e.model_dir):
        return Finding("disk", f"{kept} checkpoints of {_gib(size)} in MODEL_DIR, an object store")
    free = shutil.disk_usage(_existing(Path(e.model_dir))).free
    text = f"{kept} checkpoints of {_gib(size)} in MODEL_DIR, {_gib(free)} free"
    if kept * size > free:
        return Finding("disk", text, f"a MODEL_DIR with {_gib(kept * size)} free, or a smaller CHECKPOINTS_TO_KEEP")
    return Finding("disk", text)


def check_writing(model_dir: str | Path) -> Finding:
    """Writes a file where MODEL_DIR is or will be, reads it and removes it."""
    if storage.is_url(model_dir):
        return _check_writing_on_store(str(model_dir).rstrip("/"))
    folder = _existing(Path(model_dir))
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="medmt5-doctor-") as file:
            file.write(b"medmt5")
            file.flush()
            if Path(file.name).read_bytes() != b"medmt5":
                return Finding("writing", f"{folder} gives back something else than was written", "another MODEL_DIR")
    except OSError as error:
        return Finding("writing", f"{folder}: {error.strerror}", "another MODEL_DIR, or the right to write there")
    return Finding("writing", f"{folder} can be written to")


def _check_writing_on_store(url: str) -> Finding:
    name = f"{url}/medmt5-doctor-{uuid.uuid4().hex}"
    try:
        storage.check(url)
        with storage.opened(url) as store:
            store.pipe_file(name, b"medmt5")
            same = store.cat_file(name) == b"medmt5"
            store.rm_file(name)
    except InputError as error:
        return Finding("writing", str(error), "another MODEL_DIR, or the right to write there")
    if not same:
        return Finding("writing", f"{url} gives back something else than was written", "another MODEL_DIR")
    return Finding("writing", f"{url} can be written to")


def _existing(path: Path) -> Path:
    """Returns the path, or the nearest folder above it that is there."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.is_dir())


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _how_to_get(wanted: str) -> str:
    first = wanted.split(",")[0]
    return INSTALL.get("cuda" if first == "gpu" else first, "")


def _free_memory() -> int:
    """Returns the bytes that a process may take: what the kernel can give back from its file cache counts."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        if found:
            return int(found.group(1)) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
