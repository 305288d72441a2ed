"""Articles of MediaWiki dumps (`pages-articles.xml`), their markup reduced to plain text.

The reduction is made of a dozen replacements: templates are dropped, not expanded, and tables with them, since what is
left of either is seldom a sentence.
"""

from __future__ import annotations

import html
import re
from typing import BinaryIO

from lxml import etree

from medmt5.corpus.document import Dropped, Entries, RawDocument
from medmt5.corpus.medline import SAFE_XML, release

ARTICLES = "0"  # the namespace of articles; the others hold talk, templates, categories …
MAX_NESTING = 40  # deeper markup is a mistake or an attack, and is dropped bracket by bracket

INVISIBLE = re.compile(
    r"<!--.*?(?:-->|\Z)|<(ref|math|gallery|timeline|score|imagemap|syntaxhighlight)\b(?:[^<>]*/>|[^<>]*>.*?</\1\s*>)",
    re.DOTALL | re.IGNORECASE,
)
TEMPLATE = re.compile(r"\{\{\{[^{}]*\}\}\}|\{\{[^{}]*\}\}")
TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
# [[target|shown]], innermost first; a target with a colon is a file, a category or another wiki's page.
LINK = re.compile(r"\[\[(?P<target>[^\[\]|]*)(?:\|(?P<rest>[^\[\]]*))?\]\]")
EXTERNAL_LINK = re.compile(r"\[(?:https?:)?//[^\s\]]+\s*([^\]]*)\]")
TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,300}>")
HEADING = re.compile(r"^=+[ \t]*(.*?)[ \t]*=+[ \t]*$", re.MULTILINE)
LIST_ITEM = re.compile(r"^[*#:;]+[ \t]*", re.MULTILINE)
LEFTOVER = re.compile(r"'{2,}|\{\{|\}\}|\{\||\|\}|\[\[|\]\]|__[A-Z]+__")


def read(stream: BinaryIO, name: str, lang: str) -> Entries:
    """Yields a document for each article: title, empty line, text. Redirects and other namespaces are dropped."""
    for _, page in etree.iterparse(stream, tag="{*}page", **SAFE_XML):
        title = page.findtext("{*}title", default="")
        text = page.findtext("{*}revision/{*}text", default="")
        if page.findtext("{*}ns", default=ARTICLES) != ARTICLES:
            yield Dropped("not_an_article")
        elif page.find("{*}redirect") is not None or text.lstrip().startswith("#"):
            yield Dropped("redirect")
        elif plain := plain_text(text):
            page_id = page.findtext("{*}id", default=title)
            yield RawDocument(f"{lang}wiki:{page_id}", f"{title}\n\n{plain}", {"title": title})
        else:
            yield Dropped("no_text")
        release(page)


def plain_text(markup: str) -> str:
    """Returns wiki markup as plain text.

    >>> plain_text("'''Otitis'''<ref>x</ref> is {{a|{{b}}}}an [[a|ear]] [[illness]].\\n== See ==\\n[[File:a.png|b]]")
    'Otitis is an ear illness.\\nSee'
    """
    text = INVISIBLE.sub("", markup)
    text = innermost_first(TABLE, "", innermost_first(TEMPLATE, "", text))
    text = innermost_first(LINK, _shown, text)
    text = EXTERNAL_LINK.sub(r"\1", text)
    text = html.unescape(TAG.sub("", text))
    text = HEADING.sub(r"\1", text)
    text = LEFTOVER.sub("", LIST_ITEM.sub("", text))
    lines = (re.sub(r"[ \t\xa0]+", " ", line).strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def innermost_first(pattern: re.Pattern[str], replacement, text: str) -> str:
    """Returns `text` with `pattern`, which matches markup without its like inside, replaced until none is left."""
    for _ in range(MAX_NESTING):
        text, count = pattern.subn(replacement, text)
        if not count:
            break
    return text


def _shown(link: re.Match[str]) -> str:
    target, rest = link["target"], link["rest"]
    if ":" in target.lstrip(":") and not target.startswith(":"):
        return ""
    return target.lstrip(":") if rest is None else rest
