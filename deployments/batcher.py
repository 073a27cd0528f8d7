"""Work-conserving batching of single inputs from many requests, in compute threads of its own.

A thread that is free takes what waits, up to a cost budget; it never sleeps hoping for more.
A batch starts from the request whose turn it is (round robin, so that a short request is not stuck
behind a long one) and is filled with the waiting inputs nearest to it in cost, so that little is
padded. Knows nothing of texts, tensors or models.
"""

import asyncio
import bisect
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from deployments.errors import BadRequest, EngineError, QueueFull, ServeAppError

log = logging.getLogger(__name__)
Raw = TypeVar("Raw")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Item:
    """A prepared input: what the compute function takes, its cost, and the group it may share a batch with."""

    value: Any
    cost: int
    group: Hashable = None


@dataclass(eq=False)
class _Job(Generic[Raw, Out]):
    """One request: its inputs, and their results as they come in."""

    raw: Sequence[Raw]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[Out]]
    results: list[Out | None]
    waiting: deque[int] = field(default_factory=deque)
    left: int = 0
    ended: bool = False

    def finish(self, error: Exception | None = None) -> None:
        """Answer the request, once: with its results or with its first error."""
        if self.ended:
            return
        self.ended = True
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._set, error)

    def _set(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error:
            self.done.set_exception(error)
        else:
            self.done.set_result(self.results)  # type: ignore[arg-type]  # every place was filled


class Batcher(Generic[Raw, Out]):
    """Runs `compute` on batches of prepared inputs, in `workers` threads.

    `prepare(raws)` turns inputs into `Item`s, or into the error that an input deserves, in order; it
    runs in one thread at a time. `compute(values)` turns the values of one batch into as many results,
    in order; with several workers it runs in several threads at once.
    The cost of a batch is its longest item's cost times its length, as a padded tensor's is;
    it stays within `max_cost` (a single item may exceed it) and within `max_items`, and at most the
    share `max_padding` of it is padding. `max_queue()` bounds what may wait.
    `label` is what callers call an input.
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[Sequence[Raw]], Sequence[Item | ServeAppError]],
        compute: Callable[[list[Any]], Sequence[Out]],
        *,
        max_cost: int,
        max_items: int,
        max_padding: float,
        max_queue: Callable[[], int],
        workers: int = 1,
        label: str = "input",
    ) -> None:
        self._prepare, self._compute = prepare, compute
        self._max_cost, self._max_items, self._max_padding = max_cost, max_items, max_padding
        self._max_queue, self._label = max_queue, label
        self._inbox: deque[_Job[Raw, Out]] = deque()
        self._turns: deque[_Job[Raw, Out]] = deque()
        self._by_cost: list[tuple[int, int, int]] = []
        self._entries: dict[int, tuple[_Job[Raw, Out], int, Item]] = {}
        self._serial = 0
        self._queued = 0
        self._waiting_cost = 0
        self._busy = 0
        self._closed = False
        self._wake = threading.Condition()  # guards the inbox; never held for long, for the event loop takes it
        self._picking = threading.Lock()  # guards the waiting items; held while inputs are prepared
        self._finishing = threading.Lock()  # guards the results of jobs
        self._threads = [
            threading.Thread(target=self._run, name=f"engine-{name}-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    async def submit(self, raw: Sequence[Raw]) -> list[Out]:
        """Results of `raw`, in order. Cancelling it drops what has not been computed.

        Raises `QueueFull` when too much waits already, and the first error among the inputs, whose
        `param` names it (`input[3]`). Another request's bad input never fails this one.
        """
        if not raw:
            return []
        loop = asyncio.get_running_loop()
        job = _Job(raw, loop, loop.create_future(), [None] * len(raw), left=len(raw))
        with self._wake:
            if self._closed:
                raise EngineError("the engine was stopped")
            if self._queued and self._queued + len(raw) > self._max_queue():
                raise QueueFull(f"{self._queued} inputs wait already (at most {self._max_queue()})", retry_after_s=1)
            self._queued += len(raw)
            self._inbox.append(job)
            self._wake.notify()
        try:
            return await job.done
        finally:
            job.ended = True

    def alive(self) -> bool:
        """Whether every compute thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Stop after the batches that run now; what still waits fails with `EngineError`."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()
        for job in [*self._inbox, *self._turns]:
            job.finish(EngineError("the engine was stopped"))

    def _run(self) -> None:
        while True:
            with self._picking:
                if not self._accept():
                    return
                batch = self._take()
                self._busy_by(1)
            try:
                self._compute_batch(batch)
            except Exception as error:
                log.exception("a batch was lost")
                for job, _, _ in batch:
                    job.finish(EngineError(f"the engine failed: {error}"))
            finally:
                self._busy_by(-1)

    def _accept(self) -> bool:
        """Wait until there is work, prepare what is new, and say whether to go on."""
        with self._wake:
            while not (self._closed or self._inbox or self._entries):
                self._wake.wait()
            if self._closed:
                return False
            new = list(self._inbox)
            self._inbox.clear()
        for job in new:
            if job.ended:
                self._release(len(job.raw))
            else:
                self._admit(job)
        return True

    def _admit(self, job: _Job[Raw, Out]) -> None:
        try:
            prepared = self._prepare(job.raw)
        except Exception as error:
            log.exception("preparing %d inputs failed", len(job.raw))
            prepared = [EngineError(f"the model could not read its input: {error}")]
        for index, item in enumerate(prepared):
            if isinstance(item, ServeAppError):
                self._release(len(job.raw))
                job.finish(self._blame(item, index, len(job.raw)))
                return
        for index, item in enumerate(prepared):
            assert isinstance(item, Item)
            self._serial += 1
            self._entries[self._serial] = (job, index, item)
            bisect.insort(self._by_cost, (hash(item.group), item.cost, self._serial))
            self._waiting_cost += item.cost
            job.waiting.append(self._serial)
        self._turns.append(job)

    def _take(self) -> list[tuple[_Job[Raw, Out], int, Item]]:
        """The next batch: the item whose turn it is, and its nearest neighbours in cost within the budget.

        A worker leaves the other free ones their shares of what waits, so that one request uses all of them.
        """
        anchor = self._next_anchor()
        if anchor is None:
            return []
        first = self._entries[anchor][2]
        keys = self._by_cost
        high = bisect.bisect_left(keys, (hash(first.group), first.cost, anchor))
        low, chosen, cost, filled = high - 1, [anchor], first.cost, first.cost
        high += 1

        share = -(-self._waiting_cost // (len(self._threads) - self._busy))

        def fits(longest: int, one: int) -> bool:
            padded, real = longest * (len(chosen) + 1), filled + one
            return padded <= self._max_cost and real <= share and padded - real <= self._max_padding * padded

        while len(chosen) < self._max_items:
            below = keys[low] if low >= 0 and keys[low][0] == hash(first.group) else None
            above = keys[high] if high < len(keys) and keys[high][0] == hash(first.group) else None
            nearer = above and (not below or above[1] - first.cost <= first.cost - below[1])
            if nearer and above and fits(above[1], above[1]):
                cost, filled, high = above[1], filled + above[1], high + 1
                chosen.append(above[2])
            elif below and fits(cost, below[1]):
                filled, low = filled + below[1], low - 1
                chosen.append(below[2])
            else:
                break
        del keys[low + 1 : high]
        entries = [self._entries.pop(serial) for serial in chosen]
        self._waiting_cost -= filled
        self._release(len(entries))
        return [entry for entry in entries if not entry[0].ended]

    def _next_anchor(self) -> int | None:
        """The first waiting item of the request whose turn it is; ended requests are dropped on the way."""
        while self._turns:
            job = self._turns.popleft()
            while job.waiting and job.waiting[0] not in self._entries:
                job.waiting.popleft()
            if job.ended:
                self._drop(job)
            elif job.waiting:
                self._turns.append(job)
                return job.waiting[0]
        return None

    def _drop(self, job: _Job[Raw, Out]) -> None:
        gone = [serial for serial, entry in self._entries.items() if entry[0] is job]
        for serial in gone:
            item = self._entries.pop(serial)[2]
            self._waiting_cost -= item.cost
            del self._by_cost[bisect.bisect_left(self._by_cost, (hash(item.group), item.cost, serial))]
        self._release(len(gone))

    def _busy_by(self, change: int) -> None:
        with self._finishing:
            self._busy += change

    def _release(self, count: int) -> None:
        with self._wake:
            self._queued -= count

    def _compute_batch(self, batch: list[tuple[_Job[Raw, Out], int, Item]]) -> None:
        if not batch:
            return
        try:
            outputs = self._compute([item.value for _, _, item in batch])
            if len(outputs) != len(batch):
                raise EngineError(f"{len(outputs)} results for {len(batch)} inputs")
        except Exception as error:
            # What its frames hold, on a GPU too, would be missing to the parts of the batch.
            traceback.clear_frames(error.__traceback__)
            self._isolate(batch, error)
            return
        with self._finishing:
            for (job, index, _), output in zip(batch, outputs, strict=True):
                job.results[index] = output
                job.left -= 1
                if not job.left:
                    job.finish()

    def _isolate(self, batch: list[tuple[_Job[Raw, Out], int, Item]], error: Exception) -> None:
        """Halve a batch that failed until the input that fails stands alone; the rest are computed."""
        if len(batch) > 1:
            middle = len(batch) // 2
            self._compute_batch(batch[:middle])
            self._compute_batch(batch[middle:])
            return
        job, index, _ = batch[0]
        log.warning("one input failed alone: %s", error)
        known = error if isinstance(error, ServeAppError) else EngineError(f"the model failed on this input: {error}")
        with self._finishing:
            job.finish(self._blame(known, index, len(job.raw)))

    def _blame(self, error: ServeAppError, index: int, count: int) -> ServeAppError:
        """The same error, naming the input it is about."""
        message = error.message if count == 1 else f"{self._label} {index}: {error.message}"
        place = self._label if count == 1 else f"{self._label}[{index}]"
        param = place if isinstance(error, BadRequest) else error.param
        return type(error)(message, param=param, retry_after_s=error.retry_after_s)
