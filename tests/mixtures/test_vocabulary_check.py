"""What T5X calls before it trains or infers; T5X is not needed for it."""

from types import SimpleNamespace

import pytest
import seqio

from medmt5.errors import InputError
from medmt5.mixtures.vocabulary_check import check_vocabulary
from medmt5.tasks.vocabulary import LabelVocabulary


def check(task, rows, vocabulary=None):
    config = SimpleNamespace(vocab_size=rows)
    model = SimpleNamespace(module=SimpleNamespace(config=config), output_vocabulary=vocabulary or LabelVocabulary())
    check_vocabulary(SimpleNamespace(mixture_or_task_name=task), model)


@pytest.fixture(autouse=True)
def vocabulary(monkeypatch, tokenizer):
    monkeypatch.setenv("MEDMT5_VOCABULARY", str(tokenizer.model_file))


@pytest.mark.parametrize("name", ["sample_multitask", "medical_corpus.es"])
def test_every_id_needs_a_row(name, tokenizer):
    check(name, tokenizer.size)
    with pytest.raises(InputError, match=rf"make {tokenizer.size} ids, the model has VOCAB_SIZE = 512 rows; .* 640"):
        check(name, 512)


def test_a_model_of_another_vocabulary_is_refused():
    with pytest.raises(InputError, match="sample_multitask has another vocabulary than the model"):
        check("sample_multitask", 640, seqio.PassThroughVocabulary(640))


def test_an_unknown_task_is_told_with_the_nearest():
    with pytest.raises(InputError, match="no task or mixture 'sample_multitsk'; did you mean sample_multitask"):
        check("sample_multitsk", 640)
