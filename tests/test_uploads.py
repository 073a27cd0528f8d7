"""Reading bodies: whole, and in bounded memory."""

from typing import Any

import pytest

from deployments.errors import QueueFull
from serve_app.uploads import Room, read_body

MB = 1 << 20


@pytest.mark.parametrize("expected", [0, 3, 9, 100])
async def test_a_body_is_read_whole_whatever_was_expected(expected: int) -> None:
    pieces = [b"abc", b"", b"def", b"ghi"]
    messages = iter([{"body": piece, "more_body": i < 3} for i, piece in enumerate(pieces)])

    async def receive() -> dict[str, Any]:
        return next(messages)

    grown: list[int] = []
    assert await read_body(receive, expected, grown.append) == b"abcdefghi"
    assert grown == [at for at in (3, 3, 6, 9) if at > expected]


async def test_a_body_of_one_message_is_not_copied() -> None:
    whole = b"x" * 100

    async def receive() -> dict[str, Any]:
        return {"body": whole}

    grown: list[int] = []
    assert await read_body(receive, 100, grown.append) is whole
    assert await read_body(receive, 0, grown.append) is whole
    assert grown == [100]


def test_large_bodies_are_refused_where_there_is_no_room_and_small_ones_never() -> None:
    room = Room(lambda: 10 * MB)
    with room.take(6 * MB):
        with pytest.raises(QueueFull, match=r"gateway\.max_reading"), room.take(5 * MB):
            pass
        with room.take(4 * MB), room.take(MB):
            pass
    with room.take(10 * MB):
        pass


def test_a_body_over_all_the_room_there_is_is_read_alone() -> None:
    room = Room(lambda: 10 * MB)
    with room.take(99 * MB), pytest.raises(QueueFull), room.take(2 * MB):
        pass
    with room.take(2 * MB):
        pass


def test_a_body_of_unknown_length_takes_what_it_has_become() -> None:
    room = Room(lambda: 10 * MB)
    with room.take(0) as grow, room.take(4 * MB):
        grow(MB)
        grow(6 * MB)
        with pytest.raises(QueueFull):
            grow(7 * MB)
    with room.take(10 * MB):
        pass
