"""Medical mT5: multilingual text-to-text models for medicine (arXiv 2404.07613), from raw text to labelled text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medmt5.decoding.label_scores import Scoring
    from medmt5.loaded_model import LoadedModel
    from medmt5.trained_model import TrainedModel

__version__ = "0.1.0"


def label(
    texts: Sequence[str],
    labels: Sequence[str] | Sequence[Sequence[str]],
    checkpoint: str | Path | TrainedModel,
    lang: str = "en",
    *,
    beam_size: int = 4,
    scoring: Scoring = "full",
    batch_size: int = 32,
    threshold: float = 0.0,
    n_best: int = 1,
) -> list[dict[str, Any]]:
    """Returns of each text what `medmt5 label` writes as a line of JSON; see `document_labelling.label_documents`.

    Offsets are code points of the text as given, end exclusive.

    Args:
      labels: those to look for, in all texts or a list for each; the model must know them, if it has tokens for labels.
      checkpoint: a MODEL_DIR, one of its checkpoints, or a model of `trained_model.load_trained_model`, which is then
        not loaded for every call.
      lang: whose abbreviations end no sentence.
      beam_size: hypotheses a sentence; 1 is greedy.
      scoring: "full", "local" or "marginal"; see docs/labelling.md.
      batch_size: sentences at once.
      threshold: spans of a lower probability are left out.
      n_best: how many outputs of each sentence to tell, at most `beam_size`.
    """
    # JAX is loaded here: importing medmt5 alone stays cheap.
    from medmt5.document_labelling import label_documents
    from medmt5.labelling import Labeller
    from medmt5.trained_model import TrainedModel, load_trained_model

    model = checkpoint if isinstance(checkpoint, TrainedModel) else load_trained_model(checkpoint)
    labeller = Labeller(model, beam_size=beam_size, scoring=scoring, batch_size=batch_size)
    return label_documents(labeller, texts, labels, lang, threshold=threshold, n_best=n_best)


def load(path: str | Path, *, vocabulary: str | Path | None = None, batch_size: int = 8) -> LoadedModel:
    """Returns a model of any format: a MODEL_DIR or checkpoint, a Hugging Face folder or T5X checkpoint as it is.

    It has `encode`, `score`, `generate`, `label` and `save`; see `loaded_model.LoadedModel`.

    >>> m = load("my-model")  # a Hugging Face folder, as it is
    >>> m.trained.config.num_encoder_layers, m.trained.tokenizer.labels[:2]
    (1, ('ClinicalEntity', 'Dis'))

    Args:
      vocabulary: its SentencePiece model, where none lies beside it (T5X); or "mt5": its own, fetched once.
      batch_size: texts that go through the model at once.

    Raises:
      InputError: nothing there that is a model, damaged, another architecture, a vocabulary that does not fit.
    """
    from medmt5 import loaded_model

    return loaded_model.load(path, vocabulary=vocabulary, batch_size=batch_size)
