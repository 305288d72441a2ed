"""Meshes of machines that are not there, and which rows each process reads."""

import dataclasses
import logging
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from medmt5 import partitioning
from medmt5.errors import InputError
from medmt5.partitioning import AXES, AXIS_TYPES, COMPUTE_RULES, Partitioning, arrange_devices


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """What mesh_utils reads of a device. GPUs and TPUs know their slice; `coords` are a TPU's, x y z."""

    id: int
    platform: str
    device_kind: str
    process_index: int
    slice_index: int | None = None
    coords: tuple[int, int, int] | None = None
    core_on_chip: int = 0


def tpu_v4(shape, slices=1):
    """Chips of a torus x y z, as JAX lists them; a host has a 2 x 2 x 1 block of four. A v4-128 is (4, 4, 4)."""
    x, y, z = shape
    devices = []
    for part in range(slices):
        for c, b, a in np.ndindex(z, y, x):
            host = part * x * y * z // 4 + (c * (y // 2) + b // 2) * (x // 2) + a // 2
            devices.append(FakeDevice(len(devices), "tpu", "TPU v4", host, part, (a, b, c)))
    return devices


def gpu_hosts(hosts, each, know_slice=True):
    return [
        FakeDevice(i, "gpu", "NVIDIA A100-SXM4-80GB", i // each, i // each if know_slice else None)
        for i in range(hosts * each)
    ]


@pytest.mark.parametrize("know_slice", [True, False])
@pytest.mark.parametrize("model", [1, 2, 4, 8])
def test_tensor_parallel_rows_stay_inside_a_host_of_gpus(model, know_slice):
    mesh = arrange_devices(gpu_hosts(4, 8, know_slice), (32 // model, model))
    assert mesh.shape == (32 // model, model)
    assert len(set(mesh.flat)) == 32
    for row in mesh:
        assert len({d.process_index for d in row}) == 1
    # and each host's rows follow each other
    assert [row[0].process_index for row in mesh] == sorted(row[0].process_index for row in mesh)


def test_a_row_wider_than_a_host_takes_whole_hosts_and_warns(caplog):
    with caplog.at_level(logging.WARNING):
        mesh = arrange_devices(gpu_hosts(4, 8), (2, 16))
    assert [sorted({d.process_index for d in row}) for row in mesh] == [[0, 1], [2, 3]]
    assert "NUM_MODEL_PARTITIONS = 16 spans hosts of 8 devices" in caplog.text


@pytest.mark.parametrize(
    ("model", "message"), [(3, "hosts or slices of 8, 8, 8 devices"), (12, "divisor of their size")]
)
def test_rows_that_do_not_fit_into_hosts_are_refused(model, message):
    with pytest.raises(InputError, match=message):
        arrange_devices(gpu_hosts(3, 8), (24 // model, model))


@pytest.mark.parametrize("model", [1, 2, 4, 8, 16])
def test_a_tpu_v4_128_makes_every_mesh_of_direct_neighbours(model):
    """A row of two to four chips is joined by direct links of the torus; larger ones fill a plane of it."""
    mesh = arrange_devices(tpu_v4((4, 4, 4)), (64 // model, model))
    assert mesh.shape == (64 // model, model)
    assert len(set(mesh.flat)) == 64
    for row in mesh:
        coordinates = np.array([d.coords for d in row])
        varying = [len(set(axis)) for axis in coordinates.T]
        assert np.prod(varying) == model  # a line, or a rectangle, of the torus
        assert sum(n > 1 for n in varying) <= 2


@pytest.mark.parametrize("model", [1, 4, 8])
def test_rows_stay_inside_a_slice_of_several(model):
    mesh = arrange_devices(tpu_v4((2, 2, 4), slices=4), (64 // model, model))
    for row in mesh:
        assert len({d.slice_index for d in row}) == 1
    assert len(set(mesh.flat)) == 64


def share_of(process, devices, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: process)
    return partitioning.process_share(SimpleNamespace(devices=devices))


@pytest.mark.parametrize(("model", "shares"), [(1, [0, 1, 2, 3]), (8, [0, 1, 2, 3]), (16, [0, 0, 1, 1]), (32, [0] * 4)])
def test_processes_that_share_a_row_of_devices_read_the_same_rows_of_a_batch(model, shares, monkeypatch):
    devices = arrange_devices(gpu_hosts(4, 8), (32 // model, model))
    assert [share_of(i, devices, monkeypatch) for i in range(4)] == [(s, len(set(shares))) for s in shares]


@pytest.mark.parametrize("model", [1, 2, 4])
def test_every_host_of_a_pod_reads_an_equal_part_whatever_the_torus_order(model, monkeypatch):
    devices = arrange_devices(tpu_v4((4, 4, 4)), (64 // model, model))
    shares = [share_of(i, devices, monkeypatch) for i in range(16)]
    counts = {count for _, count in shares}
    assert len(counts) == 1
    count = counts.pop()
    assert sorted(index for index, _ in shares) == sorted([*range(count)] * (16 // count))


def test_shards_that_do_not_fall_to_processes_in_equal_parts_are_refused(monkeypatch):
    devices = np.array(gpu_hosts(2, 3)).reshape(3, 2)  # the middle row is half of each process
    with pytest.raises(InputError, match="3 data shards do not fall to the 2 processes in equal parts"):
        share_of(0, devices, monkeypatch)


def test_rows_reach_the_devices_in_their_order():
    mesh = Partitioning(num_model_partitions=2).make_mesh()
    rows = np.arange(16, dtype=np.int32).reshape(8, 2)
    array = partitioning.put_batch({"x": rows}, mesh)["x"]
    np.testing.assert_array_equal(np.asarray(array), rows)
    for shard in array.addressable_shards:
        data_shard = next(i for i, devices in enumerate(mesh.devices) if shard.device in devices)
        np.testing.assert_array_equal(np.asarray(shard.data), rows[2 * data_shard : 2 * data_shard + 2])


def test_fsdp_changes_the_parameters_rules_and_not_the_activations():
    plain, fsdp = (dict(Partitioning(shard_parameters_over_data=s).parameter_rules) for s in (False, True))
    assert plain == dict(COMPUTE_RULES)
    assert {k: v for k, v in fsdp.items() if plain[k] != v} == {"embed": "data"}


def test_a_parameter_that_does_not_divide_is_named_with_its_axis():
    mesh = AbstractMesh((3, 4), AXES, AXIS_TYPES)
    shapes = {"layers": {"kernel": jax.ShapeDtypeStruct((2, 8, 6), "float32")}}

    def check(*spec):
        partitioning.check_parameters_divide(shapes, {"layers": {"kernel": NamedSharding(mesh, PartitionSpec(*spec))}})

    with pytest.raises(InputError, match=r"layers/kernel \(2, 8, 6\): 8 does not divide into the 3 parts .* 'data'"):
        check(None, "data", None)
    with pytest.raises(InputError, match="6 does not divide into the 4 parts of the mesh axis 'model'"):
        check(None, None, "model")
    check(None, "model", "data")
