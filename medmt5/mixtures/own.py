"""The user's own mixtures (`datasets.own_mixtures`), registered after all others, which they may be made of."""

from functools import partial

import seqio

from medmt5.datasets.names import check_name
from medmt5.datasets.own_mixtures import OwnMixture, own_mixtures
from medmt5.errors import InputError
from medmt5.mixtures.finetuning import by_examples


def add(name: str, mixture: OwnMixture) -> None:
    """Registers it; raises InputError, which names the file, for a name that is taken and for unknown members."""
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name in known:
        raise InputError(f"{mixture.path}: there is a task or mixture {name!r} already; give the file another name")
    tasks: dict[str, None] = {}  # each once
    for member in mixture.tasks:
        try:
            check_name(member, known)
        except InputError as error:
            raise InputError(f"{mixture.path}: {error}") from error
        provider = seqio.get_mixture_or_task(member)
        tasks |= dict.fromkeys(t.name for t in (provider.tasks if isinstance(provider, seqio.Mixture) else [provider]))
    rate = partial(by_examples, temperature=mixture.temperature)
    seqio.MixtureRegistry.add(name, list(tasks), default_rate=rate)


for _name, _mixture in own_mixtures().items():
    add(_name, _mixture)
