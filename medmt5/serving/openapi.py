"""What the service says of itself at /openapi.json: OpenAPI 3.1, with its own labels, languages and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medmt5 import __version__
from medmt5.serving.requests import Limits


def describe_service(labels: Sequence[str], codes: Sequence[str], limits: Limits) -> dict[str, Any]:
    """Returns the document; `codes` are those of the languages."""
    label = {"type": "string", "enum": list(labels)}
    common = {
        "labels": {"type": "array", "items": label, "minItems": 1, "description": "Default: all of them."},
        "lang": {
            "type": "string",
            "enum": list(codes),
            "default": "en",
            "description": "Whose abbreviations end no sentence.",
        },
    }
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    texts = {"type": "array", "items": {"type": "string"}, "maxItems": limits.max_documents}
    schemas = {
        "One": _object({"text": {"type": "string"}, **common}, required=["text"]),
        "Several": _object({"texts": texts, **common}, required=["texts"]),
        "Span": _object(
            {
                "start": {"type": "integer", "minimum": 0, "description": "Unicode code points of text."},
                "end": {"type": "integer", "minimum": 1, "description": "Exclusive."},
                "label": label,
                "text": {"type": "string"},
                "probability": probability | {"description": "Of the span, among the best outputs."},
                "local_probability": probability | {"description": "Of the span, at its place."},
            }
        ),
        "Document": _object(
            {
                "text": {"type": "string", "description": "As it was sent."},
                "spans": {"type": "array", "items": _reference("Span")},
                "score": {
                    "type": ["number", "null"],
                    "description": "Mean log-probability a token, over sentences; null without any.",
                },
                "sentences": {"type": "integer", "minimum": 0},
                "windows": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "More than sentences if some were longer than the model reads at once.",
                },
            }
        ),
        "Labelled": _object({"documents": {"type": "array", "items": _reference("Document")}}),
        "Ready": _object(
            {
                "status": {"const": "ready"},
                "step": {"type": "integer", "minimum": 0, "description": "Of the checkpoint."},
                "labels": {"type": "array", "items": label},
                "requests": {"type": "integer", "minimum": 0, "description": "Being read, waiting or labelled."},
                "waiting": {"type": "integer", "minimum": 0, "description": "Sentences in no batch yet."},
            }
        ),
        "Loading": _object({"status": {"const": "loading"}}),
        "Error": _object({"error": {"type": "string", "description": "A sentence; never a part of a text."}}),
    }
    errors = {
        "400": "The body is not JSON in UTF-8.",
        "408": f"The body did not arrive within {limits.body_seconds:g} seconds.",
        "413": f"More than {limits.max_bytes:,} bytes or {limits.max_documents} documents.",
        "415": "The header Content-Type is not application/json.",
        "421": "The header Host does not name this service.",
        "422": "A field is missing, unknown, of a wrong type or value; the error names it.",
        "500": "Labelling failed.",
    }
    later = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    busy = "The model is being loaded, too many requests wait, or there was no answer in time."
    body = {"oneOf": [_reference("One"), _reference("Several")]}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "medmt5",
            "version": __version__,
            "description": "Labels spans of clinical text. Not a medical device.",
        },
        "paths": {
            "/label": {
                "post": {
                    "operationId": "label",
                    "summary": "Label one text or several.",
                    "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
                    "responses": {
                        "200": _answer("The documents, in the order of the texts.", "Labelled"),
                        **{status: _answer(description, "Error") for status, description in errors.items()},
                        "503": {
                            **_answer(busy, "Error"),
                            "headers": later,
                        },
                    },
                }
            },
            "/health": {
                "get": {
                    "operationId": "health",
                    "summary": "Whether the model is ready.",
                    "responses": {
                        "200": _answer("The model is loaded, and a program is compiled.", "Ready"),
                        "503": {**_answer("The model is being loaded.", "Loading"), "headers": later},
                    },
                }
            },
        },
        "components": {"schemas": schemas},
    }


def _object(properties: dict[str, Any], required: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns the schema of an object that has these properties and no other; without `required`, all of them."""
    needed = list(properties if required is None else required)
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _reference(schema)}}}
