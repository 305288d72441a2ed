import io

import pytest
from lxml import etree

from medmt5.corpus import medline
from medmt5.corpus.document import Dropped, RawDocument

ARTICLE = """<PubmedArticle><MedlineCitation><PMID Version="1">7</PMID><Article>
<Journal><Title>Annals</Title></Journal>
<ArticleTitle>{title}</ArticleTitle>
<Abstract><AbstractText Label="AIM">To <i>see</i> &lt; 5.</AbstractText><AbstractText>Seen.</AbstractText>
<CopyrightInformation>(c) X</CopyrightInformation></Abstract>
<Language>{language}</Language>{vernacular}</Article>{other}</MedlineCitation>
<PubmedData><ReferenceList/></PubmedData></PubmedArticle>"""
ENGLISH = ARTICLE.format(title="On otitis.", language="eng", vernacular="", other="")
SPANISH = ARTICLE.format(
    title="[On otitis].",
    language="spa",
    vernacular="<VernacularTitle>Sobre la otitis.</VernacularTitle>",
    other='<OtherAbstract Type="Publisher" Language="spa"><AbstractText>Se vio.</AbstractText></OtherAbstract>',
)
NOT_NLM = ARTICLE.format(title="Sobre la otitis.", language="spa", vernacular="", other="")


def read(articles, lang):
    xml = f"<PubmedArticleSet>{articles}</PubmedArticleSet>"
    return list(medline.read(io.BytesIO(xml.encode()), "a.xml", lang))


def test_title_and_labelled_sections_are_the_text_and_the_copyright_line_is_not():
    expected = RawDocument("pubmed:7", "On otitis.\n\nAIM: To see < 5.\nSeen.", {"journal": "Annals"})
    assert read(ENGLISH, "en") == [expected]


def test_an_article_gives_each_language_its_own_part():
    (english,), (spanish,) = read(SPANISH, "en"), read(SPANISH, "es")
    assert english.text == "On otitis\n\nAIM: To see < 5.\nSeen."
    assert spanish.text == "Sobre la otitis.\n\nSe vio."
    assert read(SPANISH, "fr") == [Dropped("other_language")]


def test_an_article_whose_title_is_not_translated_is_in_its_own_language():
    assert read(NOT_NLM, "en") == [Dropped("other_language")]
    assert read(NOT_NLM, "es")[0].text.startswith("Sobre la otitis.")


def test_a_title_that_nlm_lacks_is_no_text():
    xml = "<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><ArticleTitle>[Not Available].</ArticleTitle>"
    xml += "<Language>fre</Language></Article></MedlineCitation></PubmedArticle>"
    assert read(xml, "en") == [Dropped("no_text")]


def test_the_old_citation_sets_are_read_as_well():
    inner = ENGLISH[ENGLISH.index("<MedlineCitation>") : ENGLISH.index("<PubmedData>")]
    xml = f"<MedlineCitationSet>{inner}{inner}</MedlineCitationSet>"
    assert [d.id for d in medline.read(io.BytesIO(xml.encode()), "a.xml", "en")] == ["pubmed:7"] * 2


def test_what_was_read_is_freed(monkeypatch):
    release, freed = medline.release, []

    def watched(element):
        release(element)
        freed.append(len(element) == 0 and element.getprevious() is None)

    monkeypatch.setattr(medline, "release", watched)
    read(ENGLISH * 50, "en")
    assert freed == [True] * 100


def test_an_external_entity_is_not_read(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("swordfish", encoding="utf-8")
    xml = f'<!DOCTYPE s [<!ENTITY x SYSTEM "{secret.as_uri()}">]><s>{ENGLISH.replace("Seen.", "Seen &x;.")}</s>'
    (document,) = medline.read(io.BytesIO(xml.encode()), "a.xml", "en")
    assert "swordfish" not in document.text


@pytest.mark.parametrize("place", ["Seen.", "AIM"], ids=["text", "attribute"])
def test_entities_that_grow_are_refused(place):
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    xml = f"<!DOCTYPE s [{entities}]><s>{ENGLISH.replace(place, '&a9;')}</s>"
    with pytest.raises(etree.XMLSyntaxError):
        list(medline.read(io.BytesIO(xml.encode()), "a.xml", "en"))
