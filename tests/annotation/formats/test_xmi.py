import pytest

from medmt5.annotation.formats.conll import read_conll
from medmt5.annotation.formats.xmi import read_xmi
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError

LABEL_MAP = {"CLINENTITY": "ClinicalEntity", "EVENT": None}
TEXT = "Fever &amp; 😀 cough.&#13;&#10;No asthma, severe or mild. End"
#       0     6      8  11(UTF-16)            19            33
CAS = """<?xml version="1.0" encoding="UTF-8"?>
<xmi:XMI xmlns:xmi="http://www.omg.org/XMI" xmlns:cas="http:///uima/cas.ecore" xmlns:custom="http:///x.ecore">
<cas:NULL xmi:id="0"/>
<cas:Sofa xmi:id="7" sofaNum="1" sofaID="_InitialView" mimeType="text" sofaString="{text}"/>
{annotations}
<cas:View sofa="7" members="1"/>
</xmi:XMI>
"""


def element(begin, end, name="CLINENTITY", more=""):
    return f'<custom:{name} xmi:id="9" sofa="7" begin="{begin}" end="{end}" {more}/>'


SENTENCES = "\n".join(element(start, end, "Sentence") for start, end in [(0, 17), (19, 45), (45, 49)])


@pytest.fixture
def read(tmp_path):
    """Returns read(annotations) -> (examples, repairs) of a document `XX1`; annotations begin on line 5."""

    def read_document(annotations, text=TEXT, label_map=LABEL_MAP):
        content = CAS.format(text=text, annotations=annotations)
        (tmp_path / "XX1.xml").write_bytes(content.encode())
        repairs = Repairs()
        return list(read_xmi(tmp_path, "en", label_map, repairs)), repairs

    return read_document


def mentions(examples):
    return [(e.id, e.text[start:end], label) for e in examples for start, end, label in e.spans]


def test_offsets_in_utf16_units_become_characters_and_the_sentences_are_those_of_the_file(read):
    examples, repairs = read("\n".join([SENTENCES, element(11, 16), element(22, 28), element(0, 5, "EVENT")]))
    assert [e.text for e in examples] == ["Fever & 😀 cough.", "No asthma, severe or mild.", "End"]
    assert mentions(examples) == [("XX1-1", "cough", "ClinicalEntity"), ("XX1-2", "asthma", "ClinicalEntity")]
    assert {e.document for e in examples} == {"XX1"}
    assert not repairs.counts


def test_without_sentences_in_the_file_rules_cut_it(read):
    assert [e.text for e in read("")[0]] == ["Fever & 😀 cough.", "No asthma, severe or mild.", "End"]


def test_text_outside_the_sentences_is_read_and_overlapping_sentences_are_joined_and_counted(read):
    annotations = [element(0, 7, "Sentence"), element(6, 17, "Sentence"), element(45, 49, "Sentence")]
    examples, repairs = read("\n".join([*annotations, element(22, 28)]))
    assert [e.text for e in examples] == ["Fever & 😀 cough.", "No asthma, severe or mild.", "End"]
    assert mentions(examples) == [("XX1-2", "asthma", "ClinicalEntity")]
    assert repairs.counts == {"overlapping sentences joined": 1, "text outside the sentences read": 1}


@pytest.mark.parametrize(
    ("annotation", "repair"),
    [
        (element(22, 28, more='discontinuous="DISCONTINUOUS"'), "discontinuous span dropped"),
        (element(22, 51), "span with wrong offsets dropped"),
        (element(9, 10), "span with wrong offsets dropped"),  # inside an astral character
        (element(22, "x"), "span with wrong offsets dropped"),
        (element(22, "9" * 5000), "span with wrong offsets dropped"),
        (element(22, 22), "span with wrong offsets dropped"),
        (element(22, 28).replace('sofa="7"', 'sofa="8"'), "span of another text dropped"),
        (element(17, 19), "span without a word dropped"),
        (element(0, 99, "Sentence"), "sentence with wrong offsets left out"),
    ],
)
def test_what_cannot_be_kept_is_dropped_and_counted_with_its_line(read, annotation, repair):
    examples, repairs = read(f"{SENTENCES}\n{annotation}")
    assert not mentions(examples)
    assert repairs.counts == {repair: 1}
    assert repairs.places[repair][0].endswith("XX1.xml:8")


def test_the_longer_of_nested_spans_is_kept(read):
    examples, repairs = read("\n".join([SENTENCES, element(22, 28), element(19, 28), element(19, 28)]))
    assert mentions(examples) == [("XX1-2", "No asthma", "ClinicalEntity")]
    assert repairs.counts == {"overlapping span dropped": 1, "repeated span dropped": 1}


@pytest.mark.parametrize("content", ["", "\ufeff \n"])
def test_an_empty_file_is_counted(tmp_path, content):
    (tmp_path / "1.xml").write_text(content, encoding="utf-8")
    repairs = Repairs()
    assert not list(read_xmi(tmp_path, "en", LABEL_MAP, repairs))
    assert repairs.counts == {"empty file": 1}


def test_bytes_of_another_encoding_and_forbidden_characters_are_repaired_and_counted(tmp_path):
    content = CAS.format(text="ni\xf1o \x01 asma", annotations=element(7, 11)).encode("latin-1")
    (tmp_path / "1.xml").write_bytes(content)
    repairs = Repairs()
    [example] = read_xmi(tmp_path / "1.xml", "es", LABEL_MAP, repairs)
    assert example.text == "niño \ufffd asma"
    assert mentions([example]) == [("1-1", "asma", "ClinicalEntity")]
    assert repairs.counts == {"invalid UTF-8 read as CP1252": 1, "character forbidden in XML replaced": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<a>", r"1.xml:1: the file must be well-formed XML"),
        ("no XML", r"1.xml:1: the file must be well-formed XML"),
        ("<collection/>", r"1.xml: an XMI file must hold a Sofa with a sofaString"),
        (CAS.format(text="", annotations="").replace("sofaString", "sofaURI"), "must hold a Sofa with a sofaString"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "1.xml.*must be well-formed XML"),
    ],
)
def test_what_is_not_the_format_is_refused(tmp_path, content, message):
    (tmp_path / "1.xml").write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_xmi(tmp_path, "en", LABEL_MAP))


def test_no_file_is_read_through_an_entity(tmp_path):
    (tmp_path / "secret").write_text("secret")
    doctype = f'<!DOCTYPE x [<!ENTITY s SYSTEM "{tmp_path}/secret"><!ENTITY t "x">]>\n<xmi:XMI'
    (tmp_path / "1.xml").write_text(CAS.format(text="a &s; b", annotations="").replace("<xmi:XMI", doctype, 1))
    with pytest.raises(InputError, match="must be well-formed XML"):
        list(read_xmi(tmp_path / "1.xml", "en", LABEL_MAP))


def test_a_folder_without_documents_is_refused(tmp_path):
    with pytest.raises(InputError, match="no XMI documents"):
        list(read_xmi(tmp_path, "en"))


E3C = "benchmarks/e3c/e3c_annotation_{}.tar.gz/data_annotation/{}/layer{}"
IOB = "benchmarks/e3c/preprocessed_data/clinical_entities/layer{}/{}/{}.txt"
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "it": "Italian"}


def sizes(examples):
    return len(examples), sum(len(e.spans) for e in examples)


@pytest.mark.parametrize(
    ("lang", "documents", "annotations", "repairs"),
    [
        (
            "en",
            (36, 48),
            1024,
            {"discontinuous span dropped": 65, "overlapping span dropped": 5, "repeated span dropped": 1},
        ),
        ("es", (36, 45), 1345, {"discontinuous span dropped": 35, "overlapping span dropped": 1}),
        ("fr", (36, 45), 1327, {"discontinuous span dropped": 59, "overlapping span dropped": 4}),
        ("it", (36, 50), 869, {"discontinuous span dropped": 42, "overlapping span dropped": 1}),
    ],
)
def test_layer_1_of_e3c_has_the_sentences_and_entities_of_its_owners_iob_files(
    real_data, lang, documents, annotations, repairs
):
    counted = Repairs()
    examples = list(read_xmi(real_data / E3C.format(lang, LANGUAGES[lang], 1), lang, LABEL_MAP, counted))
    assert counted.counts == repairs
    assert sizes(examples)[1] + sum(repairs.values()) == annotations

    in_train = (real_data / "benchmarks/e3c/documentation/train_test_split.txt").read_text()
    parts = {"train": [e for e in examples if f"'{e.document}'" in in_train]}
    parts["test"] = [e for e in examples if f"'{e.document}'" not in in_train]
    assert tuple(len({e.document for e in part}) for part in parts.values()) == documents
    # The owners could not read this document and left it out: an astral character parts characters from UTF-16 units.
    lost = [e for e in examples if e.document == "IT101195"]
    assert sizes(lost) == ((22, 21) if lang == "it" else (0, 0))
    for split, part in parts.items():
        iob = list(read_conll(real_data / IOB.format(1, LANGUAGES[lang], split), lang, {"ety": "ClinicalEntity"}))
        assert sizes([e for e in part if e not in lost]) == sizes(iob)


@pytest.mark.parametrize(
    ("lang", "documents", "sentences", "spans"),
    [("en", 171, 2873, 2140), ("es", 162, 2347, 2625), ("fr", 168, 2389, 2033), ("it", 174, 2436, 1686)],
)
def test_layer_2_of_e3c_has_the_published_counts(real_data, lang, documents, sentences, spans):
    counted = Repairs()
    examples = list(read_xmi(real_data / E3C.format(lang, LANGUAGES[lang], 2), lang, LABEL_MAP, counted))
    iob = list(read_conll(real_data / IOB.format(2, LANGUAGES[lang], "text"), lang, {"ety": "ClinicalEntity"}))
    assert sizes(examples) == sizes(iob) == (sentences, spans)
    assert len({e.document for e in examples}) == documents
    assert not counted.counts
