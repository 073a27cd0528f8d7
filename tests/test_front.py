"""Clients that hang up, and answers in one piece, before a real HTTP server."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serve_app import front, machine
from serve_app.front import LEFT_TO_US, PATIENCE_S, Front, middlewares

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n%s\r\n{}"


class App:
    """Reads a request, and answers when it is let go; goes on for a moment after that."""

    def __init__(self) -> None:
        self.go, self.begun, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.headers: list[tuple[bytes, bytes]] = []
        self.cancelled = False
        self.rest_s = 0.05
        self.between: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = list(scope["headers"])
        await receive()
        self.begun.set()
        try:
            await self.go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            if self.between:
                await self.between.wait()
            await send({"type": "http.response.body", "body": b"ok"})
            if self.rest_s:
                await asyncio.sleep(self.rest_s)
        except asyncio.CancelledError:
            self.cancelled = True
        finally:
            self.ended.set()


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    port = machine.free_port()
    server = uvicorn.Server(uvicorn.Config(Front(app), port=port, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    app.port = port  # type: ignore[attr-defined]
    yield app
    server.should_exit = True
    await serving


async def ask(app: Any, headers: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(REQUEST % headers)
    await app.begun.wait()
    return reader, writer


async def test_a_client_that_hangs_up_ends_its_request(app: App) -> None:
    _, writer = await ask(app)
    writer.close()
    await asyncio.wait_for(app.ended.wait(), 5)
    assert app.cancelled


async def test_an_answered_request_is_left_to_end(app: App) -> None:
    reader, writer = await ask(app)
    await asyncio.sleep(PATIENCE_S + 0.05)  # until somebody listens
    app.go.set()
    assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
    await asyncio.wait_for(app.ended.wait(), 5)
    assert not app.cancelled
    writer.close()


async def test_nothing_of_a_long_request_is_left_to_the_collector(app: App) -> None:
    app.rest_s = 0  # so that it has ended before whoever listens hears of it
    gc.collect()
    gc.disable()
    try:
        reader, writer = await ask(app)
        await asyncio.sleep(PATIENCE_S + 0.05)
        app.go.set()
        await reader.read(1000)
        await asyncio.wait_for(app.ended.wait(), 5)
        writer.close()
        await asyncio.sleep(0.05)
        assert not [one for one in gc.get_objects() if isinstance(one, front._Watch)]
    finally:
        gc.enable()


async def test_ray_is_told_and_an_id_is_made_where_there_is_none(app: App) -> None:
    app.go.set()
    _, writer = await ask(app, b"X-Request-Id: mine\r\nX-Request-Disconnect-Disabled: ?0\r\n")
    assert (b"x-request-id", b"mine") in app.headers
    assert app.headers[-1] == LEFT_TO_US
    _, other = await ask(app)
    await asyncio.wait_for(app.ended.wait(), 5)
    assert len(dict(app.headers)[b"x-request-id"]) == 36
    for one in (writer, other):
        one.close()


async def test_a_request_with_a_timeout_is_left_to_ray(app: App) -> None:
    app.go.set()
    _, writer = await ask(app, b"X-Request-Timeout-Seconds: 5\r\n")
    assert LEFT_TO_US not in app.headers
    writer.close()


async def test_the_head_of_an_answer_leaves_with_its_body(app: App) -> None:
    """Else a replica that dies between the two has begun an answer, and HAProxy cannot have it from another one."""
    app.go.set()
    sizes = await asyncio.to_thread(lambda: [len(answer) for answer in asked(app.port, 60)])  # type: ignore[attr-defined]
    assert len(set(sizes)) == 1, sizes


def asked(port: int, times: int) -> Iterator[bytes]:
    """What is there of each answer when the first of it is there."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(times):
            client.sendall(REQUEST % b"X-Request-Id: 1\r\n")
            answer = client.recv(1000)
            yield answer
            if not answer.endswith(b"ok"):
                client.recv(1000)


async def test_a_head_does_not_wait_for_a_body_that_is_not_there_yet(app: App) -> None:
    app.between = asyncio.Event()
    app.go.set()
    reader, writer = await ask(app)
    assert (await asyncio.wait_for(reader.read(1000), 5)).endswith(b"\r\n\r\n")
    app.between.set()
    assert await asyncio.wait_for(reader.read(1000), 5) == b"ok"
    writer.close()


def test_ray_s_proxies_have_none() -> None:
    assert middlewares() == []
