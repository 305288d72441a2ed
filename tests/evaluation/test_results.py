import json

import pytest

from medmt5.annotation.spans import Span
from medmt5.errors import InputError
from medmt5.evaluation.results import (
    Prediction,
    find_evaluation,
    read_metrics,
    read_predictions,
    read_scores,
    write_predictions,
    write_scores,
)

PREDICTION = Prediction("1", "es", ("ni\u00f1o", "\u2028"), (Span(0, 1, "Drug"),), (), -0.5, "note 7")


def test_predictions_come_back_and_have_the_fields_of_the_contract(tmp_path):
    path = tmp_path / "evaluation/checkpoint_3/task.test.jsonl"
    write_predictions(path, [PREDICTION, PREDICTION])
    assert read_predictions(path) == [PREDICTION, PREDICTION]
    assert json.loads(path.read_bytes().split(b"\n")[0]) == {
        "id": "1",
        "lang": "es",
        "words": ["ni\u00f1o", "\u2028"],
        "gold": [[0, 1, "Drug"]],
        "predicted": [],
        "score": -0.5,
        "document": "note 7",
    }


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.json"
    write_scores(path, {"step": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_scores(path, {"step": float("nan")})

    def failing():
        yield PREDICTION
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_predictions(path, failing())
    assert read_scores(path) == {"step": 1}


def test_damaged_files_are_named_with_their_line(tmp_path):
    write_predictions(tmp_path / "a.jsonl", [PREDICTION])
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write("{")
    with pytest.raises(InputError, match=r"a.jsonl:2: not JSON"):
        read_predictions(tmp_path / "a.jsonl")
    (tmp_path / "scores.json").write_text("{\n!")
    with pytest.raises(InputError, match=r"scores.json:2: not JSON"):
        read_scores(tmp_path / "scores.json")


def test_predictions_without_documents_are_refused_not_taken_for_documents_of_their_own(tmp_path):
    path = tmp_path / "a.jsonl"
    line = {"id": "1", "lang": "en", "words": [], "gold": [], "predicted": [], "score": 0.0}
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=r"without the field 'document'; run medmt5 evaluate again"):
        read_predictions(path)


def test_the_newest_evaluation_is_found_by_number_and_another_by_its_checkpoint(tmp_path):
    assert find_evaluation(tmp_path) is None
    for step in (0, 900, 1000):
        write_scores(tmp_path / f"evaluation/checkpoint_{step}/scores.json", {})
    (tmp_path / "evaluation/checkpoint_2000").mkdir()  # begun, not finished
    assert find_evaluation(tmp_path).name == "checkpoint_1000"
    assert find_evaluation(tmp_path / "checkpoint_0").name == "checkpoint_0"
    assert find_evaluation(tmp_path / "checkpoint_2000") is None


def test_metrics_end_before_a_line_that_a_crash_cut_short(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lo\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:1: not JSON"):
        read_metrics(tmp_path)
