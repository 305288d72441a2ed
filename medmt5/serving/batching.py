"""Requests that arrive together are labelled together, by one thread that owns the model."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Long enough for requests that were sent at once, too short to be felt.
GATHER_SECONDS = 0.004


@dataclasses.dataclass(eq=False)
class _Job(Generic[Item, Result]):
    """The items of one request: `taken` of them are on their way, `results` holds what has come back."""

    items: Sequence[Item]
    done: asyncio.Future[list[Result]]
    taken: int = 0
    results: dict[int, Result] = dataclasses.field(default_factory=dict)

    def put(self, index: int, result: Result) -> None:
        self.results[index] = result
        if len(self.results) == len(self.items) and not self.done.done():
            self.done.set_result([self.results[i] for i in range(len(self.items))])

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Batcher(Generic[Item, Result]):
    """Gathers the items of several requests into batches.

    Requests take turns: a batch takes one item of each, round and round, and the next batch goes on from there. So a
    long request does not hold up a short one. A batch that fails is labelled again request by request: only those fail
    that fail alone.

    Args:
      label: items -> their results, in order; called in `thread`, one call at a time.
      batch_size: items of a batch, at most.
    """

    def __init__(self, label: Callable[[list[Item]], Sequence[Result]], thread: Executor, *, batch_size: int):
        self._label, self._thread, self._batch_size = label, thread, batch_size
        self._turns: deque[_Job[Item, Result]] = deque()
        self._arrived = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Returns the number of items that are in no batch yet."""
        return sum(len(job.items) - job.taken for job in self._turns if not job.done.done())

    async def label(self, items: Sequence[Item]) -> list[Result]:
        """Returns the results of a request's items. A caller that is cancelled leaves no work behind but the batch
        under way.
        """
        if not items:
            return []
        job = _Job[Item, Result](items, asyncio.get_running_loop().create_future())
        self._turns.append(job)
        self._arrived.set()
        return await job.done

    async def run(self) -> None:
        """Labels what arrives, until cancelled."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHER_SECONDS)
            batch = self._take()
            if not self._turns:
                self._arrived.clear()
            if batch:
                await self._label_batch(batch)

    def _take(self) -> list[tuple[_Job[Item, Result], int]]:
        """Returns the next batch as (request, index of its item)."""
        batch: list[tuple[_Job[Item, Result], int]] = []
        while self._turns and len(batch) < self._batch_size:
            job = self._turns.popleft()
            if job.done.done():  # given up, or failed
                continue
            batch.append((job, job.taken))
            job.taken += 1
            if job.taken < len(job.items):
                self._turns.append(job)
        return batch

    async def _label_batch(self, batch: list[tuple[_Job[Item, Result], int]]) -> None:
        items = [job.items[index] for job, index in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._label, items)
            pairs = list(zip(batch, results, strict=True))
        except Exception as error:
            jobs = dict.fromkeys(job for job, _ in batch)
            if len(jobs) == 1:
                batch[0][0].fail(error)
                return
            for alone in jobs:
                await self._label_batch([(job, index) for job, index in batch if job is alone])
            return
        for (job, index), result in pairs:
            job.put(index, result)
