"""What a request to label may say, and how it is refused: plain sentences that never repeat what the client sent."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from medmt5 import languages

FIELDS = ("text", "texts", "labels", "lang")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the service takes on.

    Attributes:
      max_bytes: of the body of a request.
      max_documents: of a request.
      max_requests: being read, waiting or labelled at once; the next one is told to come back.
      timeout_seconds: from the whole body to the answer.
      body_seconds: from the head of a request to its whole body.
    """

    max_bytes: int = 1 << 18
    max_documents: int = 64
    max_requests: int = 256
    timeout_seconds: float = 60
    body_seconds: float = 10


@dataclasses.dataclass(frozen=True)
class Document:
    """A text, the labels to look for, in the service's order, and the language whose abbreviations end no sentence."""

    text: str
    labels: tuple[str, ...]
    lang: str


class Refused(Exception):
    """A request that is answered with an error: an HTTP status, a sentence for the client, headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


def parse_documents(body: bytes, offered: Sequence[str], max_documents: int) -> list[Document]:
    """Returns the documents of a JSON body {"text": str} or {"texts": [str]}, with "labels" and "lang" or without.

    >>> parse_documents(b'{"text": "No asthma.", "labels": ["Disease"]}', ["Disease", "Drug"], 64)
    [Document(text='No asthma.', labels=('Disease',), lang='en')]

    Args:
      offered: the labels of the service, and of a request that names none.

    Raises:
      Refused: 400 for what is no JSON, 413 for too many documents, 422 for a field that is not as it should be.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise Refused(400, "The body is not JSON in UTF-8.") from None
    if not isinstance(request, dict):
        raise Refused(422, 'The body must be an object such as {"text": "…"}.')
    if not request.keys() <= set(FIELDS):
        raise Refused(422, f"The object has a field that is none of {', '.join(FIELDS)}.")
    texts = _texts(request)
    if len(texts) > max_documents:
        raise Refused(413, f"texts has {len(texts)} documents, a request may have {max_documents}; send several.")
    labels, lang = _labels(request, offered), _language(request)
    return [Document(text, labels, lang) for text in texts]


def _texts(request: Mapping[str, Any]) -> list[str]:
    if ("text" in request) == ("texts" in request):
        raise Refused(422, "Give either text, one string, or texts, a list of strings.")
    if "text" in request:
        named = {"text": request["text"]}
    elif isinstance(request["texts"], list):
        named = {f"texts[{i}]": text for i, text in enumerate(request["texts"])}
    else:
        raise Refused(422, "texts must be a list of strings.")
    for name, text in named.items():
        if not isinstance(text, str):
            raise Refused(422, f"{name} must be a string.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise Refused(422, f"{name} has half of a surrogate pair, which is no character.")
    return list(named.values())


def _labels(request: Mapping[str, Any], offered: Sequence[str]) -> tuple[str, ...]:
    labels = request.get("labels", offered)
    if not isinstance(labels, Sequence) or isinstance(labels, str) or not labels:
        raise Refused(422, "labels must be a list of one or more strings; leave it out for all labels.")
    for i, label in enumerate(labels):
        if not isinstance(label, str):
            raise Refused(422, f"labels[{i}] must be a string.")
        if label not in offered:
            raise Refused(422, f"labels[{i}] is unknown here; this service has {', '.join(offered)}.")
    return tuple(label for label in offered if label in labels)


def _language(request: Mapping[str, Any]) -> str:
    lang = request.get("lang", "en")
    if not isinstance(lang, str):
        raise Refused(422, "lang must be a string.")
    if lang not in languages.codes():
        raise Refused(422, f"lang is unknown here; it is one of {', '.join(languages.codes())}.")
    return lang
