"""Running an ASGI app against a request that is here."""

import asyncio
import functools
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from deployments.asgi import PIECE_BYTES, Answer, Head, new_id, receive_of, run_stream, run_unary
from deployments.errors import EngineError

HEAD = Head("POST", "/p", "/root", b"q=1", [(b"a", b"b")], ("1.2.3.4", 5), 9.0)


def replying(*bodies: bytes, wait: Callable[[], Any] | None = None) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x", b"1"), (b"x", b"2")]})
        for i, body in enumerate(bodies):
            if i and wait:
                await wait()
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_a_unary_answer_is_whole_with_headers_unchanged() -> None:
    answer = await run_unary(replying(b"ab", b"cd"), HEAD, b"")
    assert answer == Answer(201, [(b"x", b"1"), (b"x", b"2")], b"abcd")


async def test_an_error_after_the_whole_answer_does_not_take_it_back() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await replying(b"it failed")(scope, receive, send)
        raise ValueError("which Starlette raises once more")

    assert (await run_unary(app, HEAD, b"")).body == b"it failed"


async def test_an_error_within_an_answer_is_one() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        await run_unary(app, HEAD, b"")


async def test_the_app_sees_the_request() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        seen.extend([request.method, request.url.path, request.url.query, request.headers["a"], await request.body()])
        await replying(b"")(scope, receive, send)

    await run_unary(app, HEAD, b"body")
    assert seen == ["POST", "/root/p", "q=1", "b", b"body"]


async def test_what_waits_leaves_together_and_the_first_piece_at_once() -> None:
    gate = asyncio.Event()
    pieces = run_stream(replying(b"a", b"b", b"c", wait=gate.wait), HEAD, b"")
    first = await anext(pieces)
    assert isinstance(first, Answer)
    gate.set()
    rest = [piece async for piece in pieces]
    assert first.body + b"".join(p for p in rest if isinstance(p, bytes)) == b"abc"
    together = [piece async for piece in run_stream(replying(b"a", b"b", b"c"), HEAD, b"")]
    assert together == [Answer(201, [(b"x", b"1"), (b"x", b"2")], b"abc")]


async def test_pieces_of_many_answers_leave_more_rarely_and_whole() -> None:
    words = [f"{at} ".encode() for at in range(200)]

    async def read() -> list[Answer | bytes]:
        return [
            piece async for piece in run_stream(replying(*words, wait=functools.partial(asyncio.sleep, 0)), HEAD, b"")
        ]

    for pieces in await asyncio.gather(*(read() for _ in range(8))):
        first, *rest = pieces
        assert isinstance(first, Answer)
        assert first.body.startswith(b"0 ")
        assert first.body + b"".join(piece for piece in rest if isinstance(piece, bytes)) == b"".join(words)
        assert len(pieces) < 50


async def test_an_app_that_is_stopped_by_something_of_its_own_ends_its_stream() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        raise asyncio.CancelledError

    async with asyncio.timeout(5):
        with pytest.raises(EngineError, match="stopped"):
            assert [piece async for piece in run_stream(app, HEAD, b"")]


async def test_large_pieces_are_split() -> None:
    body = bytes(range(256)) * 4096 * 3 + b"end"
    pieces = [piece async for piece in run_stream(replying(body), HEAD, b"")]
    parts = [piece.body if isinstance(piece, Answer) else piece for piece in pieces]
    assert b"".join(parts) == body
    assert max(map(len, parts)) == PIECE_BYTES


async def test_closing_a_stream_cancels_the_app() -> None:
    cancelled = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    pieces: Any = run_stream(app, HEAD, b"")
    await anext(pieces)
    await pieces.aclose()
    assert cancelled.is_set()


async def test_closing_a_stream_that_nobody_reads_ends_an_endless_app() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    pieces: Any = run_stream(app, HEAD, b"")
    await anext(pieces)
    for _ in range(200):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await pieces.aclose()


async def test_an_error_in_the_app_reaches_the_caller() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await run_unary(app, HEAD, b"")
    with pytest.raises(ValueError, match="broken"):
        [piece async for piece in run_stream(app, HEAD, b"")]


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
async def test_bodies_arrive_whole_from_shared_memory(size: int) -> None:
    body = np.frombuffer(bytes(i % 251 for i in range(size)), np.uint8)
    receive, got = receive_of(body), bytearray()
    while True:
        message = await receive()
        got += message["body"]
        assert isinstance(message["body"], bytes)
        if not message["more_body"]:
            break
    assert bytes(got) == body.tobytes()
    after = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    assert not after.done()
    after.cancel()


async def test_a_body_of_bytes_is_not_copied() -> None:
    body = bytes(3 * PIECE_BYTES)
    message = await receive_of(body)()
    assert message["body"] is body
    assert not message["more_body"]


def test_ids_are_random_uuids_as_the_library_writes_them() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    for one in ids:
        read = uuid.UUID(one)
        assert (str(read), read.version, read.variant) == (one, 4, uuid.RFC_4122)
