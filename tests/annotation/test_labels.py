import pytest

from medmt5.annotation.labels import LABELS, check_labels, map_label
from medmt5.errors import InputError


def test_the_order_of_labels_is_the_one_that_trained_models_know():
    assert " ".join(LABELS[:12]) == (
        "ClinicalEntity Dis Claim Premise DiseaseNCBI Disease Chemical "
        "PROTEINAS NORMALIZABLES NO_NORMALIZABLES UNCLEAR Drug"
    )


def test_an_unknown_label_is_refused_with_the_nearest_known_one_first():
    with pytest.raises(InputError, match="unknown label 'drgu'; use one of Drug, ClinicalEntity"):
        check_labels(["Disease", "drgu"])


def test_a_label_outside_the_map_is_refused_with_its_place_and_the_known_ones():
    with pytest.raises(InputError, match=r"a.conll:7: label 'ety2' is not in the label map; known are ety, per"):
        map_label("ety2", {"per": None, "ety": "ClinicalEntity"}, "a.conll:7")


def test_a_map_to_a_label_that_is_not_ours_is_refused():
    with pytest.raises(InputError, match="unknown label 'Clinical'"):
        map_label("ety", {"ety": "Clinical"}, "a.conll:7")


def test_none_in_the_map_leaves_a_label_out():
    assert map_label("per", {"per": None}, "a.conll:7") is None
