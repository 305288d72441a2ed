"""Reads BioC XML (BC5CDR): collections of documents of passages, each with its annotations.

Passages are joined by a space, so that a corpus gives the same examples as in PubTator. Offsets count from where the
passage (or its sentence) says that it begins. In BC5CDR that is wrong after a title with an apostrophe, which was
counted as `&apos;`: where the annotations say so, a passage begins one character after the one before.

Of a composite mention ("renal and hepatic failure") the whole is kept and its parts are dropped, as in PubTator.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lxml import etree

from medmt5.annotation.archives import read_members
from medmt5.annotation.documents import split_document
from medmt5.annotation.example import LabelledExample
from medmt5.annotation.formats.lines import is_empty
from medmt5.annotation.formats.xml_files import local_name, parse_xml, to_int
from medmt5.annotation.labels import LabelMap, map_label
from medmt5.annotation.mentions import Mentions
from medmt5.annotation.offsets import Pieces
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError


class Unit(NamedTuple):
    """A passage, or a sentence of one: its offset as the file says, and the mentions of its text."""

    offset: int
    mentions: Mentions


def read_bioc(
    path: str | os.PathLike, lang: str, label_map: LabelMap | None = None, repairs: Repairs | None = None
) -> Iterator[LabelledExample]:
    """Yields the sentences of all documents as examples `<document>-<sentence>`; of one id the first document is kept.

    Args:
      path: a file, a folder or an archive of .xml files, or a file or folder inside one.
      label_map: the annotations' infon `type` -> our label, None to leave its spans out; without a map the file must
        use our labels.
      repairs: counts what was repaired or dropped: offsets that do not fit the text, documents and spans twice, what
        lacks an offset, a type or a location.

    Raises:
      InputError: no .xml file, one that is not well-formed XML or no BioC collection; an unknown type.
    """
    path, repairs = Path(path), repairs if repairs is not None else Repairs()
    seen: set[str] = set()
    name = None
    for name, data in read_members(path, ".xml"):
        file = path if path.name == name else path / name
        if is_empty(data, file, repairs):
            continue
        root = parse_xml(data, file, repairs)
        if local_name(root) != "collection":
            raise InputError(f"{file}: the root of a BioC file must be <collection>, not <{local_name(root)}>")
        for number, document in enumerate(root.iterfind("{*}document"), start=1):
            id = (document.findtext("{*}id") or "").strip()
            if not id:
                repairs.add("document without an id numbered", file, document.sourceline)
                id = f"{Path(name).stem}-{number}"
            mentions = _read_document(document, label_map, repairs, file)
            if id in seen:
                mentions.drop(document.sourceline)
                continue
            seen.add(id)
            yield from split_document(id, lang, mentions.text, mentions.spans, repairs, file)
    if name is None:
        raise InputError(f"no BioC documents (.xml) in {path}; check the path")


def _read_document(document: etree._Element, label_map: LabelMap | None, repairs: Repairs, file: Path) -> Mentions:
    units: dict[etree._Element, Unit] = {}
    following = 0  # where a passage begins that follows the one before
    for element in document.iter("{*}passage", "{*}sentence"):
        text_element = element.find("{*}text")
        if text_element is None:  # a passage of sentences
            continue
        text = "".join(text_element.itertext())
        offset = to_int(element.findtext("{*}offset"))
        if offset < 0:
            repairs.add("passage without an offset put after the one before", file, element.sourceline)
            offset = following
        elif offset != following and _count_fits(element, text, following) > _count_fits(element, text, offset):
            repairs.add("passage with a wrong offset put after the one before", file, element.sourceline)
            offset = following
        units[element] = Unit(offset, Mentions(text, label_map, repairs, file))
        following = offset + len(text) + 1

    by_offset = sorted(units.values(), key=lambda unit: unit.offset)
    for annotation in document.iter("{*}annotation"):
        _read_annotation(annotation, units.get(annotation.getparent()), by_offset, label_map, repairs, file)

    whole = Mentions(" ".join(unit.mentions.text for unit in units.values()), label_map, repairs, file)
    start = 0
    for unit in units.values():
        whole.spans |= {
            span._replace(start=start + span.start, end=start + span.end): line
            for span, line in unit.mentions.spans.items()
        }
        start += len(unit.mentions.text) + 1
    return whole


def _count_fits(unit: etree._Element, text: str, offset: int) -> int:
    """Returns how many annotations of a passage have their text where they say, if the passage begins at `offset`."""
    fits = 0
    for annotation in unit.iterfind("{*}annotation"):
        location, copy = annotation.find("{*}location"), annotation.findtext("{*}text")
        if location is not None and copy:
            start = to_int(location.get("offset")) - offset
            fits += start >= 0 and text.startswith(copy, start)
    return fits


def _read_annotation(
    annotation: etree._Element,
    unit: Unit | None,
    by_offset: list[Unit],
    label_map: LabelMap | None,
    repairs: Repairs,
    file: Path,
) -> None:
    line = annotation.sourceline or 1
    infons = {infon.get("key"): (infon.text or "").strip() for infon in annotation.iterfind("{*}infon")}
    label = infons.get("type")
    if not label:
        repairs.add("span without a type dropped", file, line)
        return
    if map_label(label, label_map, f"{file}:{line}") is None:
        return
    if infons.get("CompositeRole") == "IndividualMention":
        repairs.add("part of a composite span dropped", file, line)
        return
    locations = [
        (to_int(location.get("offset")), to_int(location.get("length")))
        for location in annotation.iterfind("{*}location")
    ]
    if unit is None and locations:  # an annotation of the document, or of a passage of sentences
        place = bisect_right(by_offset, min(locations)[0], key=lambda unit: unit.offset)
        unit = by_offset[place - 1] if place else None
    if unit is None or not locations or min(min(location) for location in locations) < 0:
        repairs.add("span with wrong offsets dropped", file, line)
        return
    pieces: Pieces = tuple((start - unit.offset, start - unit.offset + length) for start, length in locations)
    unit.mentions.add(pieces, label, annotation.findtext("{*}text"), line)
