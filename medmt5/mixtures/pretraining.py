"""Pre-training in several languages at once, in proportion to how much text each has, as the authors' one pass does."""

import seqio

from medmt5.languages import codes


def text_size(task: seqio.Task) -> int:
    """The rate of a language: its tokens once they are counted, else its words.

    Not its documents, which are abstracts here and lines there.
    """
    return task.get_cached_stats("train")["targets_tokens"] if task.cache_dir else task.source.num_words()


seqio.MixtureRegistry.add("medical_corpus.all", [f"medical_corpus.{lang}" for lang in codes()], default_rate=text_size)
