"""Whether a model of upstream T5X has what the labels and pieces of a task need; T5X itself does not look."""

from __future__ import annotations

from typing import Any

from medmt5.errors import InputError
from medmt5.mixtures import get_mixture_or_task


def check_vocabulary(dataset: Any, model: Any) -> None:
    """T5X's `verify_matching_vocabs_fn`, called with its `DatasetConfig` and `EncoderDecoderModel` before it starts.

    Raises InputError for a task that is not known, one of another vocabulary, and a model with fewer rows than there
    are ids: T5X reads an id without a row as zeros and learns nothing of it, silently.
    """
    task = get_mixture_or_task(dataset.mixture_or_task_name)
    vocabulary = model.output_vocabulary
    if any(feature.vocabulary != vocabulary for feature in task.output_features.values()):
        raise InputError(f"{task.name} has another vocabulary than the model; use a file of gin/t5x/model, last")
    rows, ids = model.module.config.vocab_size, vocabulary.vocab_size
    if ids > rows:
        raise InputError(
            f"{vocabulary.tokenizer.model_file} and the labels make {ids} ids, the model has VOCAB_SIZE = {rows} rows; "
            f"set VOCAB_SIZE to at least {ids}, e.g. {-(-ids // 128) * 128}, and give the checkpoint as many "
            "(medmt5 convert)"
        )
