"""Span corruption over the corpus: `medical_corpus.<language>` for every language there is."""

import seqio
import tensorflow as tf

from medmt5.datasets.medical_corpus import CorpusSource
from medmt5.languages import codes
from medmt5.preprocessing.span_corruption import corrupt_spans
from medmt5.tasks.vocabulary import VOCABULARY


@seqio.map_over_dataset
def text_to_targets(document: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {"targets": document["text"]}


for _lang in codes():
    seqio.TaskRegistry.add(
        f"medical_corpus.{_lang}",
        source=CorpusSource(_lang),
        preprocessors=[
            text_to_targets,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            corrupt_spans,
        ],
        output_features={name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")},
    )
