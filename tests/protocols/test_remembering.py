"""Endpoints that are found again without matching, and their refusals."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.errors import BadRequest, NotFound
from deployments.protocols import remembering
from deployments.protocols.app import build_app, post
from deployments.protocols.remembering import Remembering
from tests.protocols.fakes import Served


class Late(Response):
    """An answer that finds out only when it is sent that there is none."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise self._error


async def broken() -> AsyncIterator[bytes]:
    yield b"a"
    raise ValueError("broken off")


def app() -> FastAPI:
    served = Served(None)
    api = APIRouter()

    @post(api, "/items/{item}", served)
    async def echo(request: Request) -> Response:
        return Response(request.path_params["item"].encode() + await request.body())

    @post(api, "/fails/{how}", served)
    async def fails(request: Request) -> Response:
        how = request.path_params["how"]
        if how == "at once":
            raise BadRequest("no such thing")
        if how == "begun":
            return StreamingResponse(broken())
        return Late(NotFound("nothing there") if how == "late" else ValueError("a fault"))

    return build_app("x", [api])


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Remembering(app()))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


async def test_parameters_are_those_of_the_path_at_each_time(client: httpx.AsyncClient) -> None:
    for item in ("a", "b", "a"):
        assert (await client.post(f"/items/{item}", content=b"!")).text == f"{item}!"


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [("at once", 400, "no such thing"), ("late", 404, "nothing there"), ("fault", 500, "internal error")],
)
async def test_a_refusal_is_answered_whenever_it_comes(
    client: httpx.AsyncClient, how: str, status: int, said: str
) -> None:
    for _ in range(2):
        answer = await client.post(f"/fails/{how}")
        assert (answer.status_code, said in answer.text) == (status, True)


async def test_what_breaks_off_an_answer_is_not_answered_a_second_time(client: httpx.AsyncClient) -> None:
    with pytest.raises(ValueError, match="broken off"):
        await client.post("/fails/begun")


async def test_other_methods_and_paths_are_refused_as_ever(client: httpx.AsyncClient) -> None:
    assert (await client.get("/items/a")).status_code == 405
    assert (await client.post("/nowhere")).status_code == 404


async def test_many_paths_do_not_keep_others_from_being_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "MOST", 3)
    made = Remembering(app())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://x") as client:
        for number in range(10):
            assert (await client.post(f"/items/{number}")).text == str(number)
        known = dict(made._known)
        for path in known:
            await client.post(path[1])
        assert made._known == known, "what is known takes no room"
    assert ("", "/items/9") in made._known
    assert len(made._known) <= 3
