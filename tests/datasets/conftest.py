"""Writes tiny invented instances of any declared data set, in any of its formats and forms.

A document has one sentence for each label of the files, with one span of that label; no two sentences are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest

from medmt5.datasets.declarations import LabelledDataset
from medmt5.datasets.declarations.declaration import Form

DOCUMENTS = 12  # of each part: enough that some of them are dev's

Document = tuple[str, str, list[tuple[int, int, str]]]
"""Id, text, spans in characters with the labels of the files."""


@pytest.fixture(scope="session")
def write_instance() -> Callable[..., None]:
    """(dataset, lang, folder, form=None) -> None: writes all parts to the first of their places below `folder`."""
    return _write_instance


@pytest.fixture
def make_documents() -> Callable[..., list[Document]]:
    """(dataset, lang, part) -> the documents that `write_instance` writes."""
    return _make_documents


def _write_instance(dataset: LabelledDataset, lang: str, folder: Path, form: Form | None = None) -> None:
    form = form or dataset.forms_of(lang)[0]
    listed = []
    for part in dataset.parts:
        place = folder / form.places(part, lang)[0]
        documents = _make_documents(dataset, lang, part)
        (place if form.format in FOLDERS else place.parent).mkdir(parents=True, exist_ok=True)
        WRITERS[form.format](place, documents)
        if part == "train":
            listed = [id for id, _, _ in documents]
    if form.listed:
        (folder / form.listed).parent.mkdir(parents=True, exist_ok=True)
        (folder / form.listed).write_text(", ".join(map(repr, listed)), encoding="utf-8")


def _make_documents(dataset: LabelledDataset, lang: str, part: str) -> list[Document]:
    """Returns the documents of a part; as many sentences as declared where the declaration divides them."""
    labels = list(dataset.label_map)
    declared = dataset.documents.get((lang, part))
    count = sum(sentences for _, sentences in declared) if declared else DOCUMENTS
    documents = []
    for number in range(count):
        text, spans = "", []
        for label in labels:
            # One word in four is of this sentence alone, so that none is nearly another one (`leakage`).
            own = f"{part}{number}{label.lower().replace('_', '')}"
            before = f"Caso {own}, sin "
            mention = f"niño {own}"
            start = len(text) + len(before)
            spans.append((start, start + len(mention), label))
            text += f"{before}{mention} hoy. "
        documents.append((f"{part}{number}", text.rstrip(), spans))
    return documents


def _write_conll(path: Path, documents: list[Document]) -> None:
    lines = []
    for _, text, spans in documents:
        position = 0
        for word in text.split():
            start = text.index(word, position)
            position = start + len(word)
            label = next((label for s, e, label in spans if s <= start < e), None)
            prefix = "B" if any(s == start for s, _, _ in spans) else "I"
            lines.append(f"{word}\t{f'{prefix}-{label}' if label else 'O'}\n")
            if word == "hoy.":
                lines.append("\n")
    path.write_text("".join(lines), encoding="utf-8")


def _write_pubtator(path: Path, documents: list[Document]) -> None:
    blocks = []
    for id, text, spans in documents:
        title, abstract = _passages(text)
        mentions = "".join(f"{id}\t{s}\t{e}\t{text[s:e]}\t{label}\tD1\n" for s, e, label in spans)
        blocks.append(f"{id}|t|{title}\n{id}|a|{abstract}\n{mentions}{id}\tCID\tD1\tD2\n")
    path.write_text("\n".join(blocks), encoding="utf-8")


def _write_bioc(path: Path, documents: list[Document]) -> None:
    parts = ["<?xml version='1.0' encoding='UTF-8'?><collection><source>PubTator</source><date/><key/>"]
    for id, text, spans in documents:
        title, abstract = _passages(text)
        parts.append(f"<document><id>{id}</id>")
        for kind, offset, passage in (("title", 0, title), ("abstract", len(title) + 1, abstract)):
            parts.append(f"<passage><infon key='type'>{kind}</infon><offset>{offset}</offset>")
            parts.append(f"<text>{escape(passage)}</text>")
            for number, (s, e, label) in enumerate(spans):
                if offset <= s < offset + len(passage):
                    parts.append(
                        f"<annotation id='{number}'><infon key='type'>{label}</infon><infon key='MESH'>D1</infon>"
                        f"<location offset='{s}' length='{e - s}'/><text>{escape(text[s:e])}</text></annotation>"
                    )
            parts.append("</passage>")
        parts.append("</document>")
    path.write_text("".join([*parts, "</collection>"]), encoding="utf-8")


def _write_inline_tags(folder: Path, documents: list[Document]) -> None:
    for id, text, spans in documents:
        for start, end, label in reversed(spans):
            text = f"{text[:start]}<{label}>{text[start:end]}</{label}>{text[end:]}"
        (folder / f"{id}.txt").write_text(text, encoding="utf-8")


def _write_brat(folder: Path, documents: list[Document]) -> None:
    for id, text, spans in documents:
        (folder / f"{id}.txt").write_text(text, encoding="utf-8")
        lines = [f"T{n}\t{label} {s} {e}\t{text[s:e]}\n" for n, (s, e, label) in enumerate(spans, 1)]
        (folder / f"{id}.ann").write_text("".join(lines), encoding="utf-8")


def _write_xmi(folder: Path, documents: list[Document]) -> None:
    for id, text, spans in documents:
        ends = [i + 1 for i, character in enumerate(text) if character == "."]
        starts = [0, *(end + 1 for end in ends[:-1])]
        sentences = [
            f'<type:Sentence xmi:id="{s}" sofa="1" begin="{s}" end="{e}"/>' for s, e in zip(starts, ends, strict=True)
        ]
        mentions = [f'<custom:{label} xmi:id="{s}" sofa="1" begin="{s}" end="{e}"/>' for s, e, label in spans]
        (folder / f"{id}.xml").write_text(
            '<?xml version="1.0" encoding="UTF-8"?><xmi:XMI xmlns:xmi="http://www.omg.org/XMI" '
            'xmlns:cas="http:///uima/cas.ecore" xmlns:type="http:///type.ecore" xmlns:custom="http:///custom.ecore" '
            f'xmi:version="2.0">{"".join(sentences + mentions)}'
            f'<cas:Sofa xmi:id="1" sofaNum="1" sofaID="_InitialView" mimeType="text" sofaString={quoteattr(text)}/>'
            "</xmi:XMI>",
            encoding="utf-8",
        )


def _passages(text: str) -> tuple[str, str]:
    """The first sentence is the title; between it and the rest stands one space."""
    end = text.index(".") + 1
    return text[:end], text[end + 1 :]


FOLDERS = ("brat", "inline_tags", "xmi")
WRITERS: dict[str, Callable[[Path, list[Document]], None]] = {
    "bioc": _write_bioc,
    "brat": _write_brat,
    "conll": _write_conll,
    "inline_tags": _write_inline_tags,
    "pubtator": _write_pubtator,
    "xmi": _write_xmi,
}
