"""Checkpoints on object stores, moto's S3 and fake-gcs-server: what is unfinished or damaged is never read."""

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import SingleDeviceSharding

from medmt5 import storage
from medmt5.checkpoints import object_store
from medmt5.checkpoints.manager import CheckpointManager
from medmt5.errors import InputError
from medmt5.failure import SaveError

STATE = {"a": jnp.arange(12, dtype=jnp.float32).reshape(3, 4), "b": {"c": jnp.float32(1.5)}}


def restore(url):
    import jax

    shapes = jax.eval_shape(lambda: STATE)
    with CheckpointManager(url) as manager:
        return manager.restore_newest(shapes, jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), shapes))


def scaled(number):
    return {"a": STATE["a"] * number, "b": {"c": STATE["b"]["c"] * number}}


def damage(url, name="state/d/"):
    """Overwrites the objects below `name`."""
    with storage.opened(url) as store:
        for there in storage.list_objects(url):
            if there.startswith(name):
                store.pipe_file(f"{url}/{there}", b"?" * 40)


def test_what_was_saved_is_restored_and_the_oldest_go(store_url):
    with CheckpointManager(store_url, keep=2) as manager:
        for step in (0, 2, 4):
            manager.save(step, scaled(step + 1), {"next_step": step})
    assert object_store.finished_steps(store_url) == [2, 4]
    assert {name.partition("/")[0] for name in storage.list_objects(store_url)} == {"checkpoint_2", "checkpoint_4"}
    step, state, data = restore(store_url)
    assert (step, data) == (4, {"next_step": 4})
    np.testing.assert_array_equal(state["a"], STATE["a"] * 5)
    assert float(state["b"]["c"]) == 7.5


def test_at_no_moment_does_an_unfinished_checkpoint_look_finished(s3_url, monkeypatch):
    """A kill may come after any single write or removal: whatever has its mark then is whole."""
    backend = pytest.importorskip("moto.s3.models").S3Backend
    states: list[set[str]] = []

    def watch(act):
        def watched(self, bucket_name, *arguments, **options):
            result = act(self, bucket_name, *arguments, **options)
            states.append({key.removeprefix("place/") for key in list(self.buckets[bucket_name].keys)})
            return result

        return watched

    for name in ("put_object", "complete_multipart_upload", "delete_object", "delete_objects"):
        monkeypatch.setattr(backend, name, watch(getattr(backend, name)))
    with CheckpointManager(s3_url, keep=1) as manager:
        for step in (1, 2):
            manager.save(step, scaled(step), {})
    whole = {step: of_step(next(state for state in states if is_marked(state, step)), step) for step in (1, 2)}
    assert all(len(names) > 8 for names in whole.values())
    for state in states:
        for step in whole:
            if is_marked(state, step):
                assert of_step(state, step) == whole[step]
    assert any(of_step(state, 1) and not is_marked(state, 1) for state in states[-20:]), "no step was half deleted"
    assert of_step(states[-1], 1) == set()


def is_marked(names, step):
    return f"checkpoint_{step}/{object_store.MARK}" in names


def of_step(names, step):
    return {name for name in names if name.startswith(f"checkpoint_{step}/")}


def test_a_checkpoint_without_its_mark_is_not_there_and_goes_at_the_next_start(gs_url):
    with CheckpointManager(gs_url) as manager:
        for step in (1, 2):
            manager.save(step, scaled(step), {})
    with storage.opened(gs_url) as store:
        store.rm_file(f"{gs_url}/checkpoint_2/{object_store.MARK}")
        store.pipe_file(f"{gs_url}/train/events", b"not a checkpoint")
    assert object_store.finished_steps(gs_url) == [1]
    with storage.opened(gs_url) as store:
        store.pipe_file(f"{gs_url}/model.json", b"{}")
    with pytest.raises(InputError, match=r"checkpoint_2 is unfinished: .*checkpoint_1"):
        object_store.fetch_model(f"{gs_url}/checkpoint_2")
    assert restore(gs_url)[0] == 1
    names = {name.partition("/")[0] for name in storage.list_objects(gs_url)}
    assert names == {"checkpoint_1", "train", "model.json"}


def test_a_damaged_checkpoint_is_set_aside(gs_url):
    with CheckpointManager(gs_url) as manager:
        for step in (1, 2):
            manager.save(step, scaled(step), {})
    damage(gs_url, "checkpoint_2/state/d/")
    damage(gs_url, "checkpoint_2/state/manifest.ocdbt")
    assert restore(gs_url)[0] == 1
    names = {name.partition("/")[0] for name in storage.list_objects(gs_url)}
    assert names == {"checkpoint_1", "checkpoint_2.damaged"}


def test_a_save_that_fails_at_its_mark_leaves_the_checkpoint_before_it(gs_url, monkeypatch):
    write = type(epath.Path(gs_url)).write_text

    def fail(path, *arguments, **options):
        if str(path).endswith(f"checkpoint_2/{object_store.MARK}"):
            raise ConnectionError("cut off")
        return write(path, *arguments, **options)

    manager = CheckpointManager(gs_url)
    manager.save(1, STATE, {})
    manager.wait()
    monkeypatch.setattr(type(epath.Path(gs_url)), "write_text", fail)
    manager.save(2, STATE, {})
    with pytest.raises(SaveError, match=r"checkpoint_2 could not be saved in gs://.*checkpoint_1 is the last good one"):
        manager.close()
    assert any(name.startswith("checkpoint_2/state/d/") for name in storage.list_objects(gs_url))
    assert object_store.finished_steps(gs_url) == [1]


def test_a_run_that_may_not_write_any_more_saves_nothing(gs_url):
    def refuse():
        raise InputError("taken by another run")

    with pytest.raises(InputError, match="taken"), CheckpointManager(gs_url, before_save=refuse) as manager:
        manager.save(1, STATE, {})
    assert storage.list_objects(gs_url) == {}


def test_of_a_model_on_a_store_the_newest_finished_checkpoint_is_copied(gs_url):
    with CheckpointManager(gs_url) as manager:
        for step in (1, 2):
            manager.save(step, scaled(step), {})
    with storage.opened(gs_url) as store:
        for name in ("model.json", "vocabulary.model", "metrics.jsonl", "checkpoint_3/state/d/x"):
            store.pipe_file(f"{gs_url}/{name}", b"{}")
    folder = object_store.fetch_model(gs_url)
    assert folder == storage.copy_of(gs_url) / "checkpoint_2"
    there = {path.name for path in folder.parent.iterdir() if not path.name.startswith(".")}
    assert there == {"model.json", "vocabulary.model", "checkpoint_2"}
    assert object_store.fetch_model(f"{gs_url}/checkpoint_1").name == "checkpoint_1"


def test_a_model_of_another_format_is_copied_whole(gs_url):
    with storage.opened(gs_url) as store:
        for name in ("config.json", "model.safetensors"):
            store.pipe_file(f"{gs_url}/{name}", b"{}")
    folder = object_store.fetch_model(gs_url)
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "config.json", "model.safetensors",
    }  # fmt: skip
    with pytest.raises(InputError, match="nothing lies in"):
        object_store.fetch_model(f"{gs_url}/elsewhere")
