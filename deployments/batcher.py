"""Work-conserving batching of single inputs from many requests, in compute threads of its own. Knows no tensors.

A thread that is free takes what waits, up to a cost budget; it never sleeps hoping for more. A batch starts from the
request whose turn it is (round robin, so that a short request is not stuck behind a long one) and is filled with the
waiting inputs nearest to it in cost, so that little is padded. Short batches may be the event loop's, see `on_loop`.
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

from deployments.errors import EngineError, QueueFull, ServeAppError
from deployments.on_loop import Patience, Shortness
from deployments.waiting import Entry, Item, Waiting

log = logging.getLogger(__name__)
Raw = TypeVar("Raw")
Out = TypeVar("Out")
REST_S = 5.0


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

    `prepare(raws)` turns inputs into `Item`s, or into the error that an input deserves, in order; one thread at a
    time. `compute(values)` turns the values of one batch into as many results, in order; several workers at once.
    `rest()` is called by a worker that has had nothing to do for `REST_S`, once each time. The cost of a batch is
    its longest item's cost times its length, as a padded tensor's is; it stays within `max_cost` (a single item may
    exceed it) and within `max_items`, and at most the share `max_padding` of it is padding. `max_queue()` bounds
    what may wait. `label` is what callers call an input. With `short_here`, the event loop computes short ones;
    `workers` is 1 then.
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
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        assert workers == 1 or not short_here
        self._short_here, self._asked_here = short_here, False
        self._shortness, self._patience = Shortness(), Patience()
        self._prepare, self._compute = prepare, compute
        self._max_queue, self._label, self._rest = max_queue, label, rest
        self._inbox: deque[_Job[Raw, Out]] = deque()
        self._waiting: Waiting[_Job[Raw, Out]] = Waiting(max_cost, max_items, max_padding)
        self._failed: deque[list[_Entry[Raw, Out]]] = deque()
        self._queued = self._busy = 0
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
        short = self._shortness.cost > 0
        if short and len(raw) == 1 and not self._queued and self._patience.alone():
            made, short = self._at_once(raw)
            if made is not None:
                return made
        loop = asyncio.get_running_loop()
        job = _Job(raw, loop, loop.create_future(), [None] * len(raw), left=len(raw))
        with self._wake:
            if self._closed:
                raise EngineError("the engine was stopped")
            if self._queued and self._queued + len(raw) > (most := self._max_queue()):
                raise QueueFull(f"{self._queued} inputs wait already (at most {most})", retry_after_s=1)
            self._queued += len(raw)
            self._inbox.append(job)
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

    def _at_once(self, raw: Sequence[Raw]) -> tuple[list[Out] | None, bool]:
        """The result of a lone input that the event loop computes now, past the queue; None where it is to wait.

        And whether the event loop may compute it then: what fails here is computed again by the thread.
        """
        if not self._picking.acquire(blocking=False):
            return None, True
        try:
            (item,) = self._prepared(raw)
            if self._closed or self._busy or isinstance(item, ServeAppError) or item.cost > self._shortness.cost:
                return None, True
            self._patience.let_by()
            return list(self._computed([item])), True
        except (Exception, SystemExit) as error:
            traceback.clear_frames(error.__traceback__)
            return None, False
        finally:
            self._picking.release()

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
        """Wait until there is work, and say whether to go on; rest in between, where that takes long."""
        with self._wake:
            soon = self._wake.wait_for(self._has_work, REST_S)
        if not soon:
            self._rest()
        with self._wake:
            self._wake.wait_for(self._has_work)
            return not self._closed

    def _has_work(self) -> bool:
        return bool(self._closed or self._inbox or self._waiting or self._failed)

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
            while self._waiting and not self._busy and not self._failed and self._waiting.cost <= self._shortness.cost:
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

    def _computed(self, batch: list[Item]) -> Sequence[Out]:
        """As many results as items; learn from the time that it takes what a batch may cost to be short."""
        began_s = time.monotonic()
        try:
            outputs = self._compute([item.value for item in batch])
        finally:
            if self._short_here:
                self._shortness.learn(sum([item.cost for item in batch]), time.monotonic() - began_s)
        if len(outputs) != len(batch):
            raise EngineError(f"{len(outputs)} results for {len(batch)} inputs")
        return outputs

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

    def _prepared(self, raw: Sequence[Raw]) -> Sequence[Item | ServeAppError]:
        try:
            return self._prepare(raw)
        except Exception as error:
            log.exception("preparing %d inputs failed", len(raw))
            return [EngineError(f"the model could not read its input: {error}")]

    def _admit(self, job: _Job[Raw, Out]) -> None:
        for index, item in enumerate(prepared := self._prepared(job.raw)):
            if isinstance(item, ServeAppError):
                self._release(len(job.raw))
                job.finish(item.about(self._label, index, len(job.raw)))
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
            outputs = self._computed([item for _, _, item in batch])
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
        if middle := len(batch) // 2:
            self._compute_batch(batch[:middle])
            self._compute_batch(batch[middle:])
            return
        job, index, _ = batch[0]
        log.warning("one input failed alone: %s", error)
        known = error if isinstance(error, ServeAppError) else EngineError(f"the model failed on this input: {error}")
        with self._finishing:
            job.finish(known.about(self._label, index, len(job.raw)))
