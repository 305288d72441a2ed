"""Every second of a run is in exactly one part, and what a kill cost is told by the run that goes on."""

import contextlib
import json

import pytest

from medmt5.training import goodput
from medmt5.training.goodput import Clock, GoodputLog, read_goodput, summarize


class Time:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_parts_add_up_to_the_wall_time_whatever_is_nested_or_raised():
    time = Time()
    clock = Clock(time)
    time.now += 1
    with clock.spend("evaluation"):
        time.now += 2
        with contextlib.suppress(KeyError), clock.spend("compile"):
            time.now += 4
            raise KeyError
        time.now += 8
    time.now += 16
    seconds = clock.seconds()
    assert {part: value for part, value in seconds.items() if value} == {"evaluation": 10, "compile": 4, "other": 17}
    assert sum(seconds.values()) == time.now - 100


def run(folder, start, end, *, seconds_a_step, how, reached=0, other=5.0):
    """One run from step `start` to `end` that ends in some way; None = killed when its line was last written."""
    time = Time()
    clock = Clock(time)
    log = GoodputLog(folder, clock, start_step=start, reached_step=reached)
    time.now += other
    with clock.spend("step"):
        time.now += seconds_a_step * (end - start)
    if how is None:
        log.update(end)
        return log
    log.close(end, how)
    return log


def test_a_killed_run_loses_the_steps_beyond_the_checkpoint_at_its_own_pace(tmp_path):
    run(tmp_path, 0, 40, seconds_a_step=2.0, how=None)
    # Its last line says 40, its metrics say 46: it went on for 6 steps, then died. Checkpoint 30 is the newest.
    again = run(tmp_path, 30, 100, seconds_a_step=2.0, how="finished", reached=46)
    assert again.steps_to_repeat == 16
    killed, finished = read_goodput(tmp_path / goodput.FILE_NAME)
    assert killed["end"] == "killed"
    assert killed["lost_steps"] == 16
    assert killed["seconds"]["lost_work"] == pytest.approx(16 * 2.0)
    assert killed["seconds"]["step"] == pytest.approx(30 * 2.0)
    assert killed["wall_seconds"] == pytest.approx(5 + 46 * 2.0)
    assert finished["end"] == "finished"
    assert finished["lost_steps"] == 0
    # All runs together: 100 steps that count, whatever was trained twice.
    assert sum(line["seconds"]["step"] for line in (killed, finished)) == pytest.approx(100 * 2.0)


def test_a_fall_back_to_an_older_checkpoint_takes_from_every_run_beyond_it_and_never_twice(tmp_path):
    run(tmp_path, 0, 50, seconds_a_step=1.0, how="preempted")
    run(tmp_path, 50, 80, seconds_a_step=3.0, how="failed")
    run(tmp_path, 60, 70, seconds_a_step=1.0, how="preempted")  # lost: 20 of the second
    last = run(tmp_path, 40, 100, seconds_a_step=1.0, how="finished")  # lost: 10 of each
    lines = read_goodput(tmp_path / goodput.FILE_NAME)
    assert [line["lost_steps"] for line in lines] == [10, 30, 10, 0]
    assert [line["seconds"]["lost_work"] for line in lines] == [10, 90, 10, 0]
    assert [line["seconds"]["step"] for line in lines] == [40, 0, 0, 60]
    for line in lines:
        assert sum(line["seconds"].values()) == pytest.approx(line["wall_seconds"])
    assert last.steps_to_repeat == 10


def test_the_summary_names_the_share_of_each_part_and_of_all_runs(tmp_path):
    run(tmp_path, 0, 10, seconds_a_step=1.0, how="preempted", other=0.0)
    time = Time()
    clock = Clock(time)
    log = GoodputLog(tmp_path, clock, start_step=8)
    with clock.spend("step"):
        time.now += 6
    with clock.spend("data_wait"):
        time.now += 4
    assert log.close(14, "finished") == [
        "goodput 60.0 %  (of 0:00:10: step 60.0, data wait 40.0)",
        "  of all 2 runs 70.0 %  (of 0:00:20: step 70.0, data wait 20.0, lost work 10.0 (2 steps))",
    ]


def test_only_the_first_process_writes(tmp_path):
    log = GoodputLog(tmp_path, Clock(Time()), start_step=0, active=False)
    log.update(1)
    assert log.close(1, "finished")
    assert not list(tmp_path.iterdir())


def test_a_run_of_no_time_is_summarized():
    assert summarize("goodput", [{"seconds": {}, "lost_steps": 0}]).startswith("goodput 0.0 %")


def test_a_line_is_strict_json(tmp_path):
    run(tmp_path, 0, 1, seconds_a_step=1.0, how="finished")
    line = json.loads((tmp_path / goodput.FILE_NAME).read_text(), parse_constant=pytest.fail)
    assert set(line) == {"started", "start_step", "step", "end", "lost_steps", "wall_seconds", "seconds"}
    assert tuple(line["seconds"]) == goodput.PARTS
