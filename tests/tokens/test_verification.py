"""A store whose bytes changed below an unchanged manifest does not train: at once if small, soon if large."""

import time

import pytest

from medmt5.errors import InputError
from medmt5.tokens.store import StoreWriter, TokenStore
from medmt5.tokens.verification import verify_stores


@pytest.fixture
def damaged(tmp_path, tokenizer):
    directory = tmp_path / "task" / "train"
    with StoreWriter(directory, task="t", split="train", objective="span_corruption", tokenizer=tokenizer) as writer:
        writer.write({"targets": list(range(300))})
    verify_stores([TokenStore(directory)])()
    shard = next(directory.glob("data-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    return TokenStore(directory)


def test_a_small_store_is_refused_before_training(damaged):
    with pytest.raises(InputError, match="array_record is not as it was written"):
        verify_stores([damaged])


def test_a_large_store_is_read_beside_the_training_and_stops_it(damaged):
    def train():
        check = verify_stores([damaged], small=0)
        while True:
            check()
            time.sleep(0.01)

    with pytest.raises(InputError, match="array_record is not as it was written"):
        train()
