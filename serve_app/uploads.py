"""Bodies being read: whole, in bounded memory, however many come at once.

Knows nothing of models or of what is in a body.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from deployments.errors import QueueFull

SMALL_BYTES = 1 << 20
"""Bodies up to here take no room worth counting."""


class Room:
    """What the large bodies that are read at the same time may take together, in bytes.

    A body for which there is no room is refused. To let it wait would save nothing: Ray Serve reads
    every request to its end, into a queue without bound, whether or not anybody takes from it.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._taken = 0

    @contextlib.contextmanager
    def take(self, size: int) -> Iterator[Callable[[int], None]]:
        """Hold `size` bytes for the length of the block, which is given a function that makes it more.

        Raises `QueueFull` where they are not there; so does that function.
        """
        held = 0

        def grow(size: int) -> None:
            nonlocal held
            if size <= max(held, SMALL_BYTES):
                return
            others, limit = self._taken - held, self._limit()
            if others and others + size > limit:
                raise QueueFull(
                    f"requests of {others} bytes are being read, of at most {limit} (gateway.max_reading); try again",
                    retry_after_s=5,
                )
            self._taken += size - held
            held = size

        try:
            grow(size)
            yield grow
        finally:
            self._taken -= held


async def read_body(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]], expected: int, grow: Callable[[int], None]
) -> bytes | bytearray:
    """The whole body: the very bytes where they came in one message, else one buffer, made for `expected` bytes.

    `grow` is told when it becomes larger than that.
    """
    message = await receive()
    first: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(first) > expected:
            grow(len(first))
        return first
    body, at = bytearray(expected), 0
    while True:
        piece: bytes = message.get("body", b"")
        body[at : at + len(piece)] = piece
        at += len(piece)
        if at > expected:
            grow(at)
        if not message.get("more_body", False):
            break
        message = await receive()
    del body[at:]
    return body
