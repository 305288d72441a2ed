"""Kills a training run again and again, and compares it with one that was left alone: `make soak`.

    python benchmarks/soak.py --kills 25

Two runs of a very small model over the same token store. One is never disturbed. The other one is sent SIGKILL
`--kills` times, at moments drawn from `--seed`: half of them while a save is under way (Orbax's temporary folder has
just appeared), the others between a save and the deletion of an old checkpoint, some steps after a start, or during
the start itself; then it is started again and left to finish. Equal means: every step's loss, gradient norm and
held-out loss, and every array of the last checkpoint, bit for bit.

Progress goes to standard error. The last line of standard output is one JSON object; exit code 1 when the runs differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from medmt5.tokenizer import Tokenizer, train_vocabulary
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import StoreWriter
from medmt5.training.metrics_log import read_metrics

ROOT = Path(__file__).resolve().parent.parent
STEPS_A_KILL = 16  # more than a life before its kill lasts, so that the run does not end before the last kill
KEPT = 2  # checkpoints
TEMPORARY = "checkpoint_*.orbax-checkpoint-tmp*"
COMPARED = ("step", "loss", "cross_entropy", "z_loss", "accuracy", "grad_norm", "learning_rate", "eval_loss")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medmt5-soak-") as folder:
        result = soak(Path(folder), args.kills, args.seed)
    print(json.dumps(result))
    return 0 if result["equal"] else 1


def soak(folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Runs both in `folder` and returns the figures."""
    started = time.monotonic()
    make_token_store(folder)
    steps = STEPS_A_KILL * (kills + 1)
    run = Run(folder, "undisturbed", steps)
    run.finish()
    _say(f"undisturbed: {steps} steps")
    killed = Run(folder, "killed", steps)
    rng = random.Random(seed)
    moments = ["save"] * -(-kills // 2) + ["deletion", "step", "start"] * kills
    moments = moments[:kills]
    rng.shuffle(moments)
    during_saves = during_deletions = 0
    for number, moment in enumerate(moments, 1):
        killed.die(moment, rng)
        during_saves += bool(killed.unfinished())
        during_deletions += len(killed.finished()) > KEPT
        there = ", ".join(killed.finished() + [f"half of {name}" for name in killed.unfinished()])
        _say(f"kill {number}/{kills} in a {moment}, after step {killed.step()}: {there}")
    killed.finish()
    differences = compare(run.model_dir, killed.model_dir, steps)
    for difference in differences[:10]:
        _say(f"DIFFERENT: {difference}")
    return {
        "benchmark": "soak",
        "kills": kills,
        "kills_during_saves": during_saves,
        "kills_during_deletions": during_deletions,
        "restarts": killed.starts - 1,
        "steps": steps,
        "equal": not differences,
        "seconds": round(time.monotonic() - started, 1),
        "seed": seed,
        "device": jax.devices()[0].device_kind,
        "versions": {"python": sys.version.split()[0], "jax": jax.__version__, "orbax": ocp.__version__},
    }


def make_token_store(folder: Path) -> None:
    """Writes FOLDER/spiece.model and FOLDER/tokens: made-up documents, a train and a dev split."""
    rng = np.random.default_rng(0)
    syllables = ["car", "di", "ne", "phri", "tis", "he", "pa", "to", "ma", "in", "su", "fi", "cien", "os", "teo", "lo"]
    words = ["".join(rng.choice(syllables, 3)) for _ in range(6000)]
    lines = [" ".join(words[i : i + 12]) + "." for i in range(0, len(words), 12)]
    tokenizer = Tokenizer(train_vocabulary(lines, folder / "spiece.model", size=600))
    root = folder / "tokens"
    for split, documents in (("train", 200), ("dev", 20)):
        with StoreWriter(
            root / "words" / split, task="words", split=split, objective="span_corruption", tokenizer=tokenizer
        ) as store:
            for _ in range(documents):
                store.write({"targets": rng.integers(260, 490, rng.integers(10, 60))})
    Mixture("words", (("words", 1.0),)).write(root)


class Run:
    """A run of FOLDER/<name>, `python -m medmt5.train` in a process of its own each time it is started."""

    def __init__(self, folder: Path, name: str, steps: int, **macros: object):
        self.model_dir = folder / name
        self.starts = 0
        values = {
            "MODEL_DIR": self.model_dir,
            "MIXTURE_OR_TASK_NAME": "words",
            "TOKEN_STORE": folder / "tokens",
            "VOCABULARY": folder / "spiece.model",
            "VOCAB_SIZE": 640,
            "mt5.MT5Config.emb_dim": 32,
            "mt5.MT5Config.num_encoder_layers": 1,
            "mt5.MT5Config.num_decoder_layers": 1,
            "DROPOUT_RATE": 0.1,  # so that the order of random numbers matters
            "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 12},
            "BATCH_SIZE": 4,
            "TRAIN_STEPS": steps,
            "CHECKPOINT_PERIOD": 4,
            "CHECKPOINTS_TO_KEEP": KEPT,
            "EVAL_PERIOD": 6,
            "EVAL_STEPS": 1,
            "LOG_PERIOD": 1,
        } | macros
        self.command = [sys.executable, "-m", "medmt5.train", "--gin_file=gin/recipe/tiny_pretrain.gin"]
        self.command += [f"--gin.{macro}={value}" for macro, value in values.items()]
        self.environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
        self.environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))
        self.environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

    def start(self) -> subprocess.Popen:
        self.starts += 1
        return subprocess.Popen(
            self.command, cwd=ROOT, env=self.environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def finish(self) -> str:
        """Runs to the end and returns standard error; raises RuntimeError when it ends with an error."""
        process = self.start()
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the run ended with exit code {process.returncode}:\n{errors}")
        return errors

    def step(self) -> int:
        return max((int(line["step"]) for line in read_metrics(self.model_dir / "metrics.jsonl")), default=0)

    def unfinished(self) -> list[str]:
        """Returns the names of saves that are under way."""
        return sorted(path.name.split(".")[0] for path in self.model_dir.glob(TEMPORARY))

    def finished(self) -> list[str]:
        return sorted(path.name for path in self.model_dir.glob("checkpoint_*") if "." not in path.name)

    def die(self, moment: str, rng: random.Random) -> None:
        """Starts the run and kills it in a "save", a "deletion", some "step"s on, or in the "start".

        Raises RuntimeError when it ends before.
        """
        if moment == "start":
            process = self.start()
            time.sleep(rng.uniform(0, 4))
        else:
            process = self.start_and_wait()
            if moment == "save":
                for _ in range(rng.randint(1, 2)):
                    self.wait(process, lambda: not self.unfinished())
                    self.wait(process, self.unfinished)
                time.sleep(rng.uniform(0, 0.02))
            elif moment == "deletion":  # over in a moment, and not to be waited for too long
                goal = self.step() + STEPS_A_KILL // 2
                self.wait(process, lambda: len(self.finished()) > KEPT or self.step() >= goal)
            else:
                goal = self.step() + rng.randint(1, 5)
                self.wait(process, lambda: self.step() >= goal)
                time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the run ended with {process.returncode} before it was killed in a {moment}")

    def start_and_wait(self) -> subprocess.Popen:
        """Starts the run and returns its process when it has made a step that it had not made before."""
        left, before = set(self.unfinished()), self.step()
        process = self.start()
        self.wait(process, lambda: self.step() > before and not left & set(self.unfinished()))
        return process

    def wait(self, process: subprocess.Popen, condition: Callable[[], object]) -> None:
        while not condition():
            if process.poll() is not None:
                raise RuntimeError(f"the run ended with exit code {process.returncode}:\n{process.stderr.read()}")
            time.sleep(0.003)


def compare(one: Path, other: Path, steps: int) -> list[str]:
    """Returns what differs between two runs that should be the same; nothing if they are."""
    differences = []
    lines = [read_metrics(model_dir / "metrics.jsonl") for model_dir in (one, other)]
    lines = [[{key: line[key] for key in COMPARED if key in line} for line in run] for run in lines]
    if [int(line["step"]) for line in lines[0] if "loss" in line] != list(range(1, steps + 1)):
        differences.append(f"{one.name} has not one line a step")
    differences += [f"{a} and {b}" for a, b in zip(*lines, strict=False) if a != b]
    if len(lines[0]) != len(lines[1]):
        differences.append(f"{len(lines[0])} and {len(lines[1])} lines of metrics")
    states = [_read_state(model_dir / f"checkpoint_{steps}") for model_dir in (one, other)]
    if states[0].keys() != states[1].keys():
        differences.append("the names of the arrays")
    differences += [path for path in states[0] if states[0][path].tobytes() != states[1][path].tobytes()]
    return differences


def _read_state(checkpoint: Path) -> dict[str, np.ndarray]:
    """Returns path -> array, however many processes wrote it."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(checkpoint / "state").item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        tree = reader.restore(checkpoint / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
