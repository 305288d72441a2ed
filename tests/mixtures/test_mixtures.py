"""Mixtures: published ones have the members they were published with, `.all` has every language."""

import pytest
import seqio

from medmt5 import languages
from medmt5.datasets.declarations import DATASETS, VARIANTS
from medmt5.errors import InputError
from medmt5.mixtures import get_mixture_or_task

ALL = ("en", "es", "fr", "it")
MULTITASK = {
    *("ncbi_disease.en", "bc5cdr_disease.en", "bc5cdr_chemical.en", "diann.en", "diann.es", "pharmaconer.es"),
    *("e3c.en", "e3c.es", "e3c.fr", "e3c.it", "abstrct.en", "abstrct.es", "abstrct.fr", "abstrct.it"),
}
TESTS_ONLY = {f"abstrct_{disease}.{lang}" for disease in ("glaucoma", "mixed") for lang in ALL}
SAMPLE = {f"sample_{name}.{lang}" for name in ("diseases", "treatments") for lang in ALL}

# name -> (tasks that are trained on, tasks that are only evaluated). To change one is to change what was published.
PUBLISHED = {
    "multitask": (MULTITASK, set()),
    "multitask_temperature": (MULTITASK, set()),
    "paper_tests": (MULTITASK, TESTS_ONLY),
    "sample_multitask": (SAMPLE, set()),
    "real_small": ({"ncbi_disease.en", "abstrct.en", "abstrct.es", "abstrct.fr", "abstrct.it"}, set()),
    "zero_shot.e3c": ({"e3c.en"}, {"e3c.es", "e3c.fr", "e3c.it"}),
    "zero_shot.abstrct": ({"abstrct.en"}, {"abstrct.es", "abstrct.fr", "abstrct.it"} | TESTS_ONLY),
    "zero_shot.diann": ({"diann.en"}, {"diann.es"}),
    "leave_out.en": (
        {"diann.es", "e3c.es", "e3c.fr", "e3c.it", "pharmaconer.es", "abstrct.es", "abstrct.fr", "abstrct.it"},
        {"ncbi_disease.en", "bc5cdr_disease.en", "bc5cdr_chemical.en", "diann.en", "e3c.en", "abstrct.en"} | TESTS_ONLY,
    ),
    "leave_out.es": (
        MULTITASK - {"diann.es", "e3c.es", "pharmaconer.es", "abstrct.es"},
        {"diann.es", "e3c.es", "pharmaconer.es", "abstrct.es"} | TESTS_ONLY,
    ),
    "leave_out.fr": (MULTITASK - {"e3c.fr", "abstrct.fr"}, {"e3c.fr", "abstrct.fr"} | TESTS_ONLY),
    "leave_out.it": (MULTITASK - {"e3c.it", "abstrct.it"}, {"e3c.it", "abstrct.it"} | TESTS_ONLY),
}


def members(name):
    return [task.name for task in get_mixture_or_task(name).tasks]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_mixture_has_the_members_it_was_published_with(name):
    mixture = get_mixture_or_task(name)
    can_train = {task.name for task in mixture.tasks if "train" in task.splits}
    trained_on = {task for task, rate in mixture.rate_per_task_name.items() if rate != 0 and task in can_train}
    assert (trained_on, set(members(name)) - trained_on) == PUBLISHED[name]


def test_every_mixture_is_published_or_grows():
    """A name that is neither on the list above nor `.all` has no rule for its members."""
    ours = {name for name in seqio.MixtureRegistry.names() if not name.startswith("test_")}
    assert {name for name in ours if not name.endswith(".all")} == set(PUBLISHED)


def test_the_paper_trains_on_14_sets_and_tests_on_22():
    assert len(MULTITASK) == 14
    assert len(members("paper_tests")) == 22
    assert len(members("zero_shot.e3c")) + len(members("zero_shot.abstrct")) == 16


def test_the_temperature_is_2():
    rates = get_mixture_or_task("multitask_temperature").rate_per_task_name.values()
    assert {(rate.func, rate.keywords["temperature"]) for rate in rates} == {(seqio.mixing_rate_num_examples, 2.0)}
    assert set(get_mixture_or_task("multitask").rate_per_task_name.values()) == {seqio.mixing_rate_num_examples}


def test_all_of_the_corpus_has_every_language_and_weighs_by_text():
    mixture = get_mixture_or_task("medical_corpus.all")
    assert members("medical_corpus.all") == [f"medical_corpus.{lang}" for lang in languages.codes()]
    assert all(callable(rate) for rate in mixture.rate_per_task_name.values())


@pytest.mark.parametrize("dataset", [*DATASETS, *VARIANTS], ids=lambda dataset: dataset.name)
def test_all_of_a_data_set_has_every_language_of_its_declaration(dataset):
    assert members(f"{dataset.name}.all") == sorted(f"{dataset.name}.{lang}" for lang in dataset.languages)


def test_a_task_is_found_by_its_name():
    assert isinstance(get_mixture_or_task("abstrct.it"), seqio.Task)


@pytest.mark.parametrize(
    ("name", "near"), [("sample_multitsk", "sample_multitask"), ("medical_corpus.de", "medical_corpus")]
)
def test_an_unknown_name_lists_near_ones(name, near):
    with pytest.raises(InputError, match=f"no task or mixture '{name}'; did you mean {near}"):
        get_mixture_or_task(name)


def test_an_unknown_name_without_near_ones_lists_all():
    with pytest.raises(InputError, match=r"no task or mixture '§§§'; known are abstrct\.all, .*, zero_shot\.e3c"):
        get_mixture_or_task("§§§")
