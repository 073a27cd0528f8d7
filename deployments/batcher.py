"""Work-conserving batching of single inputs from many requests, in compute threads of its own.

A thread that is free takes what waits, up to a cost budget; it never sleeps hoping for more.
A batch starts from the request whose turn it is (round robin, so that a short request is not stuck
behind a long one) and is filled with the waiting inputs nearest to it in cost, so that little is
padded. Where batches are seen to be short, the event loop computes them itself: waking a thread would take
longer. Knows nothing of texts, tensors or models.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from deployments.errors import BadRequest, EngineError, QueueFull, ServeAppError
from deployments.waiting import Entry, Item, Patience, Waiting

log = logging.getLogger(__name__)
Raw = TypeVar("Raw")
Out = TypeVar("Out")

SHORT_S = 0.0005
"""How long a batch may take on the event loop."""
HICCUP_S = 0.02
"""How long one may take between short ones, because others use the cores too."""
SHORT_RUNS = 32
"""Batches in a row that must have been short before."""


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
        if asyncio._get_running_loop() is self.loop:
            self._set(error)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._set, error)

    def _set(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error:
            self.done.set_exception(error)
        else:
            self.done.set_result(self.results)  # type: ignore[arg-type]  # every place was filled


_Entry = Entry[_Job[Raw, Out]]


class Batcher(Generic[Raw, Out]):
    """Runs `compute` on batches of prepared inputs, in `workers` threads.

    `prepare(raws)` turns inputs into `Item`s, or into the error that an input deserves, in order; it
    runs in one thread at a time. `compute(values)` turns the values of one batch into as many results,
    in order; with several workers it runs in several threads at once.
    The cost of a batch is its longest item's cost times its length, as a padded tensor's is;
    it stays within `max_cost` (a single item may exceed it) and within `max_items`, and at most the
    share `max_padding` of it is padding. `max_queue()` bounds what may wait.
    `label` is what callers call an input. With `short_here`, batches that cost no more than such as were short
    lately are computed by the event loop; `workers` must be 1 then.
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
        short_here: bool = False,
    ) -> None:
        assert workers == 1 or not short_here
        self._short_here, self._asked_here = short_here, False
        self._short_runs, self._short_cost, self._hiccup = 0, 0, False
        self._patience = Patience()
        self._prepare, self._compute = prepare, compute
        self._max_queue, self._label = max_queue, label
        self._inbox: deque[_Job[Raw, Out]] = deque()
        self._waiting: Waiting[_Job[Raw, Out]] = Waiting(max_cost, max_items, max_padding)
        self._failed: deque[list[_Entry[Raw, Out]]] = deque()
        self._queued = 0
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
            short = self._short_cost > 0
            if not short:
                self._wake.notify()
        if short and not self._asked_here:
            self._asked_here = True
            if self._patience.alone():
                self._compute_here()
            else:
                loop.call_soon(self._compute_here)
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
        with self._picking:  # which the event loop holds while it computes
            left = [*self._inbox, *self._waiting.requests(), *(job for batch in self._failed for job, _, _ in batch)]
        for job in left:
            job.finish(EngineError("the engine was stopped"))

    def _run(self) -> None:
        while self._wait():
            with self._picking:
                self._accept()
                batch = self._failed.popleft() if self._failed else self._take()
                self._busy_by(1)
            if self._waiting:
                self._wake_one()
            self._run_batch(batch)
            self._busy_by(-1)

    def _wait(self) -> bool:
        """Wait until there is work, and say whether to go on."""
        with self._wake:
            while not (self._closed or self._inbox or self._waiting or self._failed):
                self._wake.wait()
            return not self._closed

    def _wake_one(self) -> None:
        with self._wake:
            self._wake.notify()

    def _compute_here(self) -> None:
        """On the event loop: compute what has come in the last turns of it, or leave that to the thread."""
        if self._patience.holds(len(self._inbox), time.monotonic()) and not self._closed:
            asyncio.get_running_loop().call_soon(self._compute_here)
            return
        self._asked_here = False
        if self._closed:
            return
        if not self._picking.acquire(blocking=False):
            self._wake_one()
            return
        try:
            self._accept()
            while self._waiting and not self._busy and not self._failed and self._waiting.cost <= self._short_cost:
                self._run_batch(self._take())
        finally:
            self._picking.release()
        if self._waiting or self._failed:
            self._wake_one()

    def _run_batch(self, batch: list[_Entry[Raw, Out]]) -> None:
        try:
            self._compute_batch(batch)
        except Exception as error:
            log.exception("a batch was lost")
            for job, _, _ in batch:
                job.finish(EngineError(f"the engine failed: {error}"))

    def _computed(self, batch: list[_Entry[Raw, Out]]) -> Sequence[Out]:
        """The results of a batch; know from the time that it takes what a batch may cost to be short.

        That is as much as the dearest since one was not short, after so many.
        """
        began_s = time.monotonic()
        try:
            return self._compute([item.value for _, _, item in batch])
        finally:
            if self._short_here:
                self._learn(sum(item.cost for _, _, item in batch), time.monotonic() - began_s)

    def _learn(self, cost: int, took_s: float) -> None:
        if took_s < SHORT_S:
            self._short_runs, self._hiccup = self._short_runs + 1, False
            if self._short_runs >= SHORT_RUNS:
                self._short_cost = max(self._short_cost, cost)
        elif took_s < HICCUP_S and not self._hiccup:
            self._hiccup = True
        else:
            self._short_runs, self._short_cost, self._hiccup = 0, 0, False

    def _accept(self) -> None:
        """Prepare what is new."""
        with self._wake:
            new = list(self._inbox)
            self._inbox.clear()
        for job in new:
            if job.ended:
                self._release(len(job.raw))
            else:
                self._admit(job)

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
        self._waiting.add(job, cast(Sequence[Item], prepared))

    def _take(self) -> list[_Entry[Raw, Out]]:
        """The next batch, without what nobody waits for any more."""
        before = len(self._waiting)
        batch = self._waiting.take(len(self._threads) - self._busy)
        self._release(before - len(self._waiting))
        return [entry for entry in batch if not entry[0].ended]

    def _busy_by(self, change: int) -> None:
        with self._finishing:
            self._busy += change

    def _release(self, count: int) -> None:
        with self._wake:
            self._queued -= count

    def _compute_batch(self, batch: list[_Entry[Raw, Out]]) -> None:
        if not batch:
            return
        try:
            outputs = self._computed(batch)
            if len(outputs) != len(batch):
                raise EngineError(f"{len(outputs)} results for {len(batch)} inputs")
        except (Exception, SystemExit) as error:
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

    def _isolate(self, batch: list[_Entry[Raw, Out]], error: BaseException) -> None:
        """Halve a batch that failed until the input that fails stands alone; the rest are computed.

        One that failed on the event loop is computed again by the thread, whatever that takes.
        """
        if asyncio._get_running_loop() is not None:
            self._failed.append(batch)
            return
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
