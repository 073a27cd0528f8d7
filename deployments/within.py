"""A time limit for blocks that are entered thousands of times a second and seldom last that long.

`asyncio.timeout` sets and clears a timer of the event loop for each block. Here one timer of a loop looks at all of
its blocks, see docs/adr/0020.
"""

import asyncio
import contextvars
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakKeyDictionary

TICK_S = 0.1
"""How late a limit may be noticed, at most."""


class within:  # noqa: N801 (named as `asyncio.timeout`, in whose place it stands)
    """`with within(seconds):` cancels its block after so long, up to `TICK_S` later, and has it raise `TimeoutError`.

    As with `asyncio.timeout`, a block whose task is cancelled by others too is cancelled.
    """

    __slots__ = ("_among", "_cancelling", "_ends_s", "_expired", "_seconds", "_task")

    def __init__(self, seconds: float) -> None:
        self._seconds, self._expired = seconds, False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task, "a time limit is for what runs in a task"
        self._task, self._cancelling, loop = task, task.cancelling(), task.get_loop()
        self._ends_s = loop.time() + self._seconds
        self._among = looked_at(loop)
        self._among.add(self)
        return self

    def lift(self) -> None:
        """Let the rest of the block take as long as it likes."""
        self._among.discard(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.lift()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def is_over(self, now_s: float) -> bool:
        """Whether the block's time is over."""
        return now_s >= self._ends_s

    def end(self) -> None:
        """Cancel the block."""
        self.lift()
        self._expired = True
        self._task.cancel()


class Limited(Protocol):
    """What has a time limit."""

    def is_over(self, now_s: float) -> bool:
        """Whether its time is over, by the loop's clock."""

    def end(self) -> None:
        """What is done then; it is looked at again unless it is taken out."""


_blocks: "WeakKeyDictionary[asyncio.AbstractEventLoop, set[Limited]]" = WeakKeyDictionary()
"""The blocks under way of each loop that has a timer to look at them."""


def looked_at(loop: asyncio.AbstractEventLoop) -> set[Limited]:
    """What that loop's timer looks at every `TICK_S`; add to it at once, or it may be looked at no more."""
    blocks = _blocks.get(loop)
    if blocks is None:
        _blocks[loop] = blocks = set()
        _look_later(loop)
    return blocks


def _look_later(loop: asyncio.AbstractEventLoop) -> None:
    # In a context of its own: that of whoever set the timer would live as long as there are blocks.
    loop.call_later(TICK_S, _look, loop, context=contextvars.Context())


def _look(loop: asyncio.AbstractEventLoop) -> None:
    blocks, now_s = _blocks[loop], loop.time()
    try:
        for block in [one for one in list(blocks) if one.is_over(now_s)]:
            block.end()
    finally:  # also where a task's `cancel()` raises
        if blocks:
            _look_later(loop)
        else:
            del _blocks[loop]
