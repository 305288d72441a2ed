"""Raw pre-training text of the sample, in real formats: PubMed, ClinicalTrials.gov, Wikipedia dumps, plain text.

All terms occur here, those of dev and test included, in sentences that tell what they are. What real files have is
there as well: duplicates, an empty file, CRLF, decomposed accents, runs of empty lines, abstracts in other languages,
redirects.
"""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from medmt5.sample.phrases import LANGUAGES, Phrases, Term

ARTICLES, NOTES, STUDIES, STUDIES_PER_PAGE = 220, 140, 80, 20
MEDLINE_LANGUAGE = {"en": "eng", "es": "spa", "fr": "fre", "it": "ita"}
SECTIONS = ("background", "methods", "results", "conclusions")


def write_raw(directory: Path, seed: int) -> None:
    """Writes `<lang>/pubmed`, `<lang>/wikipedia`, `<lang>/text` and `en/clinicaltrials` below `directory`."""

    def phrases(source: str, lang: str) -> Phrases:
        return Phrases(lang, None, random.Random(f"{seed} {source} {lang}"))

    for number, lang in enumerate(LANGUAGES):
        translations = {other: phrases(f"pubmed {lang}", other) for other in LANGUAGES}
        articles = element("PubmedArticleSet")
        for i in range(ARTICLES):
            articles.append(article(30_000_000 + 10_000 * number + i, i, lang, translations))
        write_xml(articles, directory / lang / "pubmed" / "articles.xml")
        write_xml(dump(lang, phrases("wikipedia", lang)), directory / lang / "wikipedia" / "pages-articles.xml")
        for name, data in notes(phrases("text", lang)).items():
            write(directory / lang / "text" / f"{name}.txt", data)
    studies = phrases("clinicaltrials", "en")
    for page in range(STUDIES // STUDIES_PER_PAGE):
        first = page * STUDIES_PER_PAGE
        content = {"studies": [study(i, studies) for i in range(first, first + STUDIES_PER_PAGE)]}
        write(directory / "en" / "clinicaltrials" / f"page-{page}.json", json.dumps(content, indent=1).encode())


def article(pmid: int, i: int, lang: str, phrases: dict[str, Phrases]) -> Element:
    """Returns a PubmedArticle. Most are in one language; some are as NLM gives those in other languages than English.

    NLM's have the title translated in brackets, the original as VernacularTitle, an English abstract, and the
    original as OtherAbstract.
    """
    translated = lang != "en" and i % 4 == 0
    main = phrases["en" if translated else lang]
    children = [
        element("Journal", element("Title", "Sample Journal of Medicine")),
        element("ArticleTitle", f"[{title(main)}]." if translated else f"{title(main)}."),
        abstract("Abstract", main),
        element("Language", MEDLINE_LANGUAGE[lang]),
    ]
    if translated:
        children.append(element("VernacularTitle", f"{title(phrases[lang])}."))
    citation = element("MedlineCitation", element("PMID", str(pmid)), element("Article", *children), Status="MEDLINE")
    other = lang if translated else ("es", "fr", "it")[i % 3] if lang == "en" and i % 5 == 0 else None
    if other:
        citation.append(abstract("OtherAbstract", phrases[other], Type="Publisher", Language=MEDLINE_LANGUAGE[other]))
    return element("PubmedArticle", citation)


def title(phrases: Phrases) -> str:
    return phrases.sentence(phrases.choose("text", "title")).text


def abstract(tag: str, phrases: Phrases, **attributes: str) -> Element:
    labels = zip(SECTIONS, phrases.tables["sections"], strict=True)
    texts = [element("AbstractText", paragraph(phrases, 3, "text", section), Label=label) for section, label in labels]
    return element(tag, *texts, **attributes)


def paragraph(phrases: Phrases, most: int, *sections: str) -> str:
    """Returns at most `most` and at least two sentences by different patterns of a section."""
    patterns = list(dict.fromkeys(phrases.choose(*sections) for _ in range(phrases.rng.randint(2, most) + 1)))[:most]
    return " ".join(phrases.sentence(pattern).text for pattern in patterns)


def notes(phrases: Phrases) -> dict[str, bytes]:
    """Returns file name -> content of clinical notes, the awkward ones among them."""

    def lines() -> str:
        labelled = [phrases.sentence(phrases.choose("labelled", part)).text for part in ("train", "both", "both")]
        facts = paragraph(phrases, 4, "facts", phrases.rng.choice(("disease", "drug")))
        return "\n\n".join((paragraph(phrases, 5, "text", "notes"), " ".join(labelled), facts))

    texts = [f"{lines()}\n" for _ in range(NOTES)]
    awkward = {
        "copy-exact": texts[0],
        "copy-case-and-spaces": texts[1].upper().replace(" ", "  \n"),
        "decomposed": unicodedata.normalize("NFD", lines()),
        "empty": "",
        "empty-lines": lines().replace("\n\n", "\n" * 12),
        "line-ends": lines().replace("\n", "\r\n"),
        "control-characters": lines().replace(". ", ".\x0b\x00 "),
        "short": "Ok.\n",
        "figures": " ".join(str(phrases.rng.randint(100, 99_999)) for _ in range(80)),
        "repeated-lines": f"{lines()}\n" * 4,
        "tags": f"{lines()} <Disease> </s> <extra_id_0>\n",
    }
    named = {f"note-{i:03d}": text for i, text in enumerate(texts)} | {f"zz-{k}": v for k, v in awkward.items()}
    return {name: text.encode() for name, text in named.items()}


def study(i: int, phrases: Phrases) -> dict[str, Any]:
    """Returns a record in the form of ClinicalTrials.gov's API, version 2."""
    criteria = "\n".join(f"* {phrases.sentence(phrases.choose('text', 'methods')).text}" for _ in range(3))
    return {
        "protocolSection": {
            "identificationModule": {"nctId": f"NCT{90_000_000 + i}", "briefTitle": title(phrases)},
            "statusModule": {"overallStatus": "COMPLETED"},
            "descriptionModule": {
                "briefSummary": paragraph(phrases, 4, "text", "background"),
                "detailedDescription": paragraph(phrases, 5, "facts", "disease"),
            },
            "eligibilityModule": {"eligibilityCriteria": f"Inclusion Criteria:\n\n{criteria}", "sex": "ALL"},
        },
        "hasResults": False,
    }


def dump(lang: str, phrases: Phrases) -> Element:
    """Returns a MediaWiki export with an article on every disease and drug, a redirect and a talk page."""
    root = element("mediawiki", element("siteinfo", element("sitename", "Sample")), **{"xml:lang": lang})
    root.set("xmlns", "http://www.mediawiki.org/xml/export-0.11/")
    pages: list[tuple[str, str, str]] = [
        (term.text[0].upper() + term.text[1:], "0", wikitext(term, phrases))
        for group in phrases.terms.values()
        for term in group
    ]
    redirect, talk = pages[0][0].upper(), f"Talk:{pages[0][0]}"
    pages += [(redirect, "0", f"#REDIRECT [[{pages[0][0]}]]"), (talk, "1", paragraph(phrases, 5, "text", "notes"))]
    for number, (name, namespace, text) in enumerate(pages, 1):
        page = element("page", element("title", name), element("ns", namespace), element("id", str(number)))
        if name == redirect:
            page.append(element("redirect", title=pages[0][0]))
        page.append(element("revision", element("id", str(number)), element("text", text, **{"xml:space": "preserve"})))
        root.append(page)
    return root


def wikitext(term: Term, phrases: Phrases) -> str:
    """Returns an article about a term in wiki markup."""
    facts = phrases.rng.sample(phrases.tables["facts"][term.slot], 6)
    text = [phrases.sentence(pattern, term).text for pattern in facts]
    heading = phrases.rng.choice(phrases.tables["headings"])
    other = phrases.rng.choice(phrases.terms["disease"]).text
    site, file = f"{{{{lang|x|{term.about}}}}}", f"[[File:{term.slot}.jpg|thumb|left|{term.kind} [[{other}]]]]"
    text[0] = text[0].replace(term.text, f"'''{term.text}'''", 1)
    text[1] = text[1].replace(term.text, f"[[{term.text}|{term.text}]]", 1)
    text[0] += '<ref name="a">{{cite book|title=Sample|year=2001}}</ref>'
    text[1] += "<ref name='a' />"
    return (
        f"{{{{Infobox {term.slot}\n| name = {term.text}\n| about = {site}\n}}}}\n{file}\n"
        f"{text[0]} {text[1]}\n\n{text[2]} {text[3]}\n== {heading} ==\n* {text[4]}\n* ''{text[5]}''\n<!-- checked -->\n"
        f'{{| class="wikitable"\n! a !! b\n|-\n| 1 || 2\n|}}\n[[Category:{term.slot}]]\n'
    )


def element(tag: str, *content: str | Element, **attributes: str) -> Element:
    """Returns an XML element that holds text or other elements."""
    made = Element(tag, attributes)
    for item in content:
        if isinstance(item, str):
            made.text = item
        else:
            made.append(item)
    return made


def write_xml(root: Element, path: Path) -> None:
    ElementTree.indent(root, " ")
    write(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
