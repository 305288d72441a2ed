"""Which environments make a process look for others: several tasks of Slurm or Open MPI, TPUs, indexed Jobs."""

import pytest

from medmt5 import processes
from medmt5.errors import InputError

SLURM = {"SLURM_STEP_NODELIST": "n[1-2]"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.fixture
def joined(monkeypatch):
    """Returns joined(environment, installed packages) -> whether JAX was asked to find the others."""

    def joined(environment, installed=()):
        for name in ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", *KUBERNETES):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name in installed or None)
        calls = []
        monkeypatch.setattr(processes, "_initialize", lambda *arguments, **options: calls.append(arguments))
        processes.connect()
        return bool(calls)

    return joined


@pytest.mark.parametrize(
    ("environment", "installed", "several"),
    [
        ({}, (), False),
        (SLURM | {"SLURM_NTASKS": "8"}, (), True),
        (SLURM | {"SLURM_NTASKS": "1"}, (), False),
        ({"SLURM_NTASKS": "8"}, (), False),  # the batch script: no step
        ({"OMPI_COMM_WORLD_SIZE": "2"}, (), True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, (), False),
        (KUBERNETES, ("kubernetes",), True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ("kubernetes",), False),  # any other pod
        ({"JAX_PLATFORMS": "cpu"}, ("libtpu",), False),
        ({"JAX_PLATFORMS": "tpu"}, ("libtpu",), True),
    ],
)
def test_others_are_looked_for_where_there_are_some(joined, environment, installed, several):
    assert joined(environment, installed) == several


def test_a_pod_that_cannot_ask_for_the_others_says_what_is_missing(joined):
    with pytest.raises(InputError, match=r"pip install kubernetes, or give --coordinator_address"):
        joined(KUBERNETES)
