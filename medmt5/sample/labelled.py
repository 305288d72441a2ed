"""The two labelled data sets of the sample: `sample_diseases` (CoNLL, IOB2) and `sample_treatments` (brat standoff).

Terms of dev and test are in no training sentence, and about half of the patterns of dev and test are not in train.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from medmt5.annotation.words import split_words
from medmt5.sample.phrases import LANGUAGES, SPLITS, Phrases, Sentence

SENTENCES = {"train": 1500, "dev": 60, "test": 100}
LONG_DOCUMENT_SENTENCES = 72  # about 600 words
DECOMPOSED_EVERY = 25


def write_labelled(directory: Path, seed: int) -> None:
    """Writes both data sets below `directory`, in all languages and splits."""
    for lang in LANGUAGES:
        for split in SPLITS:
            folder = directory / "sample_diseases" / lang
            folder.mkdir(parents=True, exist_ok=True)
            text = conll(sentences(lang, split, random.Random(f"{seed} diseases {lang} {split}")))
            # One file with the line ends of Windows, as real ones have.
            newline = "\r\n" if (lang, split) == ("fr", "dev") else "\n"
            (folder / f"{split}.conll").write_text(text, encoding="utf-8", newline=newline)

            folder = directory / "sample_treatments" / lang / split
            folder.mkdir(parents=True, exist_ok=True)
            rng = random.Random(f"{seed} treatments {lang} {split}")
            for i, document in enumerate(documents(sentences(lang, split, rng), split == "train", rng)):
                name = f"{lang}-{split}-{i:03d}"
                (folder / f"{name}.txt").write_text(document.text, encoding="utf-8", newline="\n")
                (folder / f"{name}.ann").write_text(standoff(document), encoding="utf-8", newline="\n")


def sentences(lang: str, split: str, rng: random.Random) -> list[Sentence]:
    """Returns the sentences of a split, all different; every 25th with decomposed accents."""
    phrases = Phrases(lang, split, rng)
    labelled = phrases.tables["labelled"]
    patterns = labelled["both"] + labelled["train" if split == "train" else "test"]
    found: dict[str, Sentence] = {}
    while len(found) < SENTENCES[split]:
        # Round by round, so that each pattern is used as often as any other.
        for pattern in rng.sample(patterns, len(patterns)):
            sentence = phrases.sentence(pattern)
            found[sentence.text] = sentence
    kept = list(found.values())[: SENTENCES[split]]
    return [s.decomposed() if i % DECOMPOSED_EVERY == 7 else s for i, s in enumerate(kept)]


def conll(sentences: list[Sentence]) -> str:
    """Returns `word TAB tag` lines, IOB2 tags of Disease alone; one empty line or three end a sentence.

    >>> print(conll([Sentence("No otitis.", ((3, 9, "Disease"),))]).replace("\\t", " "), end="")
    No O
    otitis B-Disease
    . O
    <BLANKLINE>
    """
    lines = []
    for i, sentence in enumerate(sentences):
        diseases = [(start, end) for start, end, label in sentence.spans if label == "Disease"]
        for first, last in split_words(sentence.text):
            inside = next((start for start, end in diseases if start <= first < end), None)
            tag = "O" if inside is None else "B-Disease" if inside == first else "I-Disease"
            lines.append(f"{sentence.text[first:last]}\t{tag}")
        lines += [""] * (3 if i % 50 == 49 else 1)
    return "\n".join(lines) + "\n"


def documents(sentences: list[Sentence], with_long_one: bool, rng: random.Random) -> Iterator[Sentence]:
    """Yields documents of three to six sentences, the first of 72 where asked for, with line ends here and there."""
    size = LONG_DOCUMENT_SENTENCES if with_long_one else rng.randint(3, 6)
    start = 0
    while start < len(sentences):
        text, spans = "", []
        for sentence in sentences[start : start + size]:
            spans += [(len(text) + first, len(text) + last, label) for first, last, label in sentence.spans]
            text += sentence.text + rng.choice((" ", " ", " ", "\n", "\n\n\n"))
        yield Sentence(text.rstrip() + "\n", tuple(spans))
        start, size = start + size, rng.randint(3, 6)


def standoff(document: Sentence) -> str:
    """Returns brat's text-bound annotations of a document.

    >>> standoff(Sentence("No otitis.", ((3, 9, "Disease"),)))
    'T1\\tDisease 3 9\\totitis\\n'
    """
    spans = enumerate(document.spans, 1)
    return "".join(f"T{i}\t{label} {start} {end}\t{document.text[start:end]}\n" for i, (start, end, label) in spans)
