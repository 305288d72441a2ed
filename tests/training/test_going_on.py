"""A run goes on as what it was: from the configuration beside any checkpoint, and never with other data."""

import json

import orbax.checkpoint as ocp
import pytest

from medmt5 import config, processes, train
from medmt5.checkpoints.manager import checkpoints_in
from medmt5.cli import main
from medmt5.errors import InputError
from medmt5.plan import make_plan
from medmt5.training.data_facts import check_same_data
from medmt5.training.metrics_log import TIMES, read_metrics


def lines_of(model_dir):
    lines = read_metrics(model_dir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def state_of(checkpoint):
    """Returns path -> bytes of each array, read without our code."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.restore(checkpoint / "state")
    return {str(path): x.tobytes() for path, x in train.jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def resolved(experiment):
    """MODEL_DIR of a run of 4 steps, with the configuration that made it."""
    e = experiment("resolved", TRAIN_STEPS=4, CHECKPOINT_PERIOD=2, EVAL_PERIOD=4)
    train.train(e, config.gin.config_str())
    return train.Path(e.model_dir)


def test_the_configuration_beside_a_checkpoint_starts_the_same_run_bit_for_bit(resolved, folder):
    checkpoints = checkpoints_in(resolved)
    assert sorted(checkpoints) == [0, 2, 4]
    for checkpoint in checkpoints.values():
        assert (checkpoint / "config/config.gin").read_text() == (resolved / "config.gin").read_text()
    again = folder / "again"
    assert main(["train", f"--gin_file={checkpoints[2]}/config/config.gin", f"--gin.MODEL_DIR={again}"]) == 0
    assert state_of(again / "checkpoint_4") == state_of(resolved / "checkpoint_4")
    assert lines_of(again) == lines_of(resolved)


def test_packing_in_a_run_that_began_without_it_is_refused(experiment, resolved):
    for attempt in (train.train, make_plan):
        with pytest.raises(InputError) as error:
            attempt(experiment("resolved", TRAIN_STEPS=6, PACK=True))
        assert f"{resolved} was started with PACK = False, not True: " in str(error.value)


BATCHES = {"BATCH_SIZE": 4, "PACK": False, "RANDOM_SEED": 0, "the rates of the mixture": {"a.en": 20.0}}


@pytest.mark.parametrize(
    ("stores", "batches", "told"),
    [
        ({"a.en/train": "1", "a.en/dev": "3"}, {}, "the token stores changed since run was started: a.en/dev; restore"),
        ({"a.en/train": "1"}, {"BATCH_SIZE": 8, "RANDOM_SEED": 3}, "BATCH_SIZE = 4, not 8, RANDOM_SEED = 0, not 3: "),
        (
            {"a.en/train": "1"},
            {"the rates of the mixture": {"a.en": 4.0}},
            "= {'a.en': 20.0}, not {'a.en': 4.0}",
        ),
    ],
)
def test_other_batches_than_those_of_the_run_so_far_are_named(stores, batches, told):
    saved = {"next_step": 6, "stores": {"a.en/train": "1"}, "batches": BATCHES}
    check_same_data(saved, {"stores": saved["stores"], "batches": dict(BATCHES)}, "run")
    with pytest.raises(InputError) as error:
        check_same_data(saved, {"stores": stores, "batches": BATCHES | batches}, "run")
    assert told in str(error.value)


def test_a_checkpoint_of_before_batches_were_recorded_is_gone_on_from():
    check_same_data({"stores": {}}, {"stores": {}, "batches": BATCHES}, "run")


class Store:
    """JAX's key-value store, of one process after the other."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        assert key not in self.values
        self.values[key] = value

    def blocking_key_value_get(self, key, timeout):
        return self.values[key]


def test_a_process_with_other_token_stores_than_the_first_is_refused_by_name(monkeypatch):
    store, tuples = Store(), {"TASK_FEATURE_LENGTHS": {"inputs": 3}, "one.en/train": "a", "two.es/dev": "b"}
    monkeypatch.setattr(processes.jax, "process_count", lambda: 3)
    monkeypatch.setattr(processes.distributed.global_state, "client", store)

    def in_process(index, facts):
        monkeypatch.setattr(processes.jax, "process_index", lambda: index)
        monkeypatch.setattr(processes, "_required", 0)
        processes.require_same(facts, "token stores")

    in_process(0, tuples)
    in_process(1, json.loads(json.dumps(tuples)))
    with pytest.raises(InputError, match=r"stores of process 2 are not those of process 0: two.es/dev; start"):
        in_process(2, tuples | {"two.es/dev": "c"})
    with pytest.raises(InputError, match=r"process 1 are not those of process 0: one.en/train, three.fr/train"):
        in_process(1, {**{k: v for k, v in tuples.items() if k != "one.en/train"}, "three.fr/train": "d"})
