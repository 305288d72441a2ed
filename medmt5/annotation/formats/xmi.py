"""Reads UIMA CAS XMI as WebAnno and INCEpTION export it (E3C): one file a document.

The text is the attribute `sofaString` of the `Sofa`; annotations are elements with `begin` and `end`, named after their
type. Offsets count UTF-16 units, as Java does. The CAS's own sentences are kept where it has any.

E3C marks mentions in several pieces with an attribute `discontinuous`: one element covers all the pieces, others may
lie inside it. Its owners leave these out of their IOB files, and of nested mentions the shorter; so do we, counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lxml import etree

from medmt5.annotation.archives import read_members
from medmt5.annotation.documents import document_id, split_document
from medmt5.annotation.example import LabelledExample
from medmt5.annotation.formats.lines import is_empty
from medmt5.annotation.formats.xml_files import local_name, parse_xml, to_int
from medmt5.annotation.labels import LabelMap, known_labels
from medmt5.annotation.mentions import Mentions
from medmt5.annotation.offsets import Offsets
from medmt5.annotation.repairs import Repairs
from medmt5.annotation.sentences import split_sentences
from medmt5.errors import InputError


def read_xmi(
    path: str | os.PathLike, lang: str, label_map: LabelMap | None = None, repairs: Repairs | None = None
) -> Iterator[LabelledExample]:
    """Yields the sentences of all documents of a folder, by name, as examples `<document>-<sentence>`.

    Args:
      path: a folder, an archive, a folder inside one (`annotation.tar.gz/English/layer1`), or one file.
      label_map: type in the files, without its name space -> our label; a CAS holds many types, those that are not in
        the map are left out. Without a map the types named as our labels are read.
      repairs: counts what was repaired or dropped: offsets outside the text, discontinuous, nested and repeated spans.

    Raises:
      InputError: no .xml or .xmi file, one that is not well-formed XML, one that is no XMI with a text.
    """
    path, repairs = Path(path), repairs if repairs is not None else Repairs()
    label_map = {label: label for label in known_labels()} if label_map is None else label_map
    seen: set[str] = set()
    name = None
    for name, data in read_members(path, (".xml", ".xmi")):
        file = path if path.name == name else path / name
        if is_empty(data, file, repairs):
            continue
        mentions, sentences = _read_document(parse_xml(data, file, repairs), label_map, repairs, file, lang)
        id = document_id(name)
        if id in seen:
            mentions.drop(None)
            continue
        seen.add(id)
        yield from split_document(id, lang, mentions.text, mentions.spans, repairs, file, sentences)
    if name is None:
        raise InputError(f"no XMI documents (.xml or .xmi) in {path}; check the path")


def _read_document(
    root: etree._Element, label_map: LabelMap, repairs: Repairs, file: Path, lang: str
) -> tuple[Mentions, Sequence[tuple[int, int]] | None]:
    sofas = [element for element in root if local_name(element) == "Sofa" and element.get("sofaString") is not None]
    if local_name(root) != "XMI" or not sofas:
        raise InputError(f"{file}: an XMI file must hold a Sofa with a sofaString; export it again as UIMA CAS XMI")
    text = sofas[0].get("sofaString", "")
    view = next((value for name, value in sofas[0].items() if etree.QName(name).localname == "id"), None)

    offsets, mentions = Offsets(text), Mentions(text, label_map, repairs, file)
    sentences: list[tuple[int, int]] = []
    for element in root:
        name = local_name(element)
        if name != "Sentence" and label_map.get(name) is None:
            continue
        line = element.sourceline or 1
        pieces, _ = offsets.from_utf16(to_int(element.get("begin")), to_int(element.get("end")))
        if name == "Sentence":
            if pieces:
                sentences.extend(pieces)
            else:
                repairs.add("sentence with wrong offsets left out", file, line)
        elif element.get("sofa", view) != view:
            repairs.add("span of another text dropped", file, line)
        elif pieces is None:
            repairs.add("span with wrong offsets dropped", file, line)
        elif element.get("discontinuous"):
            repairs.add("discontinuous span dropped", file, line)
        else:
            mentions.add(pieces, name, None, line)
    return mentions, _fill(text, sorted(sentences), repairs, file, lang) if sentences else None


def _fill(
    text: str, sentences: list[tuple[int, int]], repairs: Repairs, file: Path, lang: str
) -> list[tuple[int, int]]:
    """Returns sentences that lie apart and cover the text: overlapping ones are joined, text between them is cut."""
    filled: list[tuple[int, int]] = []
    position = 0
    for start, end in [*sentences, (len(text), len(text))]:
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end = start + len(text[start:end].rstrip())
        if start < position and start < end:
            repairs.add("overlapping sentences joined", file)
            first, last = filled[-1]
            filled[-1], position = (first, max(last, end)), max(position, end)
            continue
        between = [(position + s, position + e) for s, e in split_sentences(text[position:start], lang)]
        for sentence in between:
            repairs.add("text outside the sentences read", file)
            filled.append(sentence)
        if start < end:
            filled.append((start, end))
        position = end
    return filled
