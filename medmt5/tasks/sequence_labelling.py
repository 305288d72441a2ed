"""Sequence labelling as text to text: `<data set>.<language>` for every declaration and variant."""

from functools import partial

import seqio

from medmt5.datasets.declarations import DATASETS, VARIANTS, LabelledDataset
from medmt5.datasets.sequence_labelling import LabelledSource
from medmt5.preprocessing.sequence_labelling import encode_examples
from medmt5.tasks.span_metrics import entity_f1, to_spans
from medmt5.tasks.vocabulary import VOCABULARY


def add_task(dataset: LabelledDataset, lang: str) -> None:
    """Registers the task of a declaration in one language."""
    seqio.TaskRegistry.add(
        f"{dataset.name}.{lang}",
        source=LabelledSource(dataset, lang),
        preprocessors=[partial(encode_examples, labels=dataset.labels), seqio.CacheDatasetPlaceholder()],
        output_features={name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")},
        postprocess_fn=partial(to_spans, labels=dataset.labels),
        metric_fns=[entity_f1],
    )


for _dataset in (*DATASETS, *VARIANTS):
    for _lang in _dataset.languages:
        add_task(_dataset, _lang)
