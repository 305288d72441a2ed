"""Mixtures: published ones have the members they were published with, `.all` has every language."""

import pytest
import seqio

from medmt5 import languages
from medmt5.errors import InputError
from medmt5.mixtures import get_mixture_or_task


def members(name):
    return [task.name for task in get_mixture_or_task(name).tasks]


def test_all_has_every_language_and_weighs_by_words():
    mixture = get_mixture_or_task("medical_corpus.all")
    assert members("medical_corpus.all") == [f"medical_corpus.{lang}" for lang in languages.codes()]
    assert all(callable(rate) for rate in mixture.rate_per_task_name.values())


def test_published_mixtures_have_fixed_members():
    assert members("sample_multitask") == [
        f"{name}.{lang}" for name in ("sample_diseases", "sample_treatments") for lang in ("en", "es", "fr", "it")
    ]
    assert members("real_small") == ["abstrct.en", "abstrct.es", "abstrct.fr", "abstrct.it", "ncbi_disease.en"]


def test_a_task_is_found_by_its_name():
    assert isinstance(get_mixture_or_task("abstrct.it"), seqio.Task)


@pytest.mark.parametrize(
    ("name", "near"), [("sample_multitsk", "sample_multitask"), ("medical_corpus.de", "medical_corpus")]
)
def test_an_unknown_name_lists_near_ones(name, near):
    with pytest.raises(InputError, match=f"no task or mixture '{name}'; did you mean {near}.*known are abstrct.en"):
        get_mixture_or_task(name)
