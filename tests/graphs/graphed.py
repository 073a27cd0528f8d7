"""Graphs over small ASGI apps, asked without a network."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from deployments.asgi import Head, receive_of, scope_of
from serve_app.graphs.endpoint import Graphs
from serve_app.graphs.spec import Graph


class Says:
    """A model that always answers the same; `asked` are the requests that it got."""

    def __init__(self, content: Any = None, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.body = content if isinstance(content, bytes) else orjson.dumps(content)
        self.headers = {"content-type": kind, **headers}
        self.status = status
        self.asked: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def bodies(self) -> list[Any]:
        return [orjson.loads(body) for _, _, body in self.asked]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append((scope["path"], headers, body))
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": pairs})
        await self.speak(send)

    async def speak(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": self.body})


class Streams(Says):
    """A model that answers piece by piece, and waits for `go` before the last."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__(None, kind="text/event-stream")
        self.pieces, self.go = pieces, asyncio.Event()

    async def speak(self, send: Send) -> None:
        for piece in self.pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await self.go.wait()
        await send({"type": "http.response.body", "body": self.pieces[-1]})


class Hangs(Says):
    """A model that never answers, and knows whether it was let go of."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.ended = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


class Raises(Says):
    """A model that cannot be carried to."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise self.error


class Answered:
    """An answer as a client gets it; `pieces` as they came."""

    def __init__(self) -> None:
        self.status, self.headers = 0, dict[str, str]()
        self.pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def data(self) -> Any:
        return orjson.loads(self.body)

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message.get("body"):
            self.pieces.append(message["body"])


class World:
    """A graph over models."""

    def __init__(
        self,
        nodes: dict[str, Any],
        models: dict[str, Says],
        chance: Callable[[], float] = lambda: 0.5,
        **graph: Any,
    ) -> None:
        self.models = models
        self.graphs = Graphs(self._carry, chance)
        self.graphs.become([Graph.model_validate({"name": "g", "nodes": nodes, **graph})])

    async def _carry(self, name: str, head: Head, body: bytes, send: Send) -> None:
        await self.models[name](scope_of(head, body), receive_of(body), send)

    async def ask(self, body: Any, into: Answered | None = None, **headers: str) -> Answered:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        answered = into or Answered()
        await self.graphs.answer("g", {"type": "http", "headers": pairs, "client": None}, content, answered.send)
        return answered


def node(kind: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"routerType": kind, "steps": list(steps)}


def to(model: str, **rest: Any) -> dict[str, Any]:
    """A step to a model, called as the model."""
    return {"name": model, "serviceName": model, **rest}


def refusal(cause: str) -> dict[str, str]:
    return {"error": "Failed to process request", "cause": cause}


def failing(status: int = 500) -> Says:
    return Says({"error": "broke"}, status)
