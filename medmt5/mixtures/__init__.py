"""SeqIO mixtures. Importing this package registers them, and the tasks they are made of.

A published mixture lists its members, so that a new language or data set never changes an old run; only `….all` grows.
"""

import difflib

import seqio

from medmt5 import tasks  # noqa: F401  registers what mixtures are made of
from medmt5.errors import InputError
from medmt5.mixtures import finetuning, pretraining, transfer  # noqa: F401


def get_mixture_or_task(name: str) -> seqio.Mixture | seqio.Task:
    """Returns what is registered under the name; an unknown one raises InputError with the nearest names,
    or, where none is near, all.
    """
    known = sorted([*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()])
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        raise InputError(f"no task or mixture {name!r}; {advice}")
    return seqio.get_mixture_or_task(name)
