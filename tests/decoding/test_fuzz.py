"""Random models on hostile sentences: every output is accepted by a second automaton and, without tags, is its input.

The automaton here was written from docs/labelling.md and reads what was written, ids and text; it knows neither the
tables of `label_automaton` nor the choices of the search.
"""

import random
import re
import unicodedata

import flax.struct
import jax
import numpy as np
import pytest
from flax import linen as nn

from medmt5.checkpoints.manager import CheckpointManager
from medmt5.decoding.constrained import make_label_decoder
from medmt5.decoding.label_automaton import build_tables, max_steps
from medmt5.decoding.label_spans import choices_to_spans
from medmt5.document_labelling import label_documents
from medmt5.labelling import Labeller
from medmt5.model import mt5
from medmt5.model_files import ModelFiles, write_model_files
from medmt5.partitioning import Partitioning
from medmt5.sample.phrases import LANGUAGES, terms
from medmt5.tokenizer import Tokenizer, train_vocabulary
from medmt5.trained_model import load_trained_model

LABELS = ("Disease", "Chemical", "Claim")
HOSTILE = (
    # What looks like our tokens.
    *("</s>", "<s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_99>", "▁<extra_id_1>", "a<extra_id_5>b", "<0x41>"),
    *("<Disease>", "</Disease>", "<Chemical>fiebre</Claim>", "＜Disease＞", "▁", "▁▁x", " ⁇ ", "<", ">", "</"),
    # What NFKC or the tokenizer's normalisation changes, or turns into nothing.
    *("ﬁbrosis", "½", "㎎", "m²", "Å", "Ａ１", "①", "ǆ", "ſ", "ﷺ", "…", "´", "\u00a0", " ", "", "\u3000x", "\u2009"),
    *("\u200b", "\u200d", "\ufeff", "\u00ad", "co\u00adle\u00adra", "\u2060", "\u202eabc\u202c", "\u200fא", "\x00"),
    *("\x01", "\x07mg", "\x7f", "\x85", "a\tb", "a\nb", "\r", "\u2028", "\ufffd", "\uffff", "\ue000", "\U0010ffff"),
    # Combining marks, scripts, directions, planes.
    *(
        "e\u0301",
        "n\u0303o",
        "\u0301",
        "Z\u0351\u036b\u0343\u032a",
        "שלום",
        "مرحبا",
        "العَرَبِيَّة",
        "हिन्दी",
        "ไทย",
        "中文",
        "한국어",
    ),
    *("👩‍⚕️", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇪🇸", "𝔐𝔢𝔡", "𠜎", "𐍈", "\U000e0041"),
    # Numbers, units, signs.
    *(
        "37,5",
        "1.000.000",
        "°C",
        "µg/dl",
        "%",
        "10^9/l",
        "-",
        "—",
        "«",
        "¿",
        "'",
        '"',
        "&amp;",
        "\\",
        "%s",
        "{}",
        "NaN",
    ),
    *("l'otite", "dell'appendice", "x" * 30, "β2-", "ÑÇß", "İ"),
)
PIECES, WORDS, STEPS = 40, 12, 40 + 2 * 12 + 1  # of the longest sentence
BATCH = 500


@pytest.fixture(scope="module")
def sample_tokenizer(tmp_path_factory) -> Tokenizer:
    """Pieces of the sample's terms, so that many words are few pieces and hostile ones are bytes."""
    texts = [term.text for lang in LANGUAGES for slot in ("disease", "drug") for term in terms(lang, slot)]
    return Tokenizer(train_vocabulary(texts, tmp_path_factory.mktemp("vocabulary") / "spiece.model", size=800))


@pytest.fixture(scope="module")
def config(sample_tokenizer) -> mt5.MT5Config:
    return mt5.MT5Config(
        vocab_size=sample_tokenizer.size,
        emb_dim=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=8,
        mlp_dim=16,
        attention="plain",  # compiles faster
    )


def random_params(config, num_pieces, seed):
    """Returns parameters that write a tag now and then; every fifth model overflows."""
    rng = np.random.default_rng(seed)
    shapes = nn.unbox(jax.eval_shape(lambda: mt5.init_params(config, jax.random.key(0))))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.7, leaf.shape).astype(np.float32), shapes)
    # Against hundreds of pieces: `marginal` else sees a probability of zero in every tag.
    params["decoder"]["logits_dense"]["kernel"][:, num_pieces:] *= rng.uniform(2, 5)
    if seed % 5 == 4:
        params["decoder"]["decoder_norm"]["scale"][:] = 1e38
    return params


def random_characters(rng: random.Random) -> str:
    """One to four code points of any plane, surrogates excepted: they are no text."""
    last = rng.choice((0x7F, 0x2FF, 0xD7FF, 0xFFFF, 0x1FFFF, 0x10FFFF))
    drawn = (rng.randint(0, last) for _ in range(rng.randint(1, 4)))
    return "".join(chr(i) for i in drawn if not 0xD800 <= i < 0xE000)


def random_word(vocabulary: list[str], rng: random.Random) -> str:
    match rng.random():
        case p if p < 0.6:
            word = rng.choice(vocabulary)
            return rng.choice(
                (word, word, word, word.upper(), unicodedata.normalize("NFD", word), word + rng.choice(HOSTILE))
            )
        case p if p < 0.65:
            return f"{rng.randint(0, 999)}{rng.choice(('', 'mg', ',5', '%'))}"
        case p if p < 0.9:
            return rng.choice(HOSTILE)
    return random_characters(rng)


def words_of(lang: str) -> list[str]:
    return [word for slot in ("disease", "drug") for term in terms(lang, slot) for word in term.text.split()]


def random_sentences(count, tokenizer, rng):
    """Returns [(words, pieces of each)], a quarter in each language, of at most WORDS words and PIECES pieces."""
    vocabularies = [words_of(lang) for lang in LANGUAGES]
    drawn = [[random_word(vocabularies[i % 4], rng) for _ in range(rng.randint(0, WORDS))] for i in range(count)]
    encoded = [tokenizer.encode_words(words) for words in drawn]
    for words, pieces in zip(drawn, encoded, strict=True):
        while sum(map(len, pieces)) > PIECES:
            longest = max(range(len(pieces)), key=lambda i: len(pieces[i]))
            del words[longest], pieces[longest]
    return list(zip(drawn, encoded, strict=True))


def read_output(tokens, words, permitted, tokenizer):
    """Returns the spans (first word, end, label) that ids write: words copied whole and in order, tags around some.

    Outside a mention may come a permitted opening tag, if words are left, the next word, or, when none is left, EOS.
    Within one comes its closing tag, after a word, or the next word. Nothing comes after EOS.
    """
    spans, copied, opened, rest = [], 0, None, [int(token) for token in tokens]
    while True:
        token = rest.pop(0)
        if token == tokenizer.eos_id and copied == len(words):
            assert opened is None, "ends within a mention"
            assert not any(rest), "goes on after the end"
            return spans
        if token < tokenizer.num_pieces:
            assert copied < len(words), "a piece after the last word"
            expected = words[copied]
            assert [token, *rest[: len(expected) - 1]] == expected, "not the next word"
            del rest[: len(expected) - 1]
            copied += 1
            continue
        number, closes = divmod(token - tokenizer.num_pieces, 2)
        label = tokenizer.labels[number]
        if closes:
            assert opened is not None, "closes what is not open"
            assert opened[1] == label, "closes another label"
            assert copied > opened[0], "holds no word"
            spans.append((opened[0], copied, label))
            opened = None
        else:
            assert opened is None, "nests"
            assert label in permitted, "label not permitted"
            assert copied < len(words), "opens after the last word"
            opened = (copied, label)


MARKED = re.compile(r"(?:[^<]|<(\w+)>[^<]*</\1>)*")


def check_text(tokens, pieces, tokenizer):
    """Reads the decoded text; returns whether it could: a sentence with a `<` of its own is told from ids alone."""
    plain, text = tokenizer.decode(pieces), tokenizer.decode(tokens)
    if "<" in plain:
        return False
    assert MARKED.fullmatch(text), "tags that do not pair"
    assert "".join(re.sub(r"</?\w+>", "", text).split()) == "".join(plain.split())
    return True


def make_decoder(config, beam_size, scoring):
    return make_label_decoder(config, Partitioning(num_devices=1).make_mesh(), beam_size=beam_size, scoring=scoring)


def decode_batch(decode, params, sentences, permitted, tokenizer, num_pieces, num_steps):
    open_ids, close_ids = map(tokenizer.open_id, LABELS), map(tokenizer.close_id, LABELS)
    tables = build_tables(sentences, list(open_ids), list(close_ids), permitted, num_pieces)
    assert max_steps(tables) <= num_steps
    inputs = np.zeros((len(sentences), num_pieces + len(LABELS) + 1), np.int32)
    for row, words, allowed in zip(inputs, sentences, permitted, strict=True):
        prompt = [tokenizer.open_id(label) for label, may in zip(LABELS, allowed, strict=True) if may]
        ids = [*prompt, *(i for word in words for i in word), tokenizer.eos_id]
        row[: len(ids)] = ids
    return jax.device_get(decode(params, inputs, tables, num_steps))


def write_target(words, spans, tokenizer):
    """Returns the ids of words with the tags of their spans, a tag in its pieces, and EOS."""
    ids = []
    for number, pieces in enumerate([*words, [tokenizer.eos_id]]):
        ids += [i for _, end, label in spans if end == number for i in tokenizer.tag_pieces(label, closing=True)]
        ids += [i for start, _, label in spans if start == number for i in tokenizer.tag_pieces(label, closing=False)]
        ids += pieces
    return ids


@pytest.mark.usefixtures("optimized")
def test_without_label_tokens_too(sample_tokenizer, config):
    """Words with the tags of spans that are in order, apart and permitted: that is all the rules say."""
    tokenizer, rng = Tokenizer(sample_tokenizer.model_file, labels=()), random.Random(0)
    drawn = random_sentences(300, tokenizer, rng)
    sentences = [pieces for _, pieces in drawn]
    permitted = [[rng.random() < 0.5 for _ in LABELS] for _ in drawn]
    tags = [[tokenizer.tag_pieces(label, closing) for label in LABELS] for closing in (False, True)]
    assert min(map(len, [*tags[0], *tags[1]])) > 1
    tables = build_tables(sentences, *tags, permitted, PIECES)
    params = random_params(config, sample_tokenizer.num_pieces, seed=3)
    for ids in (*tags[0], *tags[1]):
        params["decoder"]["logits_dense"]["kernel"][:, ids] *= 2
    inputs = np.zeros((len(sentences), PIECES + 1), np.int32)
    for row, words in zip(inputs, sentences, strict=True):
        ids = [*(i for word in words for i in word), tokenizer.eos_id]
        row[: len(ids)] = ids
    found, tagged = make_decoder(config, 4, "local")(params, inputs, tables, max_steps(tables)), 0
    found = jax.device_get(found)
    for i, words in enumerate(sentences):
        allowed = {label for label, may in zip(LABELS, permitted[i], strict=True) if may}
        outputs = set()
        for tokens, choices, length in zip(found.tokens[i], found.choices[i], found.lengths[i], strict=True):
            if not length:
                continue
            told = choices_to_spans(choices, list(map(len, words)), len(LABELS))
            spans = [(start, end, LABELS[label]) for start, end, label in told]
            assert tokens[:length].tolist() == write_target(words, spans, tokenizer)
            places = [place for start, end, _ in spans for place in (start + 0.5, end)]
            assert places == sorted(places)
            assert {label for *_, label in spans} <= allowed
            outputs.add(tuple(spans))
            tagged += bool(spans)
        assert len(outputs) == np.sum(found.lengths[i] > 0) > 0
    assert tagged > 100


@pytest.mark.parametrize("word", [*HOSTILE, "fi" * 300])
def test_no_text_becomes_a_special_id(sample_tokenizer, word):
    special = {sample_tokenizer.pad_id, sample_tokenizer.eos_id, *sample_tokenizer.sentinel_ids.tolist()}
    (ids,) = sample_tokenizer.encode_words([word])
    assert ids
    assert special.isdisjoint(ids)
    assert max(ids) < sample_tokenizer.num_pieces


def test_long_words_and_long_sentences_are_copied_whole(sample_tokenizer, config):
    tokenizer, rng = sample_tokenizer, random.Random(0)
    long_word = "".join(rng.choice("אבגדהוזחט") for _ in range(120))
    drawn = [[long_word], ["febbre"] * 30, [], ["di", long_word[:50], "</Disease>"]]
    sentences = [tokenizer.encode_words(words) for words in drawn]
    assert len(sentences[0][0]) >= 240
    decode = make_decoder(config, 4, "local")
    permitted = [[True] * 3, [True] * 3, [True] * 3, [False] * 3]
    params = random_params(config, tokenizer.num_pieces, seed=0)
    found = decode_batch(decode, params, sentences, permitted, tokenizer, 256, 384)
    for tokens, words, allowed in zip(found.tokens, sentences, permitted, strict=True):
        read_output(tokens[0], words, set(LABELS) if any(allowed) else set(), tokenizer)


@flax.struct.dataclass
class State:
    params: dict


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, sample_tokenizer, config):
    """A MODEL_DIR of a random model trained on inputs of 32 tokens, or so it says."""
    folder = tmp_path_factory.mktemp("model")
    with CheckpointManager(folder) as manager:
        manager.save(1, State(random_params(config, sample_tokenizer.num_pieces, seed=1)), {})
    write_model_files(folder, ModelFiles(config, sample_tokenizer, {"inputs": 32, "targets": 64}))
    return folder


def is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] != "Z" and unicodedata.category(character) not in ("Cc", "Cf")


def check_document(result, text, labels):
    """Asserts that spans are whole words of the text as given, in order and apart; returns how many there are."""
    assert result["text"] == text
    position = 0
    for span in result["spans"]:
        start, end = span["start"], span["end"]
        assert position <= start < end <= len(text)
        assert text[start:end] == span["text"]
        assert span["label"] in labels
        assert is_visible(text[start])
        assert is_visible(text[end - 1])
        for cut in (start, end):
            assert not all(is_letter(c) for c in text[max(0, cut - 1) : cut + 1]) or cut in (0, len(text))
        position = end
    assert (result["score"] is None) == (not any(is_visible(c) for c in text))
    return len(result["spans"])


def random_document(vocabulary, rng: random.Random) -> str:
    separators = (" ", " ", " ", "\u00a0", "\t", ", ", "\u200b", "-", "/", ". ", "", "\r", "\u2028", "\n", "  ")
    words = [random_word(vocabulary, rng) for _ in range(rng.randint(0, 12))]
    return "".join(part for word in words for part in (word, rng.choice(separators)))


def test_a_labelled_document_is_the_document_as_given(model_dir):
    labeller, rng = (
        Labeller(load_trained_model(model_dir), beam_size=2, scoring="local", batch_size=512),
        random.Random(0),
    )
    labels = ["Chemical", "Disease", "Claim"]
    for lang in LANGUAGES:
        vocabulary = words_of(lang)
        documents = ["", " \t\u200b", *HOSTILE, *(random_document(vocabulary, rng) for _ in range(150))]
        results = label_documents(labeller, documents, labels, lang)
        spans = [check_document(result, text, labels) for result, text in zip(results, documents, strict=True)]
        assert sum(spans) > 100


def test_labels_none_words_none_and_a_word_longer_than_the_model_was_trained_with(model_dir):
    labeller = Labeller(load_trained_model(model_dir), beam_size=2, scoring="full", batch_size=2)
    assert labeller.label([], ["Disease"]) == []
    none, empty = labeller.label([["febbre"], []], [])
    assert (none.spans, empty.spans, empty.score) == ((), (), 0.0)
    text = "di " + "א" * 100 + " di"
    (result,) = label_documents(labeller, [text], ["Disease"], "it")
    check_document(result, text, ["Disease"])


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("scoring", "beam_size", "batches"),
    [("full", 1, 4), ("local", 1, 4), ("marginal", 1, 4), ("full", 4, 3), ("local", 4, 3), ("marginal", 4, 3)],
)
def test_every_output_of_10500_sentences_obeys_the_rules_and_is_its_input(
    sample_tokenizer, config, scoring, beam_size, batches
):
    tokenizer, decode = sample_tokenizer, make_decoder(config, beam_size, scoring)
    seed = ["full", "local", "marginal"].index(scoring) + 3 * beam_size
    rng, tagged, read_as_text = random.Random(seed), 0, 0
    for batch in range(batches):
        drawn = random_sentences(BATCH, tokenizer, rng)
        permitted = [[rng.random() < 0.5 for _ in LABELS] for _ in drawn]
        params = random_params(config, tokenizer.num_pieces, seed + batch)
        sentences = [pieces for _, pieces in drawn]
        found = decode_batch(decode, params, sentences, permitted, tokenizer, PIECES, STEPS)
        assert np.all(found.lengths[:, 0] > 0)
        assert not np.any(np.isnan(found.scores))
        for i, words in enumerate(sentences):
            labels = {label for label, may in zip(LABELS, permitted[i], strict=True) if may}
            outputs = set()
            for tokens, choices, length in zip(found.tokens[i], found.choices[i], found.lengths[i], strict=True):
                if not length:
                    assert not any(tokens)
                    continue
                spans = read_output(tokens, words, labels, tokenizer)
                assert tokens[length - 1] == tokenizer.eos_id
                told = choices_to_spans(choices, list(map(len, words)), len(LABELS))
                assert [(start, end, LABELS[label]) for start, end, label in told] == spans
                outputs.add(tuple(spans))
                tagged += bool(spans)
                read_as_text += check_text(tokens, [i for word in words for i in word], tokenizer)
            assert len(outputs) == np.sum(found.lengths[i] > 0), "the hypotheses of a sentence differ"
    assert tagged > BATCH * batches / 5, "hardly an output has a tag"
    assert read_as_text > BATCH * batches / 5
