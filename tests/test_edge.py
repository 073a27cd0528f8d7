"""Keys, ids and errors before the ingress."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from deployments.errors import BadRequest
from serve_app import environment, uploads
from serve_app.edge import Edge
from serve_app.uploads import Room


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope)
    if request.url.path == "/refuse":
        raise BadRequest("no")
    if request.url.path == "/crash":
        raise RuntimeError("secret")
    headers = {name: value for name, value in request.headers.items() if name.startswith("x-")}
    async with Room(lambda: 1000, lambda: 1000).held(scope, receive) as body:
        answer = PlainTextResponse(f"{len(body)} {headers}", headers={"x-request-id": "inner", "x-kept": "1"})
        await answer(scope, receive, send)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Edge(echo))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


async def test_headers_that_switch_off_care_are_dropped_and_an_id_is_made(client: httpx.AsyncClient) -> None:
    headers = {"x-request-timeout-seconds": "0", "x-request-disconnect-disabled": "?1", "x-mine": "y"}
    answer = await client.post("/", headers=headers)
    assert "timeout" not in answer.text
    assert "disconnect" not in answer.text
    assert "'x-mine': 'y'" in answer.text
    assert "'x-request-id'" in answer.text
    assert answer.headers["x-kept"] == "1"


async def test_a_given_request_id_is_kept(client: httpx.AsyncClient) -> None:
    assert "'x-request-id': 'abc'" in (await client.post("/", headers={"x-request-id": "abc"})).text


async def test_a_header_bomb_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", headers={f"h{i}": "x" * 1000 for i in range(70)})
    assert answer.status_code == 431


async def test_our_errors_are_answered_and_others_hidden(client: httpx.AsyncClient) -> None:
    assert (await client.post("/refuse")).json()["error"]["message"] == "no"
    crashed = await client.post("/crash")
    assert crashed.status_code == 500
    assert "secret" not in crashed.text


async def test_a_body_that_stops_arriving_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BODY_IDLE_S", 0.01)
    sent: list[Any] = []

    async def stalled() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await Edge(echo)({"type": "http", "path": "/v1/embeddings", "method": "POST", "headers": []}, stalled, send)
    assert sent[0]["status"] == 408


async def test_a_client_that_hangs_up_is_nobodys_error() -> None:
    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there to answer")

    await Edge(echo)({"type": "http", "path": "/", "method": "POST", "headers": []}, gone, send)


async def with_key(path: str, headers: dict[str, str]) -> httpx.Response:
    transport = httpx.ASGITransport(Edge(echo, frozenset({b"k1", b"k2"})))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer k1"}, {"authorization": "bearer k2"}, {"X-Api-Key": "k2"}, {"api-key": "k1"}],
)
async def test_a_known_key_lets_in_and_goes_no_further(headers: dict[str, str]) -> None:
    answer = await with_key("/v1/models", headers)
    assert answer.status_code == 200
    assert "k1" not in answer.text
    assert "k2" not in answer.text


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer k3"}, {"Authorization": "k1 "}, {"x-api-key": ""}])
@pytest.mark.parametrize(
    ("path", "says"), [("/v1/chat/completions", '"authentication_error"'), ("/v2/models/m", '{"error":"')]
)
async def test_no_key_or_an_unknown_one_is_refused(headers: dict[str, str], path: str, says: str) -> None:
    answer = await with_key(path, headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert says in answer.text


async def test_probes_need_no_key() -> None:
    assert (await with_key("/v2/health/ready", {})).status_code == 200


@pytest.mark.parametrize(("method", "body"), [("POST", b""), ("GET", b"{}"), ("POST", b"{}")])
async def test_what_is_no_probe_needs_a_key_on_their_paths_too(method: str, body: bytes) -> None:
    transport = httpx.ASGITransport(Edge(echo, frozenset({b"k1"})))
    async with httpx.AsyncClient(transport=transport, base_url="http://graph") as client:
        assert (await client.request(method, "/v2/health/live", content=body)).status_code == 401


async def test_one_of_several_keys_that_are_shown_will_do() -> None:
    assert (await with_key("/v1/models", {"Authorization": "Basic abc", "X-Api-Key": "k1"})).status_code == 200


@pytest.mark.parametrize(("given", "keys"), [("a,b", {b"a", b"b"}), (" a  b ", {b"a", b"b"}), (None, set())])
def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, given: str | None, keys: set[bytes]) -> None:
    monkeypatch.delenv("SERVE_APP_API_KEYS", raising=False)
    if given is not None:
        monkeypatch.setenv("SERVE_APP_API_KEYS", given)
    assert environment.api_keys() == keys


def test_an_empty_secret_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_APP_API_KEYS", " ")
    with pytest.raises(ValueError, match="names no key"):
        environment.api_keys()
