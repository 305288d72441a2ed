"""What a person sees of a run: one line that says what matters, a bar on a terminal, and no flood in a log file."""

import io

import pytest
from rich.console import Console

from medmt5.progress import LINE_SECONDS, TrainingProgress, progress_bar

METRICS = {
    "loss": 2.4134, "accuracy": 0.5123, "steps_per_second": 2.0, "tokens_per_second": 12345.0, "mfu": 0.4121,
    "epochs": 0.374, "skipped": 0.0, "grad_norm": 1.0,
}  # fmt: skip
EVALUATION = {
    "eval/en/loss": 2.0, "eval/en/perplexity": 7.389, "eval/es/loss": 3.0, "eval/es/perplexity": float("inf"),
    "eval_loss": 2.5, "eval_accuracy": 0.5, "eval_perplexity": 12.18,
}  # fmt: skip


class Time:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def shown():
    """Returns make(terminal) -> (progress, its text, its time)."""

    def make(terminal=False, **options):
        file, time = io.StringIO(), Time()
        console = Console(file=file, force_terminal=terminal, width=160)
        return TrainingProgress("run", 0, 1000, console=console, now=time, **options), file, time

    return make


def test_a_line_has_loss_accuracy_tokens_mfu_epochs_and_time_left(shown):
    progress, file, _ = shown()
    with progress:
        progress.trained(100, METRICS)
    assert file.getvalue() == (
        "run: step 100/1000  loss 2.413  acc 51.2%  12.3 k tokens/s  MFU 41.2%  epoch 0.37  ETA 0:07:30\n"
    )


def test_unknown_peak_and_skipped_steps_are_said_by_their_absence_and_presence(shown):
    progress, file, _ = shown()
    progress.trained(100, {k: v for k, v in METRICS.items() if k not in ("mfu", "loss")} | {"skipped": 3.0})
    assert "MFU" not in file.getvalue()
    assert "loss" not in file.getvalue()
    assert "skipped 3" in file.getvalue()


def test_lines_in_a_log_file_are_not_more_frequent_than_asked_but_for_the_last(shown):
    progress, file, time = shown()
    for step in range(10, 1001, 10):
        time.now += LINE_SECONDS / 10
        progress.trained(step, METRICS)
    lines = file.getvalue().splitlines()
    assert len(lines) == 100 // 10 + 1
    assert "step 1000/1000" in lines[-1]
    assert "ETA" not in lines[-1]


def test_the_time_left_counts_what_is_no_step_as_well(shown):
    progress, file, time = shown()
    progress.trained(100, METRICS)
    time.now = 1000.0  # 100 steps of half a second and much else
    progress.trained(200, METRICS)
    assert "ETA 2:13:20" in file.getvalue().splitlines()[-1]


def test_an_evaluation_shows_the_perplexity_of_each_language(shown):
    progress, file, _ = shown()
    progress.evaluated(100, EVALUATION)
    assert file.getvalue() == "run: step 100/1000  eval_loss 2.500  acc 50.0%  perplexity en 7.389  es inf\n"


def test_a_terminal_has_a_bar_with_the_held_out_loss_and_lines_that_stay(shown):
    progress, file, _ = shown(terminal=True)
    with progress:
        progress.evaluated(0, EVALUATION)
        progress.trained(100, METRICS)
        progress.tell("[not markup]")
    text = file.getvalue()
    assert "100/1000" in text
    assert "run: step 100/1000  loss 2.413" in text
    assert "eval_loss 2.500" in text.split("100/1000")[-1]
    assert "[not markup]" in text


def test_a_process_that_does_not_show_is_silent():
    progress = TrainingProgress("run", 0, 10, active=False)
    with progress:
        progress.trained(10, METRICS)
        progress.tell("x")
    assert progress._console.quiet


def test_work_of_unknown_length_shows_what_is_done(capsys):
    with progress_bar("label", None, "documents") as advance:
        advance(3)
        advance(4)  # within the seconds between lines
    assert capsys.readouterr().err == "label: 3/?\n"
