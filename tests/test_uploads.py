"""Reading bodies: whole, and in bounded memory."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from deployments.asgi import BODY, receive_of
from deployments.errors import BadRequest, BodyTimeout, PayloadTooLarge, QueueFull
from serve_app import uploads
from serve_app.uploads import ClientGone, Room

MB = 1 << 20


def room_of(together: int, most: int = 1000 * MB) -> Room:
    return Room(lambda: most, lambda: together)


def sent(pieces: Sequence[bytes]) -> tuple[Any, list[bytes]]:
    """ASGI's `receive` of these messages, and those that have not been taken."""
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    return receive, left


def scope(declared: int | str | None = None) -> dict[str, Any]:
    return {"headers": [(b"content-length", str(declared).encode())] if declared is not None else []}


def taking(room: Room, *pieces: int, declared: bool = True) -> AbstractAsyncContextManager[bytes | bytearray]:
    receive, _ = sent([bytes(size) for size in pieces])
    return room.held(scope(sum(pieces) if declared else None), receive)


@pytest.mark.parametrize("declared", [None, 0, 3, 9, 100])
async def test_a_body_is_read_whole_whatever_was_declared(declared: int | None) -> None:
    receive, _ = sent([b"abc", b"", b"def", b"ghi"])
    async with room_of(0).held(scope(declared), receive) as body:
        assert body == b"abcdefghi"


@pytest.mark.parametrize("declared", [None, 100])
async def test_a_body_of_one_message_is_not_copied(declared: int | None) -> None:
    whole = b"x" * 100
    async with room_of(0).held(scope(declared), sent([whole])[0]) as body:
        assert body is whole


async def test_a_body_that_is_in_the_scope_is_not_received_and_takes_its_room() -> None:
    async def never() -> Any:
        raise AssertionError("the body is here")

    here, room = bytes(4 * MB), room_of(5 * MB, 6 * MB)
    async with room.held({BODY: here, "headers": []}, never) as body:
        assert body is here
        with pytest.raises(QueueFull):
            async with room.held({BODY: here, "headers": []}, never):
                pass
    with pytest.raises(PayloadTooLarge):
        async with room.held({BODY: bytes(7 * MB), "headers": []}, never):
            pass


async def test_a_declared_body_over_the_limit_is_refused_unread() -> None:
    receive, left = sent([bytes(1001)])
    with pytest.raises(PayloadTooLarge, match="1001 bytes or more; at most 1000"):
        async with room_of(MB, 1000).held(scope(1001), receive):
            pass
    assert left


@pytest.mark.parametrize("declared", [None, 400])
async def test_a_body_that_grows_over_the_limit_is_refused_before_its_end(declared: int | None) -> None:
    receive, left = sent([b"x" * 300] * 100)
    with pytest.raises(PayloadTooLarge, match="1200 bytes or more; at most 1000"):
        async with room_of(MB, 1000).held(scope(declared), receive):
            pass
    assert len(left) == 96


async def test_a_length_that_is_no_number_is_refused() -> None:
    with pytest.raises(BadRequest, match="'much' is not a number"):
        async with room_of(MB).held(scope("much"), receive_of(b"")):
            pass


async def test_a_body_that_stops_arriving_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "BODY_IDLE_S", 0.01)

    async def stalled() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(BodyTimeout, match="after 0 bytes"):
        async with room_of(MB).held(scope(10), stalled):
            pass


async def test_a_client_that_hangs_up_leaves_the_room_it_had() -> None:
    pieces = [{"type": "http.request", "body": bytes(4 * MB), "more_body": True}, {"type": "http.disconnect"}]

    async def gone() -> Any:
        return pieces.pop(0)

    room = room_of(4 * MB)
    with pytest.raises(ClientGone):
        async with room.held(scope(), gone):
            pass
    async with taking(room, 4 * MB), taking(room, MB):
        pass


async def test_large_bodies_are_refused_where_there_is_no_room_and_small_ones_never() -> None:
    room = room_of(10 * MB)
    async with taking(room, 6 * MB):
        with pytest.raises(QueueFull, match=r"gateway\.max_reading"):
            async with taking(room, 5 * MB):
                pass
        async with taking(room, 4 * MB), taking(room, MB):
            pass
    async with taking(room, 10 * MB):
        pass


async def test_a_body_over_all_the_room_there_is_is_read_alone() -> None:
    room = room_of(10 * MB)
    async with taking(room, 99 * MB):
        with pytest.raises(QueueFull):
            async with taking(room, 2 * MB):
                pass
    async with taking(room, 2 * MB):
        pass


async def test_a_body_of_unknown_length_takes_what_it_has_become() -> None:
    room = room_of(10 * MB)
    async with taking(room, 4 * MB):
        async with taking(room, MB, 5 * MB, declared=False):
            pass
        with pytest.raises(QueueFull):
            async with taking(room, MB, 5 * MB, MB, declared=False):
                pass
    async with taking(room, 10 * MB):
        pass
