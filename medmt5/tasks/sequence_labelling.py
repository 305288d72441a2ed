"""Sequence labelling as text to text: `<data set>.<language>` for every declaration and variant.

There are no metric functions: predictions are scored as spans, from the decoder's choices, by `medmt5 evaluate`; SeqIO
would hand over decoded strings.
"""

from functools import partial

import seqio

from medmt5.datasets.declarations import DATASETS, VARIANTS
from medmt5.datasets.sequence_labelling import LabelledSource
from medmt5.preprocessing.sequence_labelling import encode_examples
from medmt5.tasks.vocabulary import VOCABULARY

for _dataset in (*DATASETS, *VARIANTS):
    for _lang in _dataset.languages:
        seqio.TaskRegistry.add(
            f"{_dataset.name}.{_lang}",
            source=LabelledSource(_dataset, _lang),
            preprocessors=[partial(encode_examples, labels=_dataset.labels), seqio.CacheDatasetPlaceholder()],
            output_features={name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")},
        )
