"""Blocking work of one request as an async iterator: in a thread of its own, in turns, stopped when nobody listens.

Knows nothing of what is computed.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deployments.errors import EngineError, ServeAppError

log = logging.getLogger(__name__)
LOOK_S = 0.1
"""How often a request that waits for its turn looks whether it is still wanted."""
FIRST_S = 0.01
"""How long a thread lets the reader of its first piece go before it, at most."""
Piece = TypeVar("Piece")


class Cancelled(Exception):
    """The work is not wanted any more. Ends the thread; nobody is told."""


class Turns:
    """A lock for `places` holders at once, given in the order in which it was asked for.

    Requests that work in steps and take a turn for each step share an engine fairly: a short one
    waits for one step of each long one, not for their ends.
    """

    def __init__(self, places: int = 1) -> None:
        self._free = places
        self._waiting: deque[threading.Event] = deque()
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def turn(self, cancelled: threading.Event) -> Iterator[None]:
        """Wait for a place, and give it back at the end of the block. Raises `Cancelled` once `cancelled` is set."""
        with self._guard:
            mine = threading.Event()
            if self._free:
                self._free -= 1
                mine.set()
            else:
                self._waiting.append(mine)
        try:
            while not mine.wait(LOOK_S):
                if cancelled.is_set():
                    raise Cancelled
            if cancelled.is_set():
                raise Cancelled
            yield
        finally:
            self._leave(mine)

    def _leave(self, mine: threading.Event) -> None:
        with self._guard:
            if not mine.is_set():
                self._waiting.remove(mine)
            elif self._waiting:
                self._waiting.popleft().set()  # the place goes from hand to hand, so that nobody can jump in
            else:
                self._free += 1


def ahead(name: str, items: Iterator[Piece]) -> Generator[Piece]:
    """What `items` yields, each made in a thread called `name` while the one before is worked on.

    Raises what `items` raises. Closing this waits for the item that is being made.
    """
    with ThreadPoolExecutor(1, name) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


async def stream(name: str, produce: Callable[[threading.Event], Generator[Piece]]) -> AsyncGenerator[Piece]:
    """What `produce(cancelled)` yields in a thread called `name`, as it comes; what it raises is raised here,
    as an `EngineError` unless it is an error of ours.

    The thread never waits for a slow reader, so that the engine is free for others as soon as the work is done; only
    after the first piece it rests until that is on its way, `FIRST_S` at most, for where the work keeps every core
    busy the piece would be 5 ms late. Closing the iterator, or cancelling its reader, sets `cancelled`, which `produce`
    looks at between steps, and waits until the thread has ended: nothing computes for a request that is gone.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
    cancelled, taken, ended = threading.Event(), threading.Event(), asyncio.Event()

    def call(what: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            loop.call_soon_threadsafe(what, *arguments)

    def run() -> None:
        last: Exception | None = None
        try:
            with contextlib.suppress(Cancelled), contextlib.closing(produce(cancelled)) as pieces:
                for piece in pieces:
                    if cancelled.is_set():
                        break
                    call(queue.put_nowait, piece)
                    taken.wait(FIRST_S)
                    taken.set()  # the next ones are not waited for
        except ServeAppError as error:
            last = error
        except Exception as error:
            log.exception("%s failed", name)
            last = EngineError(f"the model failed on this input: {error}")
        call(queue.put_nowait, last)
        call(ended.set)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        while (piece := await queue.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece
            taken.set()
    finally:
        cancelled.set()
        taken.set()
        await asyncio.shield(ended.wait())
