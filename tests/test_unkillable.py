"""A run that is killed, stopped, starved of disk and disturbed ends as one that was left alone, bit for bit."""

import importlib.util
import random
import resource
import signal
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "soak", Path(__file__).resolve().parent.parent / "benchmarks" / "soak.py"
)
soak = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(soak)


@pytest.mark.slow
def test_a_run_killed_five_times_stopped_and_starved_ends_as_one_left_alone(tmp_path):
    soak.make_token_store(tmp_path)
    steps = 8 * soak.STEPS_A_KILL
    undisturbed, run = (soak.Run(tmp_path, name, steps) for name in ("undisturbed", "run"))
    undisturbed.finish()

    cut = 0
    for moment in ("save", "step", "save", "deletion", "save"):
        run.die(moment, rng=random.Random(f"{moment} {cut}"))
        cut += bool(run.unfinished())
    assert cut >= 3, "no kill came during a save"

    process = run.start_and_wait()
    second = run.start()
    _, refused = second.communicate()
    assert second.returncode == 2
    assert f"is being trained in by process {process.pid} on " in refused
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143
    assert "The same command goes on from there" in errors
    assert run.finished()[-1] == f"checkpoint_{run.step()}"

    process = run.start_and_wait()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))  # a disk that is full from now on
    _, errors = process.communicate()
    assert process.returncode == 74
    assert "could not be saved" in errors
    assert "is the last good one" in errors
    assert "Traceback" not in errors.split("medmt5 train: ")[-1]
    assert run.step() < steps

    run.finish()
    assert soak.compare(undisturbed.model_dir, run.model_dir, steps) == []


def test_one_changed_bit_makes_two_runs_differ(tmp_path):
    """The comparison of the test above can fail."""
    import jax.numpy as jnp

    from medmt5.checkpoints.manager import CheckpointManager

    for name, value in (("a", 1.0), ("b", 1.0 + 2**-23)):
        with CheckpointManager(tmp_path / name) as manager:
            manager.save(1, {"x": jnp.float32(value)}, {})
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n', encoding="utf-8")
    assert soak.compare(tmp_path / "a", tmp_path / "a", 1) == []
    assert soak.compare(tmp_path / "a", tmp_path / "b", 1) == ["['x']"]
    (tmp_path / "b" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5000001}\n', encoding="utf-8")
    assert len(soak.compare(tmp_path / "a", tmp_path / "b", 1)) == 2
