"""Studies of ClinicalTrials.gov as its API, version 2, gives them (JSON); the legacy XML is not read."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from medmt5.corpus.document import Dropped, Entries, RawDocument
from medmt5.errors import InputError

TEXTS = (
    ("identificationModule", "briefTitle"),
    ("identificationModule", "officialTitle"),
    ("descriptionModule", "briefSummary"),
    ("descriptionModule", "detailedDescription"),
    ("eligibilityModule", "eligibilityCriteria"),
)


def read(stream: BinaryIO, name: str, lang: str) -> Entries:
    """Yields a document for each study of a page (`{"studies": […]}`), a list, or a file of one study."""
    try:
        content = json.load(stream)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}:{error.lineno}: not JSON: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{name}: not JSON in UTF-8: {error}") from error
    studies = content.get("studies", [content]) if isinstance(content, dict) else content
    if not isinstance(studies, list) or not all(isinstance(s, dict) and "protocolSection" in s for s in studies):
        raise InputError(f"{name}: not a page of studies (API v2): every study must hold a protocolSection")
    for i, study in enumerate(studies, 1):
        texts = [text for path in TEXTS if (text := string(study["protocolSection"], *path))]
        nct_id = string(study["protocolSection"], "identificationModule", "nctId") or f"{name}:{i}"
        yield RawDocument(nct_id, "\n\n".join(dict.fromkeys(texts))) if texts else Dropped("no_text")


def string(value: Any, *path: str) -> str:
    """Returns the string at `path` in nested dicts, "" where there is none.

    >>> string({"a": {"b": " x "}}, "a", "b"), string({"a": 1}, "a", "b")
    ('x', '')
    """
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value.strip() if isinstance(value, str) else ""
