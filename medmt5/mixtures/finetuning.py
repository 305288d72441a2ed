"""Multi-task fine-tuning: data sets put together, as the authors did, and each set in all its languages."""

from functools import partial

import seqio

from medmt5.datasets.declarations import DATASETS, VARIANTS

by_examples = seqio.mixing_rate_num_examples
"""The rate of data that are put together without balancing: examples are drawn from a task as often as it has them."""

MULTITASK = (
    "ncbi_disease.en",
    "bc5cdr_disease.en",
    "bc5cdr_chemical.en",
    "diann.en",
    "diann.es",
    "e3c.en",
    "e3c.es",
    "e3c.fr",
    "e3c.it",
    "pharmaconer.es",
    "abstrct.en",
    "abstrct.es",
    "abstrct.fr",
    "abstrct.it",
)
"""The 14 training sets of the paper."""

PAPER_TESTS = (
    *MULTITASK,
    *(f"abstrct_{disease}.{lang}" for lang in ("en", "es", "fr", "it") for disease in ("glaucoma", "mixed")),
)
"""The 22 rows of the paper's table 8: abstracts on glaucoma and on several diseases are for testing alone."""

seqio.MixtureRegistry.add("multitask", MULTITASK, default_rate=by_examples)

# Raffel et al. 2020, section 3.5.2: rates to the power of 1/T, T = 2 being the best there. Small sets come more often.
seqio.MixtureRegistry.add("multitask_temperature", MULTITASK, default_rate=partial(by_examples, temperature=2.0))

seqio.MixtureRegistry.add("paper_tests", PAPER_TESTS, default_rate=1.0)

seqio.MixtureRegistry.add(
    "sample_multitask",
    [
        "sample_diseases.en",
        "sample_diseases.es",
        "sample_diseases.fr",
        "sample_diseases.it",
        "sample_treatments.en",
        "sample_treatments.es",
        "sample_treatments.fr",
        "sample_treatments.it",
    ],
    default_rate=by_examples,
)

seqio.MixtureRegistry.add(
    "real_small",
    ["ncbi_disease.en", "abstrct.en", "abstrct.es", "abstrct.fr", "abstrct.it"],
    default_rate=by_examples,
)

for _dataset in (*DATASETS, *VARIANTS):
    seqio.MixtureRegistry.add(
        f"{_dataset.name}.all",
        [f"{_dataset.name}.{lang}" for lang in _dataset.languages],
        default_rate=by_examples if "train" in _dataset.splits else 1.0,
    )
