"""What stands before Ray Serve's own part of an ingress replica's HTTP server: it notices clients that hang up, and has
the head of an answer leave with its body.

Ray Serve would do that with two tasks and a queue for every request. Most are answered before a client could have
hung up, so here nobody listens for it until a request has taken `PATIENCE_S`. See docs/adr/0017.

The server writes head and body one after the other. A replica that dies between the two has begun an answer, which
HAProxy can then no longer have from another replica.
"""

import asyncio
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.asgi import new_id
from deployments.within import Limited, looked_at

PATIENCE_S = 0.1
TOGETHER_BYTES = 64 << 10
"""Larger bodies are not copied to be behind their heads."""
ID = b"x-request-id"
TIMEOUT = b"x-request-timeout-seconds"
LEFT_TO_US = (b"x-request-disconnect-disabled", b"?1")
"""Tells Ray Serve that it need not listen for the end of this request's connection."""


def middlewares() -> list[Middleware]:
    """What `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` asks for: in a replica `Front`; in Ray's proxies nothing."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return []
    return [Middleware(Front)]


class Front:
    """ASGI middleware that cancels a request whose client has hung up, and gives it an id where it has none.

    A request that brings a timeout of its own is left to Ray Serve, which then needs the tasks anyway.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope.get("headers", ())}
        if scope["type"] != "http" or TIMEOUT in names:
            await self._app(scope, receive, send)
            return
        if ID not in names:
            scope["headers"].append((ID, new_id().encode()))
        scope["headers"].append(LEFT_TO_US)
        watch = _Watch(receive, send, _pen_of(send))
        try:
            await self._app(scope, watch.receive, watch.send)
        finally:
            watch.close()


class _Watch:
    """One request's messages, and from `PATIENCE_S` after its body's end until its answer's, an eye on its client."""

    def __init__(self, receive: Receive, send: Send, pen: "_Pen | None") -> None:
        self._receive, self._send, self._pen = receive, send, pen
        task = asyncio.current_task()
        assert task, "a request is answered in a task"
        self._task, self._loop = task, task.get_loop()
        self._answered = False
        self._among: set[Limited] | None = None
        self._begins_s = 0.0
        self._listening: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        if self._among is None and not message.get("more_body", False):
            self._begins_s = self._loop.time() + PATIENCE_S
            self._among = looked_at(self._loop)
            self._among.add(self)
        return message

    async def send(self, message: Message) -> None:
        self._answered = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self._pen:
            self._pen.holds(message["type"] == "http.response.start")
        await self._send(message)

    def close(self) -> None:
        if self._among is not None:
            self._among.discard(self)
        if self._listening:
            self._listening.cancel()
            self._listening = None  # its error has this watch in its traceback: garbage that only the collector finds

    def is_over(self, now_s: float) -> bool:
        """Whether the client is listened to from now on."""
        return now_s >= self._begins_s

    def end(self) -> None:
        """Begin to listen."""
        if self._among is not None:
            self._among.discard(self)
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._answered:  # a server says `disconnect` after the answer, too
            self._task.cancel()


class _Pen:
    """A connection's transport, by which what is held leaves in one write with the next piece of the same moment."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport, self._holds, self._held = transport, False, b""

    def holds(self, holds: bool) -> None:
        """Whether what is written from here on is held; until the event loop comes to something else at most."""
        self._holds = holds
        if holds:
            asyncio.get_running_loop().call_soon(self._let_go)

    def write(self, data: bytes) -> None:
        if self._holds:
            self._held += data
            return
        held, self._held = self._held, b""
        if held and len(data) > TOGETHER_BYTES:
            self._transport.write(held)
            held = b""
        self._transport.write(held + data if held else data)

    def close(self) -> None:
        self._let_go()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _let_go(self) -> None:
        self._holds = False
        if self._held:
            self.write(b"")


def _pen_of(send: Send) -> _Pen | None:
    """A pen for the connection behind uvicorn's `send`, which writes with it from now on; None for other servers."""
    cycle = getattr(send, "__self__", None)
    transport = getattr(cycle, "transport", None)
    if cycle is None or transport is None:
        return None
    pen = cycle.transport = _Pen(transport)
    return pen
