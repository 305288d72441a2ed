"""A file in the making: whole chunks count, everything after the last one does not, and the name is given last."""

import json

import pytest

from medmt5 import resumable_output
from medmt5.errors import InputError
from medmt5.resumable_output import ResumableOutput

FACTS = {"labels": ("Disease",), "beam": 4}


def test_what_came_after_the_last_chunk_is_cut_off_and_the_file_gets_its_name_last(tmp_path, monkeypatch):
    path = tmp_path / "out.txt"
    path.write_text("an older result")
    with ResumableOutput(path, FACTS) as output:
        assert output.position == {}
        output.write("uno é\n", {"documents": 1})
        monkeypatch.setattr(resumable_output, "write_whole", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # written, but the journal does not know
            output.write("dos\n", {"documents": 2})
    monkeypatch.undo()
    assert path.read_text() == "an older result"
    with ResumableOutput(path, FACTS) as output:
        assert output.position == {"documents": 1}
        output.write("two\n", {"documents": 2})
        output.finish("end")
    assert path.read_text(encoding="utf-8") == "uno é\ntwo\nend"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.txt"]


def test_killed_before_the_name_is_given_it_is_begun_again_and_the_end_is_not_there_twice(tmp_path, monkeypatch):
    path = tmp_path / "out.txt"
    for step in ("unlink", "replace"):
        with ResumableOutput(path, FACTS) as output:
            output.write("one\n", {"documents": 1})
            monkeypatch.setattr(type(path), step, lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                output.finish("end")
        monkeypatch.undo()
    with ResumableOutput(path, FACTS) as output:  # the journal was gone: from the beginning
        assert output.position == {}
        output.finish("end")
    assert path.read_text() == "end"


def test_other_facts_are_refused_by_name_and_nothing_is_lost(tmp_path):
    path = tmp_path / "out.txt"
    with ResumableOutput(path, FACTS) as output:
        output.write("one\n", {"documents": 1})
    message = r"begun with something else.*\n  beam: 4 then, 2 now\n  new: null then, 1 now$"
    with pytest.raises(InputError, match=message):
        ResumableOutput(path, FACTS | {"beam": 2, "new": 1})
    with ResumableOutput(path, FACTS) as output:
        assert output.position == {"documents": 1}


def test_two_processes_do_not_write_one_file(tmp_path):
    with ResumableOutput(tmp_path / "out.txt", FACTS) as output:
        output.write("one\n", {"documents": 1})
        with pytest.raises(InputError, match="another process is writing"):
            ResumableOutput(tmp_path / "out.txt", FACTS)
        output.finish("")
    assert (tmp_path / "out.txt").read_text() == "one\n"


@pytest.mark.parametrize("journal", ["", "{", "[]", '{"bytes": 1}', '{"bytes": 0, "facts": {}, "position": 3}'])
def test_a_damaged_journal_is_told(tmp_path, journal):
    (tmp_path / "out.txt.journal").write_text(journal)
    with pytest.raises(InputError, match=r"out\.txt\.journal is damaged.*remove .*journal to begin anew"):
        ResumableOutput(tmp_path / "out.txt", FACTS)


def test_a_part_shorter_than_its_journal_says_is_told(tmp_path):
    with ResumableOutput(tmp_path / "out.txt", FACTS) as output:
        output.write("one\n", {"documents": 1})
    (tmp_path / "out.txt.part").write_text("on")
    with pytest.raises(InputError, match="has 2 bytes, its journal counts 4"):
        ResumableOutput(tmp_path / "out.txt", FACTS)
    assert json.loads((tmp_path / "out.txt.journal").read_text())["bytes"] == 4
