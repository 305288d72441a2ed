"""Span corruption over the corpus: `medical_corpus.<language>` for every language there is."""

from functools import partial

import seqio
import tensorflow as tf

from medmt5.datasets.medical_corpus import CorpusSource
from medmt5.languages import codes
from medmt5.preprocessing.span_corruption import corrupt_spans
from medmt5.tasks.vocabulary import VOCABULARY


@seqio.map_over_dataset
def text_to_targets(document: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {"number": document["number"], "targets": document["text"]}


TO_DOCUMENTS = (text_to_targets, seqio.preprocessors.tokenize)

for _lang in codes():
    _name = f"medical_corpus.{_lang}"
    seqio.TaskRegistry.add(
        _name,
        source=CorpusSource(_lang),
        preprocessors=[
            *TO_DOCUMENTS,
            seqio.CacheDatasetPlaceholder(),
            partial(corrupt_spans, task=_name, steps_before_cache=len(TO_DOCUMENTS)),
        ],
        output_features={name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")},
    )
