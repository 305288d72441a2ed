"""Declarations are consistent with each other and with the labels there are."""

import doctest
from collections import Counter

import pytest

from medmt5 import languages
from medmt5.datasets import declarations
from medmt5.datasets.declarations import DATASETS
from medmt5.datasets.sequence_labelling import READERS


def test_no_task_is_declared_twice():
    tasks = Counter(f"{dataset.name}.{lang}" for dataset in DATASETS for lang in dataset.languages)
    assert max(tasks.values()) == 1


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: f"{dataset.name}.{dataset.languages[0]}")
def test_a_declaration_maps_to_its_labels_and_has_all_splits_in_known_languages(dataset):
    assert {label for label in dataset.label_map.values() if label} == set(dataset.labels)
    assert list(dataset.files) == ["train", "dev", "test"]
    assert set(dataset.languages) <= set(languages.codes())
    assert dataset.format in READERS
    paths = [dataset.path(split, lang) for split in dataset.files for lang in dataset.languages]
    assert len(set(paths)) == len(paths)
    assert not any(path.is_absolute() or ".." in path.parts for path in paths)
    assert dataset.licence
    assert dataset.citation
    assert dataset.homepage


def test_examples_in_docstrings():
    assert doctest.testmod(declarations).failed == 0
