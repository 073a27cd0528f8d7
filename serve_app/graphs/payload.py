"""What goes from step to step: a body, its type, and its status where it is an answer; and how answers are taken.

Knows nothing of graphs.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Message, Send

from deployments.errors import BadAnswer, ServeAppError
from deployments.protocols.app import off_loop

Headers = list[tuple[bytes, bytes]]
JSON = b"application/json"
STEP = b"x-graph-step"
"""The header that says whose failure an answer is."""
FAILED = "Failed to process request"
"""What KServe's router calls everything that goes wrong in it."""
_UNREAD = object()


@dataclass(frozen=True)
class Payload:
    """A body as it came; read as JSON once, and only if somebody asks."""

    body: bytes
    kind: bytes = JSON
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Those of an answer that are the client's to know besides its type."""
    _read: list[Any] = field(default_factory=lambda: [_UNREAD], compare=False, repr=False)

    @classmethod
    def failure(cls, cause: str, status: int, step: str = "") -> "Payload":
        """What is answered for something that went wrong in the graph itself, in KServe's words; in which step."""
        headers = [(STEP, step.encode())] if step else []
        return cls(orjson.dumps({"error": FAILED, "cause": cause}), status=status, headers=headers)

    @classmethod
    def error(cls, error: ServeAppError, step: str = "") -> "Payload":
        """What a request that was refused is answered: by the model that a step asked, or before any."""
        later = error.retry_after_s
        headers = [(b"retry-after", str(math.ceil(later)).encode())] if later is not None else []
        message = f"step {step}: {error.message}" if step else error.message
        return cls(
            orjson.dumps({"error": message}),
            status=error.status,
            headers=[*headers, *([(STEP, step.encode())] if step else [])],
        )

    @property
    def succeeded(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status <= 299

    async def data(self) -> Any:
        """What the body says. Raises `ValueError` where it is no JSON."""
        if self._read[0] is _UNREAD:
            self._read[0] = await off_loop(len(self.body), lambda: _loads(self.body))
        if isinstance(self._read[0], ValueError):
            raise self._read[0]
        return self._read[0]


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return ValueError(str(error))


class Collector:
    """An ASGI `send` that keeps an answer. Raises `BadAnswer` as soon as that is over `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._parts: list[bytes] = []
        self._status, self._headers = 500, Headers()

    async def send(self, message: Message) -> None:
        """One of the app's messages."""
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message.get("headers", ()))
        else:
            part = message.get("body", b"")
            self._size += len(part)
            if self._size > self._limit:
                raise BadAnswer(f"answered more than {self._limit} bytes (maxAnswer)")
            self._parts.append(part)

    def payload(self) -> Payload:
        """The answer, whole."""
        named = {name.lower(): value for name, value in self._headers}
        kept = [(name, named[name]) for name in (b"retry-after", STEP) if name in named]
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        return Payload(body, named.get(b"content-type", b"application/octet-stream"), self._status, kept)


class Out:
    """The client, for the step whose answer is the graph's: once it has begun there, no clock runs any more.

    `headers()` are added to it. `status` is its status, None before it began.
    """

    def __init__(self, send: Send, headers: Callable[[], Headers]) -> None:
        self.status: int | None = None
        self._clocks: list[asyncio.Timeout] = []
        self._send, self._headers = send, headers

    async def send(self, message: Message) -> None:
        """One of the app's messages."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for clock in self._clocks:
                if not clock.expired():
                    clock.reschedule(None)
            message = {**message, "headers": [*message.get("headers", ()), *self._headers()]}
        await self._send(message)

    @property
    def begun(self) -> bool:
        """Whether the client has the beginning of an answer."""
        return self.status is not None

    @contextlib.contextmanager
    def stops(self, clock: asyncio.Timeout) -> Iterator[None]:
        """Within the block, the answer's beginning stops that clock."""
        self._clocks.append(clock)
        try:
            yield
        finally:
            self._clocks.remove(clock)

    async def give(self, payload: Payload) -> None:
        """A whole answer."""
        headers = [(b"content-type", payload.kind), (b"content-length", str(len(payload.body)).encode())]
        await self.send(
            {"type": "http.response.start", "status": payload.status, "headers": [*headers, *payload.headers]}
        )
        await self.send({"type": "http.response.body", "body": payload.body})
