"""Transfer between languages: what is trained on in some of them is evaluated in all.

Tasks that are evaluated only have rate 0, so that one name does for both: `medmt5 train` draws from the others,
`medmt5 evaluate` scores every task that has the split.
"""

from collections.abc import Collection

import seqio

from medmt5.mixtures.finetuning import PAPER_TESTS, by_examples

LANGUAGES = ("en", "es", "fr", "it")  # the paper's; a new language changes none of these mixtures
TESTS_ONLY = tuple(name for name in PAPER_TESTS if name.startswith(("abstrct_glaucoma.", "abstrct_mixed.")))


def add(name: str, tasks: Collection[str], trained_on: Collection[str]) -> None:
    """Registers a mixture of `tasks` of which those of the languages `trained_on` are trained on, if they can be."""
    rates = {
        task: by_examples if task.endswith(tuple(f".{lang}" for lang in trained_on)) and task not in TESTS_ONLY else 0.0
        for task in tasks
    }
    seqio.MixtureRegistry.add(name, list(rates.items()))


# Trained on English. E3C and argument mining are the 16 rows of the paper's table.
for _name, _prefixes in (("e3c", ("e3c.",)), ("abstrct", ("abstrct.", "abstrct_")), ("diann", ("diann.",))):
    add(f"zero_shot.{_name}", [task for task in PAPER_TESTS if task.startswith(_prefixes)], ("en",))

# Trained on all of the paper's sets but those of one language.
for _lang in LANGUAGES:
    add(f"leave_out.{_lang}", PAPER_TESTS, [lang for lang in LANGUAGES if lang != _lang])
