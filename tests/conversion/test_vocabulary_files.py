"""What AutoTokenizer makes of an exported folder gives our ids: words, unknown characters, tags, T5's sentinels."""

import gzip
import itertools
import json

import numpy as np
import pytest
import sentencepiece

from medmt5.conversion.vocabulary_files import _bytes_field, fields, with_sentinels, write_tokenizer
from medmt5.errors import InputError
from medmt5.tokenizer import Tokenizer

TEXTS = [
    "cardine matis nephrios",
    "  lead,  double   and trailing  ",
    "niño ni\u0303o ﬁn ½ \u00a0\u200b\u2028x",
    "unknown: \U00013000 ☃ 漢字",
    "",
    "\t",
]


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, tokenizer, 64)
    (folder / "config.json").write_text(json.dumps({"model_type": "mt5", "transformers_version": "4.57.1"}))
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_ids_of_text_are_ours(theirs, tokenizer):
    for text in TEXTS:
        assert theirs(text).input_ids == [*tokenizer.encode(text), tokenizer.eos_id], text
    assert theirs.model_max_length == 64
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)


def test_ids_of_tags_and_of_tagged_words_are_ours(theirs, tokenizer):
    assert len(theirs) == tokenizer.size
    for label in tokenizer.labels:
        ids = theirs.convert_tokens_to_ids([f"<{label}>", f"</{label}>"])
        assert ids == [tokenizer.open_id(label), tokenizer.close_id(label)]
    words = ["cardine", "matis", "nephri", "cien"]
    one, two, three, four = tokenizer.encode_words(words)
    opens, closes = tokenizer.open_id("Disease"), tokenizer.close_id("Disease")
    ids = theirs("<Disease> cardine<Disease>matis nephri</Disease>cien").input_ids
    assert ids == [opens, *one, opens, *two, *three, closes, *four, tokenizer.eos_id]
    text = theirs.decode(ids, skip_special_tokens=True)
    assert text.count("<Disease>") == 2
    assert "</s>" not in text


def test_t5s_own_vocabulary_gets_sentinels_where_transformers_has_them(tmp_path, tokenizer):
    """A file of 32,000 pieces without sentinels, as T5's."""
    data = tokenizer.model_file.read_bytes()
    kept = [(number, value) for number, value in fields(data) if number == 1]
    kept = [(n, v) for n, v in kept if b"<extra_id_" not in v]
    rest = data[sum(2 + len(v) for n, v in fields(data) if n == 1) :]
    made = [_bytes_field(1, v) for _, v in kept]
    made += [
        _bytes_field(1, _bytes_field(1, f"made{i}".encode()) + b"\x15\x00\x00\xc8\xc2")
        for i in range(32_000 - len(made))
    ]
    plain = b"".join(made) + rest
    with pytest.raises(InputError, match="no piece <extra_id_0>"):
        Tokenizer(write(tmp_path / "plain.model", plain))
    extended = Tokenizer(write(tmp_path / "extended.model", with_sentinels(plain)))
    assert extended.num_pieces == 32_100
    np.testing.assert_array_equal(extended.sentinel_ids, np.arange(32_099, 31_999, -1))
    before = sentencepiece.SentencePieceProcessor(model_proto=plain)
    for text in TEXTS[:4]:
        assert extended.encode(text) == before.encode(text)
    assert with_sentinels(with_sentinels(plain)) == with_sentinels(plain)
    assert with_sentinels(data) == data


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", [b"\x0a\xff", b"\x0b\x00", b"\x0a\x05ab", b"\x80\x80"])
def test_what_is_no_protocol_buffer_is_refused(data):
    with pytest.raises(InputError, match="no SentencePiece model, or cut short"):
        with_sentinels(data)


def test_real_vocabulary(real_data, tmp_path):
    """mT5's own file: sentinels, tags, each kind of piece and real text, by SentencePiece and by transformers."""
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer(real_data / "vocab/spiece.model")
    write_tokenizer(tmp_path, ours, 512)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mt5", "transformers_version": "4.57.1"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.convert_tokens_to_ids(["<ClinicalEntity>", "</ClinicalEntity>"]) == [250100, 250101]
    reference = sentencepiece.SentencePieceProcessor(model_file=str(ours.model_file))
    texts = [*TEXTS, "<0x41> in angle brackets"]
    for lang in ("en", "es", "fr", "it"):
        with gzip.open(real_data / f"pretraining/e3c_layer3_{lang}.jsonl.gz", "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in itertools.islice(lines, 20)]
    for number, text in enumerate(texts):  # a failure tells a number, not a text
        ids = reference.encode(text)
        assert ours.encode(text) == ids, number
        assert theirs(text).input_ids == [*ids, 1], number
