"""SeqIO mixtures. Importing this package registers them, and the tasks they are made of.

A published mixture lists its members, so that a new language or data set never changes an old run; only `….all` grows.
"""

import seqio

from medmt5 import tasks  # noqa: F401  registers what mixtures are made of
from medmt5.datasets.names import check_name
from medmt5.mixtures import finetuning, pretraining, transfer  # noqa: F401

from medmt5.mixtures import own  # noqa: F401  isort: skip  of the others


def get_mixture_or_task(name: str) -> seqio.Mixture | seqio.Task:
    """Returns what is registered under the name; an unknown one raises InputError (`datasets.names.check_name`)."""
    check_name(name, [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()])
    return seqio.get_mixture_or_task(name)
