"""A mixture of one's own is a file; SeqIO has it as it is written there."""

import pytest
import seqio

from medmt5.datasets.names import names
from medmt5.datasets.own_mixtures import OwnMixture, own_mixtures
from medmt5.errors import InputError
from medmt5.mixtures import own
from medmt5.tasks.caching import StoredTask


@pytest.fixture
def write(tmp_path, monkeypatch):
    (tmp_path / "mixtures").mkdir()
    monkeypatch.setenv("MEDMT5_EXTENSIONS", str(tmp_path))

    def write(text, name="mine_all"):
        path = tmp_path / "mixtures" / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_mixtures_stand_for_their_tasks_and_rates_are_of_examples(write, monkeypatch):
    path = write('tasks = ["zero_shot.diann", "diann.es", "sample_diseases.en"]\ntemperature = 2\n')
    assert own_mixtures() == {"mine_all": OwnMixture(path, ("zero_shot.diann", "diann.es", "sample_diseases.en"), 2.0)}
    assert "mine_all" in names()
    own.add("mine_all", own_mixtures()["mine_all"])
    try:
        mixture = seqio.get_mixture_or_task("mine_all")
        assert {task.name for task in mixture.tasks} == {"diann.en", "diann.es", "sample_diseases.en"}
        stored = StoredTask(mixture.tasks[0], path.parent)
        monkeypatch.setattr(stored, "get_cached_stats", lambda split: {"examples": 49})
        assert mixture.rate_per_task_name["diann.es"](stored) == 7.0
    finally:
        seqio.MixtureRegistry.remove("mine_all")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = [", "not TOML"),
        ('task = ["diann.es"]', "unknown keys task; known are tasks, temperature"),
        ("temperature = 2.0", "tasks must be a list of names of tasks and mixtures, not None"),
        ('tasks = ["diann.es"]\ntemperature = 0', "temperature must be a number above 0, not 0"),
        ('tasks = ["diann.se"]', "no task or mixture 'diann.se'; did you mean diann.es"),
    ],
)
def test_a_faulty_file_is_named(write, text, message):
    path = write(text)
    with pytest.raises(InputError) as error:
        own.add("mine_all", own_mixtures()["mine_all"])
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_what_the_package_has_is_not_replaced(write):
    write('tasks = ["diann.es"]', "multitask")
    with pytest.raises(InputError, match=r"multitask\.toml: there is a task or mixture 'multitask' already"):
        own.add("multitask", own_mixtures()["multitask"])
