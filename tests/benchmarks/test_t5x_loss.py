"""What the comparison with T5X says by its exit code; the comparison itself is in tests/tasks/test_t5x.py."""

import importlib.util
import json
from pathlib import Path

import pytest

_file = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "t5x_loss.py"
_spec = importlib.util.spec_from_file_location("t5x_loss", _file)
t5x_loss = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(t5x_loss)

ARGUMENTS = ["t5x_loss.py", "--token_store", "tokens", "--vocabulary", "spiece.model", "--gin.BATCH_SIZE=8"]


@pytest.mark.parametrize(("difference", "code"), [(9e-5, 0), (1.1e-4, 1), (float("nan"), 1)])
def test_what_differs_too_much_fails(monkeypatch, capsys, difference, code):
    def compare(run, model, num_steps, token_store, vocabulary, bindings):
        given = (run, model, num_steps, token_store, vocabulary, bindings)
        assert given == ("pretrain", "tiny", 20, "tokens", "spiece.model", ["BATCH_SIZE = 8"])
        return {"largest_difference": difference}

    monkeypatch.setattr(t5x_loss, "compare", compare)
    monkeypatch.setattr(t5x_loss.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("sys.argv", ARGUMENTS)
    assert t5x_loss.main() == code
    assert "largest_difference" in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_without_t5x_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(t5x_loss.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ARGUMENTS)
    assert t5x_loss.main() == 2
    assert "upstream T5X is not importable here; docs/from_t5x.md" in capsys.readouterr().err
