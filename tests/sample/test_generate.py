import json
import random
import re
import unicodedata
from collections import Counter
from xml.etree import ElementTree

import pytest

from medmt5.errors import InputError
from medmt5.sample import generate, labelled, phrases, raw

LANGUAGES, SPLITS = phrases.LANGUAGES, phrases.SPLITS


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data") / "sample"
    generate.write_sample(directory)
    return directory


def read_conll(sample, lang, split):
    """Returns sentences as lists of (word, tag), read without the code that wrote them."""
    text = (sample / "sample_diseases" / lang / f"{split}.conll").read_text(encoding="utf-8")
    blocks = [block for block in re.split(r"\n\n+", text) if block.strip()]
    return [[tuple(line.split("\t")) for line in block.strip().split("\n")] for block in blocks]


def read_brat(sample, lang, split):
    """Returns (text, [(start, end, label, mention)]) of each document."""
    found = []
    for path in sorted((sample / "sample_treatments" / lang / split).glob("*.txt")):
        lines = path.with_suffix(".ann").read_bytes().decode().splitlines()
        rows = [re.fullmatch(r"T\d+\t(\w+) (\d+) (\d+)\t(.+)", line).groups() for line in lines]
        found.append((path.read_bytes().decode(), [(int(s), int(e), label, text) for label, s, e, text in rows]))
    return found


def conll_entities(sentence):
    words: list[list[str]] = []
    for word, tag in sentence:
        if tag.startswith("B-"):
            words.append([])
        if tag != "O":
            words[-1].append(word)
    return [" ".join(entity) for entity in words]


def training_words(sample):
    """Returns the folded words of all training text of both data sets, one sequence a language and data set."""
    for lang in LANGUAGES:
        yield phrases.fold(" ".join(word for s in read_conll(sample, lang, "train") for word, _ in s))
        yield phrases.fold(" ".join(text for text, _ in read_brat(sample, lang, "train")))


def held_out_entities(sample):
    """Returns the folded terms that dev and test mention, labelled or not, found by their own lists."""
    found = set()
    for lang in LANGUAGES:
        known = [phrases.fold(t.text) for slot in phrases.LABELS for t in phrases.terms(lang, slot)]
        for split in ("dev", "test"):
            text = " ".join(word for s in read_conll(sample, lang, split) for word, _ in s)
            text += " ".join(text for text, _ in read_brat(sample, lang, split))
            words = phrases.fold(text)
            found |= {term for term in known if phrases.mentions(words, term)}
            found |= {phrases.fold(e) for s in read_conll(sample, lang, split) for e in conll_entities(s)}
            found |= {phrases.fold(e[3]) for _, entities in read_brat(sample, lang, split) for e in entities}
    return found


def test_no_entity_of_dev_or_test_is_in_any_training_text_of_any_language(sample):
    train = list(training_words(sample))
    held_out = held_out_entities(sample)
    assert len(held_out) > 150
    assert [term for term in held_out if any(phrases.mentions(words, term) for words in train)] == []


def test_the_disjointness_test_can_fail(sample):
    words = next(training_words(sample))
    assert phrases.mentions(words, phrases.fold("NÉPHRITIS"))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_pre_training_text_tells_of_every_held_out_entity(sample, lang):
    root = ElementTree.parse(sample / lang / "wikipedia" / "pages-articles.xml").getroot()  # noqa: S314 (our own file)
    titles = {phrases.fold(title.text) for title in root.findall(".//{*}title")}
    for slot in phrases.LABELS:
        for term, split in zip(phrases.terms(lang, slot), phrases.concept_splits(slot), strict=True):
            assert split == "train" or phrases.fold(term.text) in titles


@pytest.mark.parametrize("lang", LANGUAGES)
def test_sizes_and_splits_are_as_described(sample, lang):
    for split in SPLITS:
        assert len(read_conll(sample, lang, split)) == labelled.SENTENCES[split]
    for slot, least in (("disease", 90), ("drug", 70)):
        terms = phrases.terms(lang, slot)
        assert len({phrases.fold(t.text) for t in terms}) == len(terms) >= least
        assert all(len(t.text.split()) <= 4 for t in terms)
        shares = {s: n / len(terms) for s, n in Counter(phrases.concept_splits(slot)).items()}
        assert shares == pytest.approx({"train": 0.6, "dev": 0.1, "test": 0.3}, abs=0.03)
    patterns = phrases.tables(lang)["labelled"]
    assert len(patterns["test"]) >= len(patterns["both"])
    other = phrases.tables(lang)["facts"], phrases.tables(lang)["text"]
    assert len({p for section in other for group in section.values() for p in group}) >= 60


def test_the_nth_term_is_the_same_concept_in_every_language():
    for table in ("diseases", "drugs"):
        sizes = {lang: [len(group) for group in phrases.tables(lang)[table].values()] for lang in LANGUAGES}
        assert len({str(s) for s in sizes.values()}) == 1, sizes
    for drugs in zip(*(phrases.terms(lang, "drug") for lang in LANGUAGES), strict=True):
        assert len({phrases.fold(d.text)[0].replace("k", "c").replace("y", "i")[0] for d in drugs}) == 1, drugs


@pytest.mark.parametrize("lang", LANGUAGES)
def test_conll_is_iob2_of_diseases_alone_and_leaves_drugs_and_plain_sentences(sample, lang):
    drugs = {phrases.fold(t.text) for t in phrases.terms(lang, "drug")}
    sentences = read_conll(sample, lang, "train")
    for sentence in sentences:
        previous = "O"
        for word, tag in sentence:
            assert re.fullmatch(r"(?:[^\W_]|[\u0300-\u036f])+|\S", word)
            assert tag in ("O", "B-Disease", "I-Disease")
            assert tag != "I-Disease" or previous != "O"
            previous = tag
    outside = {phrases.fold(word) for s in sentences for word, tag in s if tag == "O"}
    assert len(outside & drugs) > 20
    without = sum(all(tag == "O" for _, tag in s) for s in sentences) / len(sentences)
    assert 0.2 < without < 0.5


@pytest.mark.parametrize("lang", LANGUAGES)
def test_brat_offsets_are_code_points_that_cut_out_the_mention(sample, lang):
    for split in SPLITS:
        documents = read_brat(sample, lang, split)
        for text, entities in documents:
            assert all(text[start:end] == mention for start, end, _, mention in entities)
        assert {e[2] for _, entities in documents for e in entities} == {"Disease", "Drug"}
    assert any(550 <= len(text.split()) <= 750 for text, _ in read_brat(sample, lang, "train"))


def test_about_half_of_the_test_sentences_follow_patterns_that_train_has_not():
    for lang in LANGUAGES:
        # The longest fixed part of a pattern tells a sentence that was made by it.
        marks = {max(re.split(r"\{\w+\}", p), key=len) for p in phrases.tables(lang)["labelled"]["test"]}

        def share(split, lang=lang, marks=marks):
            sentences = labelled.sentences(lang, split, random.Random(0))
            texts = [unicodedata.normalize("NFC", s.text) for s in sentences]
            return sum(any(mark in text for mark in marks) for text in texts) / len(texts)

        assert 0.45 < share("test") < 0.6
        assert share("train") == 0


def test_the_awkward_is_there(sample):
    def text(path):
        return (sample / path).read_bytes().decode()

    assert text("fr/text/zz-line-ends.txt").count("\r\n") > 2
    assert "\r\n" in text("sample_diseases/fr/dev.conll")
    assert text("it/text/zz-empty.txt") == ""
    assert "\n" * 10 in text("es/text/zz-empty-lines.txt")
    assert text("es/text/zz-copy-exact.txt") == text("es/text/note-000.txt")
    changed = text("es/text/zz-copy-case-and-spaces.txt")
    assert changed.casefold().split() == text("es/text/note-001.txt").casefold().split()
    assert any(unicodedata.combining(c) for c in text("fr/text/zz-decomposed.txt"))
    labelled_text = text("sample_diseases/fr/train.conll")
    assert any(unicodedata.combining(c) for c in labelled_text)
    assert "\n\n\n\n" in labelled_text
    words = {w for lang in LANGUAGES for split in SPLITS for s in read_conll(sample, lang, split) for w, _ in s}
    assert {"<", "Disease", "extra", "_", ">", "/", "s"} <= words
    medline = text("en/pubmed/articles.xml")
    assert 'OtherAbstract Type="Publisher" Language="spa"' in medline
    assert "#REDIRECT" in text("en/wikipedia/pages-articles.xml")


def test_studies_have_the_shape_of_the_api(sample):
    pages = sorted((sample / "en" / "clinicaltrials").glob("*.json"))
    studies = [s["protocolSection"] for p in pages for s in json.loads(p.read_text(encoding="utf-8"))["studies"]]
    assert len({s["identificationModule"]["nctId"] for s in studies}) == raw.STUDIES


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_text(sample, tmp_path):
    def content(directory):
        return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}

    generate.write_sample(tmp_path / "same")
    generate.write_sample(tmp_path / "other", seed=1)
    first, same, other = content(sample), content(tmp_path / "same"), content(tmp_path / "other")
    assert first == same
    assert first["es/pubmed/articles.xml"] != other["es/pubmed/articles.xml"]
    assert first["sample_diseases/it/test.conll"] != other["sample_diseases/it/test.conll"]


def test_a_directory_with_files_in_it_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="new or empty directory"):
        generate.write_sample(tmp_path)


@pytest.mark.parametrize(
    ("lang", "pattern", "term", "expected"),
    [
        ("fr", "Un cas de {disease}.", "asthme", "Un cas d'asthme."),
        ("es", "Tos y {disease}.", "ictus", "Tos e ictus."),
        ("it", "Tosse e {disease}.", "epatite", "Tosse ed epatite."),
        ("en", "A {disease}.", "ulcer", "An ulcer."),
        ("en", "{disease} heals.", "mumps", "Mumps heals."),
    ],
)
def test_a_term_joins_the_word_before_it_as_the_language_wants(lang, pattern, term, expected):
    sentence = phrases.Phrases(lang, None, random.Random(0)).sentence(pattern, phrases.Term(term, "disease", "", ""))
    assert sentence.text == expected
    ((start, end, label),) = sentence.spans
    assert sentence.text[start:end].casefold() == term
    assert label == "Disease"


def test_any_slot_takes_every_kind_of_term_and_labels_diseases_and_drugs_alone():
    drawn = phrases.Phrases("en", "train", random.Random(0))
    sentences = [drawn.sentence("About {any}.") for _ in range(300)]
    label = {t.text: phrases.LABELS[slot] for slot in phrases.LABELS for t in phrases.terms("en", slot)}
    kinds = {text: slot for slot in phrases.ANY[2:] for text in phrases.tables("en")["slots"][slot]}
    for sentence in sentences:
        term = sentence.text.removeprefix("About ").removesuffix(".")
        expected = ((6, 6 + len(term), label[term]),) if term in label else ()
        assert sentence.spans == expected
        assert (term in label) != (term in kinds)
    assert {span[2] for s in sentences for span in s.spans} == {"Disease", "Drug"}
    assert {kinds[s.text[6:-1]] for s in sentences if not s.spans} == set(phrases.ANY[2:])


def test_a_term_within_a_longer_one_is_for_training(monkeypatch):
    names = ["a", "b c", "c", "d"]
    monkeypatch.setattr(phrases, "terms", lambda lang, slot: [phrases.Term(n, slot, "", "") for n in names])
    # "c" would be third, for training; as the second it would be for the test.
    assert phrases.concept_splits.__wrapped__("disease") == ("train", "test", "train", "dev")
    names[1:3] = ["c", "b c"]
    assert phrases.concept_splits.__wrapped__("disease") == ("train", "train", "train", "dev")
