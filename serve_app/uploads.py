"""Bodies being read: whole, in bounded memory, however many come at once.

Knows nothing of models or of what is in a body.
"""

from collections.abc import Callable
from types import TracebackType

from starlette.types import Receive, Scope

from deployments.asgi import BODY
from deployments.errors import BadRequest, BodyTimeout, PayloadTooLarge, QueueFull
from deployments.within import within

SMALL_BYTES = 1 << 20
"""Bodies up to here take no room worth counting."""
BODY_IDLE_S = 60.0


class ClientGone(Exception):
    """The client hung up before its request was complete; there is nobody to answer."""


class Room:
    """What bodies may take, in bytes: each `most()`, the large ones that are held at the same time `together()`.

    A body for which there is no room is refused. To let it wait would save nothing: Ray Serve reads
    every request to its end, into a queue without bound, whether or not anybody takes from it.
    """

    def __init__(self, most: Callable[[], int], together: Callable[[], int]) -> None:
        self._most, self._together = most, together
        self._taken = 0

    def held(self, scope: Scope, receive: Receive) -> "_Held":
        """`async with` a request's whole body, which takes its room until the end of the block."""
        return _Held(self, scope, receive)

    def grow(self, held: int, size: int) -> int:
        """Let a body that takes `held` bytes of room be of `size`; what it takes then.

        Raises `PayloadTooLarge`, and `QueueFull` where the bytes are not there.
        """
        if size > self._most():
            raise PayloadTooLarge(f"the body is {size} bytes or more; at most {self._most()} (gateway.max_body)")
        if size <= max(held, SMALL_BYTES):
            return held
        others, limit = self._taken - held, self._together()
        if others and others + size > limit:
            raise QueueFull(
                f"requests of {others} bytes are being read, of at most {limit} (gateway.max_reading); try again",
                retry_after_s=5,
            )
        self._taken += size - held
        return size

    def give_back(self, held: int) -> None:
        """Let others have what a body took."""
        self._taken -= held


class _Held:
    """Reads a body at the beginning of a block: the very bytes where they came in one message, else one buffer.

    Raises `PayloadTooLarge` for one over the limit, before it is read to the end, `QueueFull`, `BadRequest` for a
    length that is no number, `BodyTimeout` when nothing comes for a minute, `ClientGone`.
    """

    __slots__ = ("_receive", "_room", "_scope", "_size")

    def __init__(self, room: Room, scope: Scope, receive: Receive) -> None:
        self._room, self._scope, self._receive, self._size = room, scope, receive, 0

    async def __aenter__(self) -> bytes | bytearray:
        here: bytes | None = self._scope.get(BODY)
        try:
            if here is None:
                return await self._read(declared_bytes(self._scope))
            self._grow(len(here))
        except BaseException:
            self._room.give_back(self._size)
            raise
        return here

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._room.give_back(self._size)

    def _grow(self, size: int) -> None:
        self._size = self._room.grow(self._size, size)

    async def _read(self, expected: int) -> bytes | bytearray:
        self._grow(expected)
        piece, more = await self._piece(0)
        if not more:
            self._grow(len(piece))
            return piece
        body, at = bytearray(expected), 0
        while True:
            self._grow(at + len(piece))
            body[at : at + len(piece)] = piece
            at += len(piece)
            if not more:
                break
            piece, more = await self._piece(at)
        del body[at:]
        return body

    async def _piece(self, taken: int) -> tuple[bytes, bool]:
        """The next bytes, and whether there are more."""
        try:
            with within(BODY_IDLE_S):
                message = await self._receive()
        except TimeoutError:
            raise BodyTimeout(f"no more of the body came for {BODY_IDLE_S:.0f} s, after {taken} bytes") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message.get("body", b""), message.get("more_body", False)


def declared_bytes(scope: Scope) -> int:
    """The body's length by its header; 0 where it comes in chunks. Raises `BadRequest` for what is no number."""
    declared: bytes = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit():
        raise BadRequest(f"content-length {declared.decode('latin-1')!r} is not a number")
    return int(declared)
