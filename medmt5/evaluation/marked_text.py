"""Text with its spans marked: as tagged plain text, or as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jinja2 import Environment

from medmt5.annotation.spans import Span

# Hues apart from each other for colour-blind readers too (Okabe & Ito); each mark also names its label.
HUES = (210, 25, 150, 50, 330, 190, 270, 100)
PAGE_START = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Labelled text</title>
<style>
  :root { color-scheme: light dark; font: 1rem/1.9 system-ui, sans-serif; }
  body { max-width: 45rem; margin: 2rem auto; padding: 0 1rem; }
  p { overflow-wrap: anywhere; }
  mark { background: hsl(var(--hue) 75% 85%); color: #111; border-radius: .3em; padding: .1em .3em; }
  mark small { font-weight: 600; margin-left: .35em; color: hsl(var(--hue) 80% 22%); }
</style>
"""
PARAGRAPH = Environment(autoescape=True).from_string(
    '<p lang="">{% for text, label in parts %}{% if label %}<mark style="--hue: {{ hues[label] }}">{{ text }}'
    "<small>{{ label }}</small></mark>{% else %}{{ text }}{% endif %}{% endfor %}</p>\n"
)
PAGE_END = "</html>\n"


def render_text(text: str, spans: Iterable[Span]) -> str:
    """Returns the text with tags around its character spans, for reading, not for parsing.

    >>> render_text("No asthma.", [Span(3, 9, "Disease")])
    'No <Disease>asthma</Disease>.'
    """
    return "".join(f"<{label}>{part}</{label}>" if label else part for part, label in _parts(text, spans))


def render_paragraph(text: str, spans: Iterable[Span], labels: Sequence[str]) -> str:
    """Returns HTML of one document, to stand between `PAGE_START` and `PAGE_END`; everything of it is escaped.

    >>> render_paragraph("A & B", [], []).strip()
    '<p lang="">A &amp; B</p>'

    Args:
      labels: those that may occur; they share out the hues.
    """
    hues = {label: HUES[i % len(HUES)] for i, label in enumerate(labels)}
    return PARAGRAPH.render(parts=_parts(text, spans), hues=hues)


def _parts(text: str, spans: Iterable[Span]) -> Iterator[tuple[str, str | None]]:
    position = 0
    for start, end, label in sorted(spans):
        yield text[position:start], None
        yield text[start:end], label
        position = end
    yield text[position:], None
