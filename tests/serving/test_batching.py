"""Results are the right ones, whoever they were labelled with; nobody waits behind a long request or fails with a
neighbour.
"""

import asyncio
import contextlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from medmt5.serving.batching import Batcher


class Recorder:
    """Doubles numbers and keeps its batches; `bad` items fail whatever batch they are in. It waits for `go`."""

    def __init__(self, bad=()):
        self.batches, self.bad = [], set(bad)
        self.called, self.go = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, items):
        self.called.set()
        assert self.go.wait(60)
        self.batches.append(list(items))
        if self.bad & set(items):
            raise ValueError("bad")
        return [2 * item for item in items]


def with_batcher(use, label, *, batch_size=4):
    """Runs `use(batcher)` while the batcher works."""

    async def main():
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(label, thread, batch_size=batch_size)
            work = asyncio.create_task(batcher.run())
            try:
                return await asyncio.wait_for(use(batcher), 60)
            finally:
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work

    return asyncio.run(main())


@pytest.mark.parametrize("seed", range(20))
def test_every_request_gets_its_own_results_in_order(seed):
    draw = random.Random(seed)
    requests = [[draw.randrange(1000) for _ in range(draw.randrange(7))] for _ in range(40)]
    bad = {draw.randrange(1000) for _ in range(30)}
    label = Recorder(bad)

    async def use(batcher):
        return await asyncio.gather(*map(batcher.label, requests), return_exceptions=True)

    for request, result in zip(requests, with_batcher(use, label, batch_size=5), strict=True):
        if bad & set(request):
            assert isinstance(result, ValueError)
        else:
            assert result == [2 * item for item in request]
    assert max(map(len, label.batches)) == 5


def test_what_arrives_together_is_one_batch():
    label = Recorder()

    async def use(batcher):
        await asyncio.gather(*(batcher.label([i]) for i in range(4)))

    with_batcher(use, label)
    assert label.batches == [[0, 1, 2, 3]]


def test_requests_take_turns():
    label = Recorder()

    async def use(batcher):
        await asyncio.gather(batcher.label([1] * 9), batcher.label([2] * 3), batcher.label([3]))

    with_batcher(use, label)
    assert label.batches == [[1, 2, 3, 1], [2, 1, 2, 1], [1, 1, 1, 1], [1]]


def test_who_gives_up_leaves_no_work_behind():
    label = Recorder()
    label.go.clear()

    async def use(batcher):
        first = asyncio.create_task(batcher.label([1]))
        while not label.called.is_set():
            await asyncio.sleep(0.001)
        given_up = asyncio.create_task(batcher.label([7, 7, 7]))
        patient = asyncio.create_task(batcher.label([2]))
        await asyncio.sleep(0)
        assert batcher.waiting == 4
        given_up.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        label.go.set()
        return await asyncio.gather(first, patient)

    assert with_batcher(use, label) == [[2], [4]]
    assert label.batches == [[1], [2]]


def test_a_model_that_answers_too_little_fails_the_request_not_the_service():
    answers = [[], [8]]

    async def use(batcher):
        with pytest.raises(ValueError, match="zip"):
            await batcher.label([1])
        return await batcher.label([4])

    assert with_batcher(use, lambda items: answers.pop(0)) == [8]
