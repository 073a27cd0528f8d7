"""Steps to services elsewhere, over real connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from serve_app.graphs.services import Services
from tests.graphs.graphed import Answered, Says, World, node, refusal

Ask = Callable[..., Awaitable[Answered]]


class Elsewhere:
    """A server of somebody else's; `asked` are the paths, `gone` is set when a client hung up."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gone = asyncio.Event()
        self.go = asyncio.Event()
        answers = {"/echo": self.echo, "/redirect": self.redirect, "/hang": self.hang, "/sse": self.sse}
        routes = [Route(path, answer, methods=["POST"]) for path, answer in {**answers, "/big": self.big}.items()]
        self.app = Starlette(routes=routes)

    async def echo(self, request: Request) -> Response:
        self.asked.append(str(request.url.path))
        headers = {name: value for name, value in request.headers.items() if name.startswith(("x-", "content-type"))}
        return JSONResponse({"got": await request.json(), "headers": headers}, headers={"x-mine": "1"})

    async def redirect(self, _request: Request) -> Response:
        return RedirectResponse("/echo", 307)

    async def hang(self, request: Request) -> Response:
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        self.gone.set()
        return Response()

    async def sse(self, _request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await self.go.wait()
            yield b"data: 2\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def big(self, _request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(400):
                yield b"x" * 100_000

        return StreamingResponse(pieces())


@pytest.fixture
async def elsewhere() -> AsyncIterator[tuple[Elsewhere, str]]:
    made = Elsewhere()
    server = uvicorn.Server(uvicorn.Config(made.app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield made, f"http://127.0.0.1:{port}"
    server.force_exit = server.should_exit = True
    await task


def world(*steps: dict[str, Any], models: dict[str, Says] | None = None, **graph: Any) -> World:
    return World({"root": node("Sequence", *steps)}, models or {}, **graph)


async def test_a_service_gets_the_body_and_the_headers_that_match(elsewhere: tuple[Elsewhere, str]) -> None:
    graph = world({"serviceUrl": f"{elsewhere[1]}/echo"}, headers=["^x-team$"])
    answered = await graph.ask({"a": 1}, None, x_team="t", x_secret="s", x_request_id="7")
    assert answered.data == {"got": {"a": 1}, "headers": {"content-type": "application/json", "x-team": "t"}}
    assert answered.headers["x-mine"] == "1"
    await graph.graphs.close()


async def test_redirects_are_not_followed(elsewhere: tuple[Elsewhere, str]) -> None:
    made, url = elsewhere
    answered = await world({"serviceUrl": f"{url}/redirect"}).ask({"url": f"{url}/echo"})
    assert (answered.status, made.asked) == (307, [])


async def test_a_large_answer_is_left_at_the_limit(elsewhere: tuple[Elsewhere, str]) -> None:
    big = {"name": "big", "serviceUrl": f"{elsewhere[1]}/big"}
    soft = world(big, {"name": "a", "serviceName": "a", "data": "$response"}, models={"a": Says(1)}, maxAnswer="1MB")
    assert (await soft.ask({})).data == 1
    assert soft.models["a"].bodies == [{"error": "step big: answered more than 1000000 bytes (maxAnswer)"}]


async def test_a_service_that_is_slow_is_let_go_of(elsewhere: tuple[Elsewhere, str]) -> None:
    made, url = elsewhere
    answered = await world({"name": "slow", "serviceUrl": f"{url}/hang", "timeout": 0.1}).ask({})
    assert (answered.status, answered.data) == (504, refusal("step slow did not answer within 0.1 s"))
    await asyncio.wait_for(made.gone.wait(), 5)


async def test_a_client_that_hangs_up_lets_go_of_the_service(elsewhere: tuple[Elsewhere, str]) -> None:
    made, url = elsewhere
    task = asyncio.create_task(world({"serviceUrl": f"{url}/hang"}).ask({}))
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait_for(made.gone.wait(), 5)


async def test_the_events_of_the_last_service_pass_as_they_come(elsewhere: tuple[Elsewhere, str]) -> None:
    made, url = elsewhere
    answered = Answered()
    task = asyncio.create_task(world({"serviceUrl": f"{url}/sse"}).ask({}, answered))
    while not answered.pieces:
        await asyncio.sleep(0.01)
    assert (answered.headers["content-type"], answered.body) == ("text/event-stream; charset=utf-8", b"data: 1\n\n")
    made.go.set()
    await task
    assert answered.body == b"data: 1\n\ndata: 2\n\n"


async def test_a_service_that_is_not_there_is_named_without_what_is_secret() -> None:
    answered = await world({"serviceUrl": "http://user:secret@127.0.0.1:9/x?key=secret"}).ask({})
    assert answered.status == 502
    assert answered.data["error"].startswith("step root.0: http://127.0.0.1:9/x did not answer: ConnectError")
    assert "secret" not in answered.body.decode()


async def test_connections_that_were_never_made_are_closed_too() -> None:
    await Services().close()
