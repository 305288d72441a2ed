"""The lock object of a MODEL_DIR on a store: one living holder, whatever dead ones left."""

import json
import threading

import pytest

from medmt5 import storage
from medmt5.checkpoints import lease
from medmt5.checkpoints.lease import Lease
from medmt5.errors import InputError


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Folders of two machines, and leases that run out soon."""
    monkeypatch.setattr(lease, "EXPIRES_SECONDS", 0.5)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.05)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


def test_a_second_run_is_refused_while_the_first_one_lives(store_url, machines):
    first, second = (Lease(store_url, machine) for machine in machines)
    first.take()
    living = threading.Event()

    def live():
        while not living.wait(0.1):
            first.renew()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(InputError, match=r"is being trained in by process .* give another MODEL_DIR"):
            second.take()
    finally:
        living.set()
        thread.join()
    first.check()
    first.release()
    second.take()


def test_what_a_dead_run_left_is_taken_over_and_it_stops_if_it_comes_back(gs_url, machines):
    first, second = (Lease(gs_url, machine) for machine in machines)
    first.take()
    second.take()
    second.check()
    for act in (first.check, first.renew):
        with pytest.raises(InputError, match="is being trained in by"):
            act()
    second.check()


def test_a_run_of_the_same_machine_takes_over_at_once(gs_url, machines, monkeypatch):
    Lease(gs_url, machines[0]).take()
    monkeypatch.setattr(lease, "EXPIRES_SECONDS", 1e9)
    Lease(gs_url, machines[0]).take()


def test_a_lock_that_is_cut_short_counts_as_one(gs_url, machines):
    with storage.opened(gs_url) as store:
        store.pipe_file(f"{gs_url}/{lease.LOCK}", b'{"ho')
        held = Lease(gs_url, machines[0])
        held.take()
        assert json.loads(store.cat_file(f"{gs_url}/{lease.LOCK}"))["renewed"] == 0
    held.check()


def test_of_two_that_start_at_once_one_is_refused(store_url, machines, monkeypatch):
    """Both have seen that nobody is there."""
    first, second = (Lease(store_url, machine) for machine in machines)
    monkeypatch.setattr(second, "_read", lambda: None)
    first.take()
    with pytest.raises(InputError, match="is being trained in by"):
        second.take()
    first.check()
