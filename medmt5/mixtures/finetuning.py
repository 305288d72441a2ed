"""Multi-task fine-tuning: data sets put together without balancing, as the authors did."""

import seqio

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
    default_rate=seqio.mixing_rate_num_examples,
)

seqio.MixtureRegistry.add(
    "real_small",
    ["ncbi_disease.en", "abstrct.en", "abstrct.es", "abstrct.fr", "abstrct.it"],
    default_rate=seqio.mixing_rate_num_examples,
)
