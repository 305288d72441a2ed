import pytest

from medmt5.annotation.labels import LABELS, check_labels, known_labels, map_label
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


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Returns write(**files): data sets of one's own, by name -> text."""
    folder = tmp_path / "datasets"
    folder.mkdir()

    def write(**files):
        for name, text in files.items():
            (folder / f"{name}.toml").write_text(text, encoding="utf-8")
        monkeypatch.setenv("MEDMT5_EXTENSIONS", str(tmp_path))

    return write


def test_labels_of_ones_own_data_sets_stand_behind_ours_each_once(own):
    assert known_labels() == LABELS
    own(b='new_labels = ["Exame", "Síntoma"]', a='new_labels = ["Gene", "Exame"]', c='labels = ["Disease"]')
    assert known_labels() == (*LABELS, "Gene", "Exame", "Síntoma")
    assert check_labels(["Gene", "Drug"]) == ("Gene", "Drug")
    assert map_label("Exame", None, "a.conll:7") == "Exame"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ('"Exame"', "new_labels must be a list of strings, not 'Exame'"),
        ('["Ex ame"]', "of letters, digits and _, beginning with a letter; not 'Ex ame'"),
        ('["/Exame"]', "beginning with a letter; not '/Exame'"),
        ('["Drug"]', "medmt5 has the label Drug; leave it out of new_labels"),
    ],
)
def test_a_new_label_that_is_none_is_refused_with_its_file(own, labels, message):
    own(mine=f"new_labels = {labels}")
    with pytest.raises(InputError) as error:
        known_labels()
    assert "datasets/mine.toml: " in str(error.value)
    assert message in str(error.value)
