"""A mixture's file says what was written; a task alone is a mixture of one."""

import pytest

from medmt5.errors import InputError
from medmt5.tokens.mixture import Mixture, mixture_file


def test_reads_what_was_written(tmp_path):
    mixture = Mixture("m", (("a.en", 400.0), ("b.fr", 0.5)))
    mixture.write(tmp_path)
    assert Mixture.read(tmp_path, "m") == mixture
    assert [path.name for path in tmp_path.iterdir()] == ["m.mixture.json"]


def test_a_task_is_a_mixture_of_one(tmp_path):
    (tmp_path / "a.en").mkdir()
    assert Mixture.read(tmp_path, "a.en").tasks == (("a.en", 1.0),)


def test_an_unknown_name_is_told_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError, match="medmt5 tokens --mixture none"):
        Mixture.read(tmp_path, "none")


@pytest.mark.parametrize("content", ["", "[]", '{"tasks": [{"task": "a"}]}', '{"tasks": [{"task": "a", "rate": "x"}]}'])
def test_a_broken_file_is_named(tmp_path, content):
    mixture_file(tmp_path, "m").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"m\.mixture\.json is not a mixture file"):
        Mixture.read(tmp_path, "m")


def test_a_task_of_rate_0_is_not_trained_on(tmp_path):
    mixture = Mixture("m", (("a.en", 1.0), ("a.es", 0.0)))
    mixture.write(tmp_path)
    assert Mixture.read(tmp_path, "m") == mixture
    assert mixture.trained_on == (("a.en", 1.0),)


@pytest.mark.parametrize("rate", [-1, float("nan"), float("inf")])
def test_rates_are_numbers_that_are_not_negative(rate):
    with pytest.raises(InputError, match="must be a number of at least 0"):
        Mixture("m", (("a", rate),))


def test_a_mixture_has_tasks():
    with pytest.raises(InputError, match="has no tasks"):
        Mixture("m", ())
