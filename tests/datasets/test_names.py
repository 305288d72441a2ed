"""The names that are known without SeqIO are those that SeqIO registers."""

import seqio

from medmt5 import mixtures  # noqa: F401  registers
from medmt5.datasets.names import names


def test_names_are_those_of_the_registries():
    assert names() == {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
