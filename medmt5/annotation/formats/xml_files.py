"""Parses XML files from elsewhere: no entity is expanded, nothing is loaded, damage is repaired and counted."""

from __future__ import annotations

import os
import re

from lxml import etree

from medmt5.annotation.formats.lines import decode
from medmt5.annotation.repairs import Repairs
from medmt5.errors import InputError

SAFE_XML = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
DECLARED = re.compile(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]{0,100}\bencoding\s*=\s*["']([\w.-]+)""")
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def parse_xml(data: bytes, file: str | os.PathLike, repairs: Repairs) -> etree._Element:
    """Returns the root; InputError if the content is not well-formed XML.

    In UTF-8, bytes that are none are read as `lines.decode` does, and characters that XML forbids become U+FFFD, so
    that offsets hold.
    """
    declared = DECLARED.match(data)
    encoding = declared[1].decode().lower() if declared else "utf-8"
    if encoding in ("utf-8", "utf8", "us-ascii") and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = decode(data, file, repairs)
        allowed = FORBIDDEN.sub("\ufffd", text)
        if allowed != text:
            repairs.add("character forbidden in XML replaced", file)
        data, encoding = allowed.encode(), "utf-8"
    try:
        return etree.fromstring(data, etree.XMLParser(encoding=encoding if declared else None, **SAFE_XML))
    except (etree.XMLSyntaxError, LookupError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = os.fspath(file) if line is None else f"{os.fspath(file)}:{line}"
        raise InputError(f"{where}: the file must be well-formed XML; get it again, or correct it there") from None


def local_name(element: etree._Element) -> str:
    """Returns the name of an element without its name space, "" for comments and the like."""
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


def to_int(value: str | None) -> int:
    """Returns a count as it stands in a file, -1 if it is none, which is no offset of any text."""
    return int(value) if value and re.fullmatch(r"\s*[0-9]{1,9}\s*", value) else -1
