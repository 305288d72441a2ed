"""A labelled sentence, in the two forms that others need at once: words with tags, text with character spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from medmt5.annotation.repairs import Repairs
from medmt5.annotation.spans import Span, spans_to_tags, tags_to_spans, to_characters, to_words
from medmt5.annotation.words import split_words
from medmt5.errors import InputError


@dataclass(frozen=True)
class LabelledExample:
    """One sentence.

    Attributes:
      id: unique within its data set.
      lang: language code.
      words, tags: the words and their IOB2 tags, equally many.
      text: the sentence.
      spans: the same spans as the tags, in characters of `text`.
      document: id of the document it stands in, its own id where the format has none: what is independent of what.
    """

    id: str
    lang: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    text: str
    spans: tuple[Span, ...]
    document: str

    def __post_init__(self) -> None:
        if len(self.words) != len(self.tags):
            raise InputError(
                f"example {self.id}: every word needs one tag; there are {len(self.words)} and {len(self.tags)}"
            )

    @classmethod
    def from_words(
        cls, id: str, lang: str, words: Sequence[str], tags: Sequence[str], document: str | None = None
    ) -> LabelledExample:
        """Returns the example of tagged words (any scheme of `tags_to_spans`); its text is the words joined by a space.

        >>> LabelledExample.from_words("1", "en", ["No", "asthma"], ["O", "B-Disease"]).spans
        (Span(start=3, end=9, label='Disease'),)
        """
        ends = list(accumulate(len(word) + 1 for word in words))
        offsets = [(end - len(word) - 1, end - 1) for word, end in zip(words, ends, strict=True)]
        spans = tags_to_spans(tags)
        return cls(
            id,
            lang,
            tuple(words),
            tuple(spans_to_tags(spans, len(tags))),
            " ".join(words),
            tuple(to_characters(spans, offsets)),
            document or id,
        )

    @classmethod
    def from_text(
        cls, id: str, lang: str, text: str, spans: Iterable[Span], repairs: Repairs, document: str | None = None
    ) -> LabelledExample:
        """Returns the example of a text with character spans, made whole words; `repairs` counts under the id.

        >>> LabelledExample.from_text("1", "en", "No asthma.", [Span(3, 9, "Disease")], Repairs()).tags
        ('O', 'B-Disease', 'O')
        """
        offsets = split_words(text)
        word_spans, problems = to_words(spans, offsets)
        for problem in problems:
            repairs.add(problem.kind, id)
        words = tuple(text[start:end] for start, end in offsets)
        tags = tuple(spans_to_tags(word_spans, len(words)))
        return cls(id, lang, words, tags, text, tuple(to_characters(word_spans, offsets)), document or id)

    @property
    def word_spans(self) -> list[Span]:
        """The spans in words."""
        return tags_to_spans(self.tags)

    def to_json(self) -> dict[str, Any]:
        """Returns the labelled example of docs/architecture.md, ready for `json.dumps`."""
        return {
            "id": self.id,
            "lang": self.lang,
            "words": list(self.words),
            "tags": list(self.tags),
            "text": self.text,
            "spans": [list(span) for span in self.spans],
            "document": self.document,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LabelledExample:
        """Returns the example that `to_json` gave; InputError if a field is missing."""
        try:
            return cls(
                fields["id"],
                fields["lang"],
                tuple(fields["words"]),
                tuple(fields["tags"]),
                fields["text"],
                tuple(Span(*span) for span in fields["spans"]),
                fields["document"],
            )
        except KeyError as error:
            raise InputError(
                f"a labelled example must have the field {error}; this one has {', '.join(fields)}"
            ) from None
