"""One signal asks for a save, two leave at once, even from compiled code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from medmt5.training.preemption import EXIT_UNSAVED, Preempted, Preemption

ROOT = Path(__file__).resolve().parent.parent.parent
# A thread in compiled code, which does not come back for Python's signal handlers.
STUCK = """
import jax
from medmt5.training.preemption import Preemption
endless = jax.jit(lambda x: jax.lax.while_loop(lambda x: x >= 0, lambda x: x * 0, x))
with Preemption():
    print("ready", flush=True)
    endless(1).block_until_ready()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_is_noted_and_the_old_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert not preemption.requested(1)
        os.kill(os.getpid(), number)
        while not preemption.requested(2):
            time.sleep(0.001)
        assert preemption.signal == number
    assert signal.getsignal(number) == before
    assert f"{signal.Signals(number).name}: finishing the step and saving" in capfd.readouterr().err
    assert Preempted(2, preemption.signal).exit_code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]


def test_sigint_to_one_of_several_processes_is_told_to_all_as_sigterm(monkeypatch, capfd):
    """JAX's service, which tells the others, hears SIGTERM alone; here a handler of the test stands in for it."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGINT)
            while not heard:
                time.sleep(0.001)
            assert preemption.signal == signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err.count("SIGINT: finishing the step and saving") == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_at_once(second):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM: finishing" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(second)
    _, errors = process.communicate()
    assert process.returncode == EXIT_UNSAVED
    assert "leaving at once, without saving" in errors
