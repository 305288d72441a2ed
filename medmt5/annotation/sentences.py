"""Cuts text into sentences by rules: a line ends one, and so does a full stop before something that can begin one.

A sentence ends after `.`, `!`, `?` or `…` (closing quotes and brackets included) when a space and anything but a small
letter follow, unless the word before the full stop is an abbreviation, single letters ("E. coli", "i.e."), the number
that begins a line ("2. Methods"), or a number before another one. In doubt sentences stay together: a missed end makes
a long sentence, a false one can cut a mention in two. What stands between two sentences is white space only.
"""

from __future__ import annotations

import re
from functools import cache

from medmt5 import languages

# After these a full stop does not end a sentence, in any language; a language's own are in its file. Units
# ("10 mg. The") and "etc." are not here: when a capital follows them, the sentence has ended.
ABBREVIATIONS = frozenset(
    """al approx art cf co corp dr ed eds fig figs ibid inc jr ltd mr mrs ms nr op pp prof ref refs resp sp spp sr sra
    st subsp var vol vs""".split()  # noqa: SIM905  a list of them would be a line each
)
# Closing signs belong to the sentence that ends, opening ones to the next. Possessive (++), or dotted lines take long.
BOUNDARY = re.compile(r"""(?<![.!?…])(?P<mark>[.!?…]++)["'”’»)\]]*+(?P<gap>\s++)(?=["'“‘«(\[¿¡]*+(?P<next>\w))""")
LAST_WORD = re.compile(r"[^\s(\[«“\"'’]*$")
# Looking no further back keeps long lines fast; no abbreviation is longer.
MAX_WORD_CHARS = 32
SINGLE_LETTERS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")


def split_sentences(text: str, lang: str) -> list[tuple[int, int]]:
    """Returns the sentences of `text` as (start, end) in characters, without the white space around them.

    >>> text = "Seen by Dr. Ruiz. No fever."
    >>> [text[start:end] for start, end in split_sentences(text, "en")]
    ['Seen by Dr. Ruiz.', 'No fever.']
    """
    abbreviations = _abbreviations(lang)
    sentences = []
    for line in re.finditer(r"[^\n\r\x0b\x0c\x85\u2028\u2029]+", text):
        start = line.start()
        ends = [match.start("gap") for match in BOUNDARY.finditer(line[0]) if _ends(line[0], match, abbreviations)]
        for end in [*(line.start() + end for end in ends), line.end()]:
            sentence = text[start:end]
            stripped = sentence.strip()
            if stripped:
                first = start + sentence.index(stripped)
                sentences.append((first, first + len(stripped)))
            start = end
    return sentences


@cache
def _abbreviations(lang: str) -> frozenset[str]:
    return ABBREVIATIONS | (languages.load(lang).abbreviations if lang in languages.codes() else frozenset())


def _ends(line: str, match: re.Match[str], abbreviations: frozenset[str]) -> bool:
    if match["next"].islower():
        return False
    if match["mark"] != ".":
        return True
    dot = match.start()
    word = LAST_WORD.findall(line[max(0, dot - MAX_WORD_CHARS) : dot])[0].casefold()
    numbers_line = word.isdigit() and not line[: dot - len(word)].strip()
    # "7. 8 %", "19p13. 3", "p =. 03": decimals that lost their shape on the way from print.
    decimal = match["next"].isdigit() and not word[-1:].isalpha()
    return not (word in abbreviations or SINGLE_LETTERS.fullmatch(word) or numbers_line or decimal)
