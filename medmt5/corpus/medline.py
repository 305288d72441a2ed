"""MEDLINE and PubMed citations (MedlineCitationSet and PubmedArticleSet XML, every year's DTD).

An article may hold text in several languages: its abstract in English, the original title as VernacularTitle, and
the original abstract as OtherAbstract. What is not in the language asked for is left to that language's own reading.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import BinaryIO

from lxml import etree

from medmt5.corpus.document import Dropped, Entries, RawDocument

# MEDLINE's language codes (ISO 639-2/B) as ISO 639-1; https://www.nlm.nih.gov/bsd/language_table.html
LANGUAGES = {
    "ara": "ar", "bul": "bg", "cat": "ca", "chi": "zh", "cze": "cs", "dan": "da", "dut": "nl", "eng": "en",
    "est": "et", "fin": "fi", "fre": "fr", "ger": "de", "glg": "gl", "gre": "el", "heb": "he", "hrv": "hr",
    "hun": "hu", "ice": "is", "ita": "it", "jpn": "ja", "kor": "ko", "lav": "lv", "lit": "lt", "nor": "no",
    "per": "fa", "pol": "pl", "por": "pt", "rum": "ro", "rus": "ru", "slo": "sk", "slv": "sl", "spa": "es",
    "srp": "sr", "swe": "sv", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip
# External files are never fetched, entities never expanded: a citation needs neither.
SAFE_XML = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
NO_TITLE = "Not Available"


def read(stream: BinaryIO, name: str, lang: str) -> Entries:
    """Yields a document for each article that has text in `lang`: titles, then the sections of the abstracts."""
    for _, citation in etree.iterparse(stream, tag=("MedlineCitation", "PubmedArticle"), **SAFE_XML):
        if citation.tag == "MedlineCitation":
            texts = texts_by_language(citation)
            pmid = citation.findtext("PMID", default="")
            if lang in texts:
                journal = citation.findtext("Article/Journal/Title", default="")
                yield RawDocument(f"pubmed:{pmid}", "\n\n".join(texts[lang]), {"journal": journal})
            else:
                yield Dropped("other_language" if texts else "no_text")
        release(citation)


def texts_by_language(citation: etree._Element) -> dict[str, list[str]]:
    """Returns language -> titles and abstracts of one MedlineCitation.

    NLM puts a translated title in brackets and then gives the abstract in English; an article without brackets is in
    its own language throughout.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    own = language(citation.findtext("Article/Language"))
    title = flat(citation.find("Article/ArticleTitle"))
    vernacular = flat(citation.find("Article/VernacularTitle"))
    bracketed = re.fullmatch(r"\[(.*)\]\.?", title)
    main = "en" if bracketed or vernacular else own
    texts[main].append(bracketed[1] if bracketed else title)
    texts[own].append(vernacular)
    texts[main].append(abstract(citation.find("Article/Abstract")))
    for other in citation.findall("OtherAbstract"):
        texts[language(other.get("Language"))].append(abstract(other))
    present = {lang: [part for part in parts if part and part.rstrip(".") != NO_TITLE] for lang, parts in texts.items()}
    return {lang: parts for lang, parts in present.items() if parts}


def language(code: str | None) -> str:
    """Returns the ISO 639-1 code for one of MEDLINE's: English where it gives none; unknown ones stay as they are.

    >>> language("fre"), language(None), language("und")
    ('fr', 'en', 'und')
    """
    return LANGUAGES.get(code or "eng", code or "en")


def abstract(element: etree._Element | None) -> str:
    """Returns the sections of an abstract, a line each, after their labels."""
    sections = [] if element is None else element.findall("AbstractText")
    lines = ((section.get("Label"), flat(section)) for section in sections)
    return "\n".join(f"{label}: {text}" if label and label != "UNLABELLED" else text for label, text in lines if text)


def flat(element: etree._Element | None) -> str:
    """Returns the text of an element and what it holds, on one line."""
    return "" if element is None else " ".join(element.xpath("string()").split())


def release(element: etree._Element) -> None:
    """Frees an element that has been read, and those before it: a whole file does not fit in memory."""
    element.clear()
    while element.getprevious() is not None:
        del element.getparent()[0]
