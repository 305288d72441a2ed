"""A run that is killed, stopped, starved of disk and disturbed ends as one that was left alone, bit for bit.

So does a run of two processes of which only one has the trouble: both end soon and alike.
"""

import importlib.util
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from medmt5.checkpoints.ownership import owning
from medmt5.cli import main

_spec = importlib.util.spec_from_file_location(
    "soak", Path(__file__).resolve().parent.parent / "benchmarks" / "soak.py"
)
soak = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(soak)


@pytest.mark.slow
def test_a_run_killed_five_times_stopped_and_starved_ends_as_one_left_alone(tmp_path, capsys):
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
    assert main(["train", *run.command[3:]]) == 2
    assert f"is being trained in by process {process.pid} on " in capsys.readouterr().err
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


RECIPE = "gin/recipe/tiny_pretrain.gin"
PAIR_STEPS = 36
TWO_DEVICES = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
SOON = 60  # seconds: far below the 100 of JAX's heartbeat and the 1200 of Orbax's barrier


# What launch/local.sh starts: notes its process number, and writes what it says into a file for each start.
PYTHON = """#!/bin/sh
for last; do :; done
index=${{last#--process_index=}}
echo $$ > "{pair}.$index.pid"
start=1
while [ -e "{pair}.launched.$start.$index.log" ]; do start=$((start + 1)); done
exec "{python}" "$@" 2> "{pair}.launched.$start.$index.log"
"""


# Trains one run after the other in the same processes: a start of two costs more than these runs do.
SEVERAL = "import json, sys; from medmt5.cli import main; sys.exit(max(main(a) for a in json.loads(sys.argv[1])))"


class Pair:
    """Two processes, of 2 devices each, that train one run."""

    def __init__(self, folder: Path, name: str):
        # Adafactor factors the statistics of matrices this wide; what is saved is cut over both processes.
        macros = {"NUM_MODEL_PARTITIONS": 2, "BATCH_SIZE": 16, "mt5.MT5Config.emb_dim": 128, "CHECKPOINTS_TO_KEEP": 3}
        self.run = soak.Run(folder, name, PAIR_STEPS, EVAL_PERIOD=40, **macros)
        self.run.command.insert(4, "--gin_file=gin/mesh/fsdp_tensor.gin")
        self.run.environment |= {"XLA_FLAGS": TWO_DEVICES, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(soak.ROOT)}
        self.run.environment |= {"JAX_CPU_ENABLE_ASYNC_DISPATCH": "false"}  # as `medmt5 train` has it

    @contextmanager
    def started(self, before=None, after=None):
        """Yields the two, which train the run of another pair before or after; leaving the block waits for both and
        sets `codes` and `errors` (standard error).
        """
        runs = [pair.run.command[3:] for pair in (before, self, after) if pair]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            place = [f"--coordinator_address=localhost:{free.getsockname()[1]}", "--process_count=2"]
        logs = [self.run.model_dir.with_suffix(f".{self.run.starts}.{index}.log") for index in range(2)]
        self.run.starts += 1
        processes = []
        try:
            for index, log in enumerate(logs):
                first = ["train", *runs[0], *place, f"--process_index={index}"]
                others = [["train", *arguments] for arguments in runs[1:]]
                command = [sys.executable, "-c", SEVERAL, json.dumps([first, *others])]
                with log.open("w", encoding="utf-8") as stderr:
                    processes.append(subprocess.Popen(command, cwd=soak.ROOT, env=self.run.environment, stderr=stderr))
            yield processes
            self.codes = [process.wait(timeout=900) for process in processes]
        finally:
            for process in processes:
                process.kill()
        self.errors = [log.read_text(encoding="utf-8") for log in logs]

    @contextmanager
    def training(self, steps, before=None):
        """As `started`, when so many new steps are done; the two then have `SOON` to end."""
        with self.started(before) as processes:
            goal = self.run.step() + steps
            while self.run.step() < goal:
                assert all(process.poll() is None for process in processes)
                time.sleep(0.005)
            yield processes
            for process in processes:
                process.wait(timeout=SOON)

    @contextmanager
    def launched(self, restarts):
        """Yields launch/local.sh, which starts the two; leaving the block waits for it and sets `code` and `said`."""
        python = self.run.model_dir.with_suffix(".python")
        python.write_text(PYTHON.format(python=self.run.command[0], pair=self.run.model_dir), encoding="utf-8")
        python.chmod(0o755)
        options = ["--processes", "2", "--restarts", str(restarts)]
        command = ["launch/local.sh", *options, RECIPE, str(self.run.model_dir), *self.run.command[4:]]
        environment = self.run.environment | {"PYTHON": str(python)}
        script = subprocess.Popen(command, cwd=soak.ROOT, env=environment, text=True, stderr=subprocess.PIPE)
        try:
            yield script
            _, self.said = script.communicate(timeout=900)
        finally:
            script.terminate()
        self.code = script.returncode

    def log(self, start, index) -> Path:
        return Path(f"{self.run.model_dir}.launched.{start}.{index}.log")

    def wait_for_steps(self, steps, script) -> None:
        goal = self.run.step() + steps
        while self.run.step() < goal:
            assert script.poll() is None, script.communicate()
            time.sleep(0.005)

    def checkpoints(self) -> list[int]:
        return sorted(int(name.removeprefix("checkpoint_")) for name in self.run.finished())


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The run that one misfortune after the other befalls, what each left, and one that was left alone."""
    folder = tmp_path_factory.mktemp("failure")
    soak.make_token_store(folder)
    alone, pair, other = (Pair(folder, name) for name in ("alone", "pair", "other"))
    story = SimpleNamespace(alone=alone, pair=pair)

    def note() -> SimpleNamespace:
        return SimpleNamespace(
            codes=pair.codes, errors=pair.errors, checkpoints=pair.checkpoints(), step=pair.run.step()
        )

    with pair.training(6, before=alone) as (_, second):
        resource.prlimit(second.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))  # its disk is full
    story.full_disk = note()
    assert alone.run.finished()[-1] == f"checkpoint_{PAIR_STEPS}"

    with pair.launched(restarts=1) as script:
        pair.wait_for_steps(6, script)
        os.kill(int(Path(f"{pair.run.model_dir}.1.pid").read_text()), signal.SIGKILL)
        pair.wait_for_steps(6, script)
        os.kill(int(Path(f"{pair.run.model_dir}.1.pid").read_text()), signal.SIGINT)
    killed, stopped = ([pair.log(start, index).read_text(encoding="utf-8") for index in (0, 1)] for start in (1, 2))
    story.killed = SimpleNamespace(errors=killed, said=pair.said)
    story.stopped = SimpleNamespace(
        errors=stopped, code=pair.code, step=pair.run.step(), checkpoints=pair.checkpoints()
    )

    shards = pair.run.model_dir / f"checkpoint_{pair.checkpoints()[-1]}" / "state" / "ocdbt.process_1" / "d"
    shard = max(shards.iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 16
    shard.write_bytes(data)
    with owning(other.run.model_dir), pair.started(after=other):
        pass
    story.damaged = story.refused = note()
    return story


@pytest.mark.slow
def test_a_save_that_fails_in_one_process_ends_both_and_the_last_checkpoint_stays(story):
    told = story.full_disk
    assert told.codes == [74, 74]
    reason = told.errors[0].rpartition("stopped with process 1, which failed: ")[2]
    assert "could not be saved in" in reason
    assert f"checkpoint_{told.checkpoints[-1]} is the last good one" in reason
    assert f"medmt5 train: {reason}" in told.errors[1]


@pytest.mark.slow
def test_a_killed_process_takes_the_other_with_it_soon(story):
    assert "exit code 75: started again" in story.killed.said
    assert "another process is gone (killed? see its log)" in story.killed.errors[0]
    assert "Traceback" not in story.killed.errors[0]
    assert f"going on from step {story.full_disk.checkpoints[-1]}" in story.killed.errors[0]


@pytest.mark.slow
def test_two_processes_are_refused_where_another_run_trains(story):
    assert story.refused.codes == [2, 2]
    assert story.refused.step == PAIR_STEPS, "the run before it did not end"
    reason = story.refused.errors[1].rpartition("stopped with process 0, which failed: ")[2]
    assert f"is being trained in by process {os.getpid()} on " in reason
    assert f"medmt5 train: {reason}" in story.refused.errors[0]


@pytest.mark.slow
def test_a_killed_pair_is_started_again_by_the_script_and_a_signal_to_one_process_saves_the_same_step_in_both(story):
    """That it ends as one left alone is what the last test shows."""
    told = story.stopped
    assert told.code == 143
    for errors, name in zip(told.errors, ("SIGTERM", "SIGINT"), strict=True):
        assert "going on from step" in told.errors[0]
        assert f"stopped by {name}; everything up to step {told.step} is saved" in errors
    assert told.checkpoints[-1] == told.step


@pytest.mark.slow
def test_a_damaged_shard_of_one_process_makes_both_fall_back_and_the_end_is_that_of_a_run_left_alone(story):
    told = story.damaged
    assert told.checkpoints[-1] == PAIR_STEPS, told.errors
    newest, older = story.stopped.checkpoints[-1], story.stopped.checkpoints[-2]
    for errors in told.errors:
        assert f"checkpoint_{newest} cannot be used" in errors
        assert f"going on from checkpoint_{older}" in errors
    assert (story.pair.run.model_dir / f"checkpoint_{newest}.damaged").is_dir()
    assert soak.compare(story.alone.run.model_dir, story.pair.run.model_dir, PAIR_STEPS) == []
