"""One MODEL_DIR has one writer, and a dead one is none."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medmt5.checkpoints.ownership import owning
from medmt5.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
# Holds MODEL_DIR, and has started one child and forked another, who outlive it.
HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from medmt5.checkpoints.ownership import owning
with owning(Path(sys.argv[1])):
    started = subprocess.Popen(["sleep", "60"], close_fds=False)
    reader, writer = os.pipe()
    forked = os.fork()
    if not forked:
        os.write(writer, b"x")
        time.sleep(60)
    os.read(reader, 1)
    print(started.pid, forked, flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_by_name_until_the_first_is_killed_whatever_children_it_has(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    children = [int(pid) for pid in holder.stdout.readline().split()]
    try:
        with pytest.raises(InputError, match=rf"is being trained in by process {holder.pid} on .+ since \d\d\d\d-"):
            owning(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        for child in children:
            os.kill(child, 0)  # is there
        with owning(tmp_path):
            assert f'"pid": {os.getpid()}' in (tmp_path / "lock").read_text()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.communicate()


def test_within_a_process_too_and_an_error_gives_it_back(tmp_path):
    def fail():
        with owning(tmp_path):
            with pytest.raises(InputError, match="is being trained in by process"):
                owning(tmp_path).__enter__()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with owning(tmp_path):
        pass
