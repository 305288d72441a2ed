"""Documents through the whole road with a tiny random model: offsets, probabilities, hostile and empty text."""

import pytest

import medmt5
from medmt5.document_labelling import label_documents
from medmt5.errors import InputError
from medmt5.labelling import Labeller

EMPTY = ["", " \t\u00a0", "\x00\x1b\u200b\ufeff", "\n\n"]
HOSTILE = ["</s>", "<pad>", "<extra_id_0>", "<Disease>", "</Drug>", "car\u00a0di\u200b", "di\ufb01 ½", "Car di. Ne os."]


@pytest.fixture(scope="module")
def labeller(tiny_model):
    return Labeller(tiny_model, beam_size=3, scoring="local", batch_size=32)  # one batch, one program


@pytest.fixture(scope="module")
def described(labeller):
    return label_documents(labeller, [*HOSTILE, *EMPTY], ["Disease", "Drug"], n_best=3)


def test_texts_come_back_and_what_looks_special_is_text(described):
    assert [document["text"] for document in described] == [*HOSTILE, *EMPTY]
    assert any(document["spans"] for document in described)
    for document in described:
        end = 0
        for span in document["spans"]:
            assert end <= span["start"] < span["end"]
            assert document["text"][span["start"] : span["end"]] == span["text"]
            end = span["end"]


def test_a_text_without_words_is_a_document_without_sentences(described, labeller):
    for text, document in zip(EMPTY, described[len(HOSTILE) :], strict=True):
        assert document == {
            "text": text, "spans": [], "score": None, "sentences": 0, "windows": 0, "alternatives": [],
        }  # fmt: skip
    assert label_documents(labeller, [], ["Disease"]) == []


def test_alternatives_hold_the_best_and_add_up_to_its_probabilities(described):
    assert [len(document["alternatives"]) for document in described] == [d["windows"] for d in described]
    assert described[len(HOSTILE) - 1]["sentences"] == 2
    uncut = [document for document in described if document["windows"] == 1]
    assert any(document["spans"] for document in uncut)
    for document in uncut:
        (passage,) = document["alternatives"]
        assert document["text"][passage["start"] : passage["end"]].strip()
        assert sum(one["probability"] for one in passage["n_best"]) == pytest.approx(1, abs=1e-5)
        for span in document["spans"]:
            plain = {key: span[key] for key in ("start", "end", "label", "text")}
            assert plain in passage["n_best"][0]["spans"]
            holding = [one["probability"] for one in passage["n_best"] if plain in one["spans"]]
            assert span["probability"] == pytest.approx(sum(holding), abs=1e-5)


def test_the_threshold_drops_spans_below_it_and_nothing_else(described, labeller):
    probabilities = sorted(span["probability"] for document in described for span in document["spans"])
    middle = probabilities[len(probabilities) // 2]
    above = label_documents(labeller, HOSTILE, ["Disease", "Drug"], threshold=middle)
    for document, kept in zip(described, above, strict=False):
        wanted = [span for span in document["spans"] if span["probability"] >= middle]
        assert [span["start"] for span in kept["spans"]] == [span["start"] for span in wanted]
        assert "alternatives" not in kept


def test_a_list_of_labels_for_each_document(labeller):
    labels = [["Disease"], ["Drug"]] * 4
    found = label_documents(labeller, HOSTILE, labels)
    for document, permitted in zip(found, labels, strict=True):
        assert {span["label"] for span in document["spans"]} <= set(permitted)
    assert {span["label"] for document in found for span in document["spans"]} == {"Disease", "Drug"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "--threshold is a probability, 0 to 1, not 1.5"),
        ({"n_best": 4}, "--n_best must be 1 to --beam = 3, not 4"),
        ({"labels": ["Drog"]}, "unknown label 'Drog'; use one of Drug"),
    ],
)
def test_options_out_of_range_are_refused_without_any_text(labeller, options, message):
    with pytest.raises(InputError, match=message):
        label_documents(labeller, [], **({"labels": ["Drug"]} | options))


def test_half_a_character_is_refused_with_its_place(labeller):
    with pytest.raises(InputError, match="text 1 holds a lone surrogate at character 2") as error:
        label_documents(labeller, ["car", "di\udcff"], ["Disease"])
    assert "di" not in str(error.value).split()


def test_the_function_of_the_package_takes_a_loaded_model(tiny_model, described):
    options = {"beam_size": 3, "scoring": "local", "n_best": 3}
    assert medmt5.label([*HOSTILE, *EMPTY], ["Disease", "Drug"], tiny_model, **options) == described
