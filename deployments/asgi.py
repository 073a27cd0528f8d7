"""An ASGI app run against a request that is already here: answered whole, or as a stream.

Knows nothing of Ray and of what the app does.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from starlette.types import ASGIApp, Receive, Scope

from deployments.errors import EngineError

log = logging.getLogger(__name__)
BodyBytes = bytes | bytearray | npt.NDArray[np.uint8]
"""A body: bytes, a buffer that it was read into, or where it is large a read-only array over shared memory."""

BODY = "serve_app.body"
"""Where a scope has the whole body, if that is here as bytes: `receive` gives the same, and takes longer. Whoever
puts another `receive` in its place replaces this too."""
PIECE_BYTES = 1 << 20
PACE_S = 0.001
"""What a piece costs the processes it passes, roughly; so far apart pieces of all streams together need not be."""
LONGEST_HOLD_S = 0.025
_chance = random.Random()  # noqa: S311 (of our own: a model may seed the common one)
_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
"""What the digit that says a UUID's variant may be, by any digit."""
_under_way: set["asyncio.Task[None]"] = set()
"""The apps whose answers are streamed now."""


_Messages = asyncio.Queue[MutableMapping[str, Any] | None]


class Head(NamedTuple):
    """A request without its body, small enough to travel in every call."""

    method: str
    path: str
    root_path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    timeout_s: float
    """Seconds that are left for the answer to begin."""
    model: str = ""
    """Who is to answer, where the replica hosts several."""


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def new_id() -> str:
    """An id for a request, as a UUID. Not of the kernel's randomness, which takes 15 µs: it is no secret."""
    digits = f"{_chance.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def scope_of(head: Head, body: BodyBytes) -> Scope:
    """The ASGI scope of a request that is here. `serve_app.timeout_s` is the time left for its answer to begin."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": head.method,
        "scheme": "http",
        "path": head.root_path + head.path,
        "raw_path": (head.root_path + head.path).encode(),
        "root_path": head.root_path,
        "query_string": head.query,
        "headers": head.headers,
        "client": head.client,
        "server": None,
        "state": {},
        "serve_app.timeout_s": head.timeout_s,
        BODY: body if isinstance(body, bytes) else None,
    }


async def run_unary(app: ASGIApp, head: Head, body: BodyBytes) -> Answer:
    """The app's whole answer, also where it raises after that, as Starlette does with what it answered by 500.

    Cancelling this cancels the app.
    """
    status, headers, whole = 500, [], False
    parts: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status, headers, whole
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))
            whole = not message.get("more_body", False)

    try:
        await app(scope_of(head, body), receive_of(body), send)
    except Exception:
        if not whole:
            raise
        log.exception("%s %s failed", head.method, head.path)
    return Answer(status, headers, parts[0] if len(parts) == 1 else b"".join(parts))


async def run_stream(app: ASGIApp, head: Head, body: BodyBytes) -> AsyncIterator[Answer | bytes]:
    """The app's answer as it comes: first its head with what body is there, then pieces of body.

    What the app has sent by the time a piece leaves goes with it, and pieces of one answer leave `PACE_S` times
    the answers that are under way apart; the first is never held back. A piece is at most `PIECE_BYTES`. Closing
    the generator cancels the app.
    """
    queue: _Messages = asyncio.Queue(maxsize=64)
    task = asyncio.create_task(_run(app, head, body, queue))
    _under_way.add(task)
    try:
        start = await queue.get()
        if start is None:
            await task
            return
        first, ended = _waiting(queue)
        yield Answer(start["status"], list(start.get("headers", ())), first[:PIECE_BYTES])
        for piece in _pieces(first[PIECE_BYTES:]):
            yield piece
        while not ended:
            left_s = time.monotonic()
            message = await queue.get()
            if message is None:
                break
            hold_s = min(PACE_S * len(_under_way), LONGEST_HOLD_S) - (time.monotonic() - left_s)
            if len(_under_way) > 1 and hold_s > 0:
                await asyncio.sleep(hold_s)
            more, ended = _waiting(queue)
            for piece in _pieces(message.get("body", b"") + more):
                yield piece
        await task
    finally:
        _under_way.discard(task)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


async def _run(app: ASGIApp, head: Head, body: BodyBytes, queue: "_Messages") -> None:
    """Have the app's messages in the queue, and None after the last. Raises what the app raises."""
    # Not in a `finally`: a cancelled app must not wait for room in a queue that nobody reads.
    try:
        await app(scope_of(head, body), receive_of(body), queue.put)
    except Exception:
        await queue.put(None)
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        await queue.put(None)
        raise EngineError("what answered was stopped by something of its own") from error
    await queue.put(None)


def _waiting(queue: "_Messages") -> tuple[bytes, bool]:
    """The body bytes that are in the queue now, and whether the app has ended."""
    parts: list[bytes] = []
    while not queue.empty():
        message = queue.get_nowait()
        if message is None:
            return b"".join(parts), True
        parts.append(message.get("body", b""))
    return b"".join(parts), False


def _pieces(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), PIECE_BYTES):
        yield body[at : at + PIECE_BYTES]


def receive_of(body: BodyBytes) -> Receive:
    """ASGI's `receive` over a body that is here: bytes as they are, what else there is in pieces, then silence.

    A form's pieces are taken apart one by one, and other requests come between.
    """
    step = max(len(body), 1) if isinstance(body, bytes) else PIECE_BYTES
    starts = iter(range(0, max(len(body), 1), step))
    seen = body if isinstance(body, bytes) else memoryview(body)  # type: ignore[arg-type]  # numpy's are buffers

    async def receive() -> MutableMapping[str, Any]:
        at = next(starts, None)
        if at is None:
            await asyncio.Event().wait()
        assert at is not None
        end = at + step
        return {"type": "http.request", "body": bytes(seen[at:end]), "more_body": end < len(body)}

    return receive
