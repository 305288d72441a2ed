"""The labelled data sets: one declaration each. A new data set is a new entry of `DATASETS`, and perhaps a label.

Which files hold what, under which labels, is all that stands here; `sequence_labelling` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medmt5.annotation.labels import LabelMap, check_labels


@dataclass(frozen=True)
class LabelledDataset:
    """One release of a labelled data set. Tasks are named `<name>.<language>`.

    Attributes:
      version: of our reading of it, as TFDS counts them; raise it when the reader changes what it yields.
      languages: codes.
      labels: ours; the label prompt of its examples.
      label_map: label in the files -> ours, or None to leave its spans out.
      format: a key of `sequence_labelling.READERS`.
      files: split -> file or folder below the data directory; {lang} and {LANG} stand for the language code.
    """

    name: str
    version: str
    languages: tuple[str, ...]
    labels: tuple[str, ...]
    label_map: LabelMap
    format: str
    files: Mapping[str, str]
    licence: str
    homepage: str
    citation: str

    def __post_init__(self) -> None:
        check_labels(self.labels)

    def path(self, split: str, lang: str) -> Path:
        """Returns the file or folder of a split, relative to the data directory.

        >>> DATASETS[-1].path("dev", "fr").as_posix()
        'sample_treatments/fr/dev'
        """
        return Path(self.files[split].format(lang=lang, LANG=lang.upper()))


DATASETS = (
    LabelledDataset(
        name="ncbi_disease",
        version="1.0.0",
        languages=("en",),
        labels=("DiseaseNCBI",),
        label_map=dict.fromkeys(("SpecificDisease", "DiseaseClass", "Modifier", "CompositeMention"), "DiseaseNCBI"),
        format="pubtator",
        files={
            "train": "ncbi-disease/original-data/train/NCBItrainset_corpus.txt",
            "dev": "ncbi-disease/original-data/devel/NCBIdevelopset_corpus.txt",
            "test": "ncbi-disease/original-data/test/NCBItestset_corpus.txt",
        },
        licence="public domain (a work of the United States Government)",
        homepage="https://www.ncbi.nlm.nih.gov/research/bionlp/Data/disease/",
        citation="Doğan, Leaman and Lu: NCBI disease corpus. Journal of Biomedical Informatics 47, 2014.",
    ),
    LabelledDataset(
        name="abstrct",
        version="1.0.0",
        languages=("en",),
        labels=("Claim", "Premise"),
        label_map={"Claim": "Claim", "Premise": "Premise"},
        format="conll",
        files={
            split: f"abstrct/{{LANG}}/argument_components/original_data/neoplasm_{split}.tsv"
            for split in ("train", "dev", "test")
        },
        licence="CC-BY-NC-SA-4.0",
        homepage="https://gitlab.com/tomaye/abstrct",
        citation="Mayer, Cabrio and Villata: Transformer-based Argument Mining for Healthcare Applications. ECAI 2020.",
    ),
    LabelledDataset(
        name="abstrct",
        version="1.0.0",
        languages=("es", "fr", "it"),
        labels=("Claim", "Premise"),
        label_map={"Claim": "Claim", "Premise": "Premise"},
        format="conll",
        # Translated by NLLB-200, labels projected, corrected by hand: what the authors of Medical mT5 used.
        files={
            split: "abstrct/{LANG}/nllb/argument_components/manual_revision/"
            f"{{lang}}_neoplasm_nllb_awesome_{split}.tsv"
            for split in ("train", "dev", "test")
        },
        licence="CC-BY-NC-SA-4.0",
        homepage="https://github.com/hitz-zentroa/multilingual-abstrct",
        citation="Yeginbergen et al.: Argument Mining in Data Scarce Settings: Cross-lingual Transfer and Few-shot "
        "Techniques. ACL 2024.",
    ),
    LabelledDataset(
        name="sample_diseases",
        version="1.0.0",
        languages=("en", "es", "fr", "it"),
        labels=("Disease",),
        label_map={"Disease": "Disease"},
        format="conll",
        files={split: f"sample_diseases/{{lang}}/{split}.conll" for split in ("train", "dev", "test")},
        licence="Apache-2.0",
        homepage="`medmt5 sample --help`",
        citation="Made by `medmt5 sample`.",
    ),
    LabelledDataset(
        name="sample_treatments",
        version="1.0.0",
        languages=("en", "es", "fr", "it"),
        labels=("Disease", "Drug"),
        label_map={"Disease": "Disease", "Drug": "Drug"},
        format="brat",
        files={split: f"sample_treatments/{{lang}}/{split}" for split in ("train", "dev", "test")},
        licence="Apache-2.0",
        homepage="`medmt5 sample --help`",
        citation="Made by `medmt5 sample`.",
    ),
)
