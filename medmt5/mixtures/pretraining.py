"""Pre-training in several languages at once, in proportion to how much text each has, as the authors' one pass does."""

import seqio

from medmt5.languages import codes


def num_words(task: seqio.Task) -> int:
    """The rate of a language: its words. Not its documents, which are abstracts here and lines there."""
    return task.source.num_words()


seqio.MixtureRegistry.add("medical_corpus.all", [f"medical_corpus.{lang}" for lang in codes()], default_rate=num_words)
