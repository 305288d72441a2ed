"""Where a device's time went: the kernels of a profile, by name, from the longest on.

    python benchmarks/step_time.py --recipe bench_large --profile profile
    python benchmarks/kernels.py profile --steps 3

Reads what that and PROFILE_STEPS of `medmt5 train` write; needs no TensorBoard. A CPU's profile has no kernels.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from jax.profiler import ProfileData


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=f"example: {__doc__.splitlines()[3]}")
    parser.add_argument("folder", type=Path, help="with *.xplane.pb in it, however deep; the newest is read")
    parser.add_argument("--steps", type=int, default=1, help="that were traced: times are those of one")
    parser.add_argument("--count", type=int, default=40, help="kernels a stream (default: %(default)s)")
    args = parser.parse_args()
    files = sorted(args.folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        parser.error(f"no *.xplane.pb below {args.folder}")
    planes = ProfileData.from_file(str(files[-1])).planes
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    if not devices:
        parser.error(f"{files[-1]} has no device in it: was it written on a CPU?")
    for plane in devices:
        for line in plane.lines:
            print_stream(f"{plane.name} {line.name}", list(line.events), args.steps, args.count)


def print_stream(name: str, events: list, steps: int, count: int) -> None:
    """Prints the milliseconds and the calls a step of each kernel, template arguments left out."""
    if not events:
        return
    milliseconds, calls = Counter(), Counter()
    for event in events:
        kernel = re.sub(r"<.*", "", event.name)[:70]
        milliseconds[kernel] += event.duration_ns / 1e6 / steps
        calls[kernel] += 1
    span = max(e.start_ns + e.duration_ns for e in events) - min(e.start_ns for e in events)
    print(f"{name}: busy {sum(milliseconds.values()):.1f} of {span / 1e6 / steps:.1f} ms a step")
    for kernel, taken in milliseconds.most_common(count):
        print(f"{taken:9.2f} ms {calls[kernel] / steps:6.0f} x  {kernel}")


if __name__ == "__main__":
    main()
