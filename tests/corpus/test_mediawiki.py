import io
import time

import pytest

from medmt5.corpus import mediawiki
from medmt5.corpus.document import Dropped, RawDocument

DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.{version}/">
<page><title>Otitis</title><ns>0</ns><id>5</id><revision><id>9</id>
<text>'''Otitis''' is [[ear]] pain.</text></revision></page>
<page><title>Ear ache</title><ns>0</ns><id>6</id><redirect title="Otitis"/>
<revision><text>#REDIRECT</text></revision></page>
<page><title>Talk:Otitis</title><ns>1</ns><id>7</id><revision><text>Hello.</text></revision></page>
<page><title>Void</title><ns>0</ns><id>8</id><revision><text>{{{{stub}}}}</text></revision></page>
</mediawiki>"""


@pytest.mark.parametrize("version", [8, 11])
def test_articles_are_documents_and_the_rest_is_counted(version):
    entries = list(mediawiki.read(io.BytesIO(DUMP.format(version=version).encode()), "a.xml", "en"))
    article = RawDocument("enwiki:5", "Otitis\n\nOtitis is ear pain.", {"title": "Otitis"})
    assert entries == [article, Dropped("redirect"), Dropped("not_an_article"), Dropped("no_text")]


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("''a'' '''b''' '''''c'''''", "a b c"),
        ("a{{x|{{y|z}}|[[w]]}}b", "ab"),
        ("{{Infobox\n| a = {{{b}}}\n}}c", "c"),
        ("[[a]] [[b|c]] [[:d]] [[b]]s", "a c d bs"),
        ("[[File:x.png|thumb|see [[y|z]] here]]a", "a"),
        ("[[Category:A]][[fr:B]]a", "a"),
        ("a [https://x.org/y the page] b [http://z.org]", "a the page b"),
        ('{| class="x"\n| 1 || {| inner |} \n|}a', "a"),
        ("a<ref>b</ref><ref name=c />d<ref name=e>f</ref>", "ad"),
        ("a<!-- b\nc -->d<!-- open", "ad"),
        ("a<br/>b <sub>2</sub> x &lt; 5 &amp;nbsp; &alpha;", "ab 2 x < 5 &nbsp; α"),
        ("== H ==\n=== I ===\ntext", "H\nI\ntext"),
        ("* a\n** b\n# c\n; d\n: e", "a\nb\nc\nd\ne"),
        ("p < 0.05 and q > 3", "p < 0.05 and q > 3"),
        ("__NOTOC__a\n\n\n\nb", "a\n\nb"),
    ],
)
def test_markup_becomes_the_text_a_reader_sees(markup, plain):
    assert mediawiki.plain_text(markup) == plain


@pytest.mark.parametrize("piece", ["{{", "[[", "{|", "<ref>", "[[a|", "<", "<!--", "'''", "[http://"])
def test_hostile_markup_takes_no_more_than_linear_time_and_leaves_no_brackets(piece):
    start = time.perf_counter()
    plain = mediawiki.plain_text(piece * 3_000 + "end" + "}}]]|}" * 3_000)
    assert time.perf_counter() - start < 5
    assert "{{" not in plain
    assert "[[" not in plain
