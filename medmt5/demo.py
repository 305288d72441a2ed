"""The whole road in one command: raw files -> corpus -> vocabulary -> token stores -> pre-training -> fine-tuning ->
scores -> report.

Every step is a command a user can repeat, run in a process of its own and printed before it runs. Three models are
compared: pre-trained and fine-tuned, fine-tuned from scratch, and untrained.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medmt5.errors import InputError
from medmt5.training.metrics_log import FILE_NAME, read_metrics

MARKER = ".medmt5-demo"


@dataclasses.dataclass(frozen=True)
class Road:
    """What differs between the sample and real data.

    `sentences`: language -> one sentence to label at the end, written for the project.
    """

    languages: tuple[str, ...]
    mixture: str
    pretrain_recipe: str
    finetune_recipe: str
    vocabulary_size: int
    labels: str
    sentences: dict[str, str]
    max_words: int | None = None
    max_sentences: int | None = None
    beam: int = 1


SAMPLE = Road(
    languages=("en", "es", "fr", "it"),
    mixture="sample_multitask",
    pretrain_recipe="gin/recipe/tiny_pretrain.gin",
    finetune_recipe="gin/recipe/tiny_finetune.gin",
    vocabulary_size=3000,
    labels="Disease,Drug",
    sentences={
        "en": "The patient with chronic pancreatitis was treated with amoxicillin for ten days.",
        "es": "El paciente con pancreatitis crónica fue tratado con amoxicilina durante diez días.",
        "fr": "Le patient atteint de pancréatite chronique a été traité par amoxicilline pendant dix jours.",
        "it": "Il paziente con pancreatite cronica è stato trattato con amoxicillina per dieci giorni.",
    },
)
REAL = Road(
    languages=("en", "es", "fr", "it"),
    mixture="real_small",
    pretrain_recipe="gin/recipe/tiny_pretrain_e3c.gin",
    finetune_recipe="gin/recipe/tiny_finetune_real.gin",
    vocabulary_size=8000,
    labels="Claim,Premise",
    sentences={
        "en": "Survival was longer with the combination, which should therefore be preferred in older patients.",
        "es": "La supervivencia fue mayor con la combinación, que por tanto debería preferirse en pacientes mayores.",
        "fr": "La survie était plus longue avec l'association, qui devrait donc être préférée chez les patients âgés.",
        "it": "La sopravvivenza era maggiore con la combinazione, che andrebbe quindi preferita nei pazienti anziani.",
    },
    max_words=200_000,
    max_sentences=150,
)


def run_demo(output: Path, data: Path | None) -> int:
    """Walks the road below `output`, on the sample or (with `data`) on real files; returns 0, or a failed command's
    exit code.
    """
    road = REAL if data else SAMPLE
    _make_empty(output)
    start = time.monotonic()
    commands = _Commands(output)
    raw = data or output / "raw"
    places = [f"--gin.TOKEN_STORE={output}/tokens", f"--gin.VOCABULARY={output}/spiece.model"]
    tokens = ["tokens", "--token_store", f"{output}/tokens", "--vocabulary", f"{output}/spiece.model"]
    try:
        if data is None:
            commands.run("sample", "--output", str(raw))
        commands.run(
            "corpus",
            *("--data_dir", str(data or raw), "--output", f"{output}/corpus", "--languages", ",".join(road.languages)),
            *(["--sources", "e3c", "--max_words", str(road.max_words)] if data else []),
        )
        size = str(road.vocabulary_size)
        commands.run("vocabulary", "--corpus", f"{output}/corpus", "--size", size, "--output", f"{output}/spiece.model")
        commands.run(*tokens, "--mixture", "medical_corpus.all", "--corpus_dir", f"{output}/corpus")
        tfds = ["--tfds_data_dir", f"{output}/tfds"]
        commands.run(*tokens, "--mixture", road.mixture, "--data_dir", str(raw), *tfds)
        commands.run("train", f"--gin_file={road.pretrain_recipe}", f"--gin.MODEL_DIR={output}/pretrain", *places)
        finetune = ["train", f"--gin_file={road.finetune_recipe}", *places]
        commands.run(
            *finetune, f"--gin.MODEL_DIR={output}/finetune", f"--gin.INITIAL_CHECKPOINT_PATH={output}/pretrain"
        )
        commands.run(*finetune, f"--gin.MODEL_DIR={output}/scratch", "--gin.INITIAL_CHECKPOINT_PATH=None")
        decoding = ["--beam", str(road.beam), "--scoring", "marginal"]
        limit = ["--max_sentences", str(road.max_sentences)] if road.max_sentences else []
        test = ["--mixture", road.mixture, "--token_store", f"{output}/tokens", *decoding, *limit]
        for checkpoint in ("finetune", "scratch", "scratch/checkpoint_0"):
            commands.run("evaluate", "--checkpoint", f"{output}/{checkpoint}", *test)
        labelling = ["--checkpoint", f"{output}/finetune", "--labels", road.labels, *decoding, "--format", "text"]
        commands.run("label", *labelling, *road.sentences.values())
        commands.run(
            "report",
            *(
                "--run",
                f"pretrained and fine-tuned={output}/finetune",
                "--run",
                f"fine-tuned from scratch={output}/scratch",
            ),
            *(
                "--run",
                f"pre-training={output}/pretrain",
                "--output",
                f"{output}/report.html",
                "--title",
                "medmt5 demo",
            ),
        )
    except subprocess.CalledProcessError as error:
        print(f"medmt5 demo: this command failed with exit code {error.returncode}: {commands.last}", file=sys.stderr)
        return error.returncode
    summary = _summarize(output, road, time.monotonic() - start)
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    _print_table(summary, output)
    return 0


class _Commands:
    """Prints and runs `medmt5 …`, with the seconds each took."""

    def __init__(self, output: Path):
        self._console = Console(highlight=False, soft_wrap=True)
        self.last = ""

    def run(self, *arguments: str) -> None:
        self.last = shlex.join(["medmt5", *arguments])
        self._console.print(f"\n[bold]$ {self.last.replace('[', chr(92) + '[')}[/bold]")
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "medmt5.cli", *arguments], check=True)
        self._console.print(f"[dim]  ({time.monotonic() - start:.0f} s)[/dim]")


def _make_empty(output: Path) -> None:
    """Clears what an earlier demo left; refuses a folder that is not a demo's."""
    if output.exists() and any(output.iterdir()) and not (output / MARKER).is_file():
        raise InputError(f"{output} is not empty and no earlier demo's folder; give another one with --output")
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / MARKER).touch()


def _summarize(output: Path, road: Road, seconds: float) -> dict[str, Any]:
    losses = [line["loss"] for line in read_metrics(output / "pretrain" / FILE_NAME) if "loss" in line]
    trained = _newest_scores(output / "finetune")
    scratch = _newest_scores(output / "scratch")
    untrained = _scores(output / "scratch" / "evaluation" / "checkpoint_0")

    def f1(scores: dict[str, Any]) -> dict[str, float]:
        return {lang: round(scores["languages"][lang]["f1"] or 0.0, 4) for lang in road.languages}

    return {
        "seconds": round(seconds, 1),
        "pretrain": {"loss_first": round(losses[0], 4), "loss_last": round(losses[-1], 4)},
        "f1": f1(trained),
        "f1_from_scratch": f1(scratch),
        "f1_untrained": f1(untrained),
        "gold_spans": {lang: trained["languages"][lang]["gold"] for lang in road.languages},
        "report": str(output / "report.html"),
    }


def _newest_scores(model_dir: Path) -> dict[str, Any]:
    folders = sorted((model_dir / "evaluation").iterdir(), key=lambda path: int(path.name.rsplit("_", 1)[1]))
    return _scores(folders[-1])


def _scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def _print_table(summary: dict[str, Any], output: Path) -> None:
    table = Table(title="Entity micro-F1 on the test set")
    for column in ("language", "gold spans", "pre-trained and fine-tuned", "fine-tuned from scratch", "untrained"):
        table.add_column(column, justify="left" if column == "language" else "right")
    for lang, f1 in summary["f1"].items():
        values = (f1, summary["f1_from_scratch"][lang], summary["f1_untrained"][lang])
        table.add_row(lang, str(summary["gold_spans"][lang]), *(f"{value:.3f}" for value in values))
    console = Console()
    console.print()
    console.print(table)
    loss = summary["pretrain"]
    console.print(
        f"pre-training loss: {loss['loss_first']:.3f} -> {loss['loss_last']:.3f}    seconds: {summary['seconds']:.0f}"
    )
    console.print(f"report: {summary['report']}    summary: {output / 'summary.json'}", soft_wrap=True)
