"""A published vocabulary is fetched once and is the one that was published; a path stays a path."""

import hashlib
from pathlib import Path

import pytest

from medmt5 import vocabularies
from medmt5.conversion.formats import Source
from medmt5.conversion.vocabulary_fit import make_tokenizer
from medmt5.errors import InputError
from medmt5.model.mt5 import MT5Config
from medmt5.tokenizer import Tokenizer
from medmt5.vocabularies import VOCABULARIES, Published, vocabulary_file


@pytest.fixture
def published(tokenizer, tmp_path, monkeypatch):
    """The file that `mt5` is fetched from, here the tests' vocabulary at a file's address."""
    file = tmp_path / "server" / "spiece.model"
    file.parent.mkdir()
    file.write_bytes(tokenizer.model_file.read_bytes())
    monkeypatch.setitem(VOCABULARIES, "mt5", Published(file.as_uri(), tokenizer.sha256))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return file


def test_it_is_fetched_once_and_then_needs_no_network(published, tokenizer, tmp_path):
    found = Tokenizer("mt5")
    assert found.sha256 == tokenizer.sha256
    assert found.model_file == tmp_path / "cache/medmt5/vocabularies/mt5.model"
    published.unlink()
    assert vocabulary_file("mt5") == found.model_file
    found.model_file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"could not be fetched: .*, or put the file at .*mt5\.model"):
        vocabulary_file("mt5")


def test_another_file_than_the_published_one_is_refused(published):
    published.write_bytes(b"another")
    with pytest.raises(InputError, match=f"its sha256 is {hashlib.sha256(b'another').hexdigest()}, not"):
        Tokenizer("mt5")


def test_a_path_is_a_path(published, tmp_path):
    published.unlink()
    assert vocabulary_file(tmp_path / "mt5") == tmp_path / "mt5"
    with pytest.raises(InputError, match=r"no SentencePiece model at mt6; .* the name of a published one \(mt5\)"):
        Tokenizer("mt6")
    (tmp_path / "mt5").write_text("a file of that name")
    with pytest.raises(InputError, match="mt5 is not a SentencePiece model"):
        Tokenizer("mt5")


def test_it_goes_with_a_checkpoint_that_has_none(published, tokenizer, tmp_path):
    config = MT5Config(tokenizer.size, 16, 2, 1, 1, 8, 16)
    source = Source("t5x", tmp_path, None, config, 0, {}, None)
    made = make_tokenizer(source, Path("mt5"), tmp_path / "vocabulary.model", ["Disease"])
    assert (made.sha256, made.labels) == (tokenizer.sha256, ("Disease",))
    with pytest.raises(InputError, match=r"of mT5: --vocabulary mt5"):
        make_tokenizer(source, None, tmp_path / "vocabulary.model", ["Disease"])


def test_what_is_published_is_mt5s_own_file(real_data):
    ours = vocabularies.VOCABULARIES["mt5"]
    assert hashlib.sha256((real_data / "vocab/spiece.model").read_bytes()).hexdigest() == ours.sha256
