"""Blocking generators as async iterators, and turns."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Generator, Iterator

import pytest

from deployments.engines import _threads
from deployments.engines._threads import Cancelled, Turns, ahead, stream
from deployments.errors import BadRequest, EngineError


async def test_pieces_come_in_order() -> None:
    assert [piece async for piece in stream("t", lambda _: (i for i in range(100)))] == list(range(100))


@pytest.mark.parametrize(
    ("error", "raised"), [(BadRequest("no"), BadRequest), (RuntimeError("broken"), EngineError)], ids=["ours", "other"]
)
async def test_errors_come_out(error: Exception, raised: type[Exception]) -> None:
    def work(_cancelled: threading.Event) -> Generator[int]:
        yield 1
        raise error

    pieces = stream("t", work)
    assert await anext(pieces) == 1
    with pytest.raises(raised, match=str(error)):
        await anext(pieces)


async def test_closing_stops_the_thread_and_waits_for_it() -> None:
    ended = threading.Event()

    def work(cancelled: threading.Event) -> Generator[int]:
        try:
            yield 1
            assert cancelled.wait(10)
            yield 2
        finally:
            ended.set()

    async with contextlib.aclosing(stream("t", work)) as pieces:
        assert await anext(pieces) == 1
    assert ended.is_set()


async def test_the_first_piece_leaves_before_the_second_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "FIRST_S", 10.0)
    read, seen = list[int](), list[list[int]]()

    def work(_cancelled: threading.Event) -> Generator[int]:
        for i in range(2):
            yield i
            seen.append(list(read))

    async for piece in stream("t", work):
        read.append(piece)
    assert seen[0] == [0]


async def test_no_reader_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "FIRST_S", 0.001)
    made = threading.Event()

    def work(_cancelled: threading.Event) -> Generator[int]:
        yield from range(3)
        made.set()

    async with contextlib.aclosing(stream("t", work)) as pieces:
        assert await anext(pieces) == 0
        assert await asyncio.to_thread(made.wait, 10)
        assert [piece async for piece in pieces] == [1, 2]


async def test_cancelling_the_reader_stops_the_thread() -> None:
    began, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(cancelled: threading.Event) -> Generator[int]:
        loop.call_soon_threadsafe(began.set)
        assert cancelled.wait(10)
        ended.set()
        yield 1

    async def read() -> None:
        async with contextlib.aclosing(stream("t", work)) as pieces:
            async for _ in pieces:
                pass

    task = asyncio.create_task(read())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_turns_are_given_in_the_order_asked() -> None:
    turns, never, order = Turns(), threading.Event(), list[str]()
    started = threading.Barrier(3)

    def work(name: str, count: int) -> None:
        started.wait()
        for _ in range(count):
            with turns.turn(never):
                order.append(name)

    with turns.turn(never):
        threads = [threading.Thread(target=work, args=(name, count)) for name, count in (("long", 50), ("short", 2))]
        for thread in threads:
            thread.start()
        started.wait()
        while len(turns._waiting) < 2:
            threading.Event().wait(0.001)
    for thread in threads:
        thread.join()
    assert order.index("short") <= 1
    assert [i for i, name in enumerate(order) if name == "short"][1] <= 4


def test_who_waits_can_be_cancelled_and_leaves_the_place_to_others() -> None:
    turns, cancelled = Turns(), threading.Event()
    cancelled.set()
    with turns.turn(threading.Event()), pytest.raises(Cancelled), turns.turn(cancelled):
        pass
    with turns.turn(threading.Event()):
        pass


def test_as_many_turns_at_once_as_there_are_places() -> None:
    turns, never = Turns(2), threading.Event()
    with turns.turn(never), turns.turn(never):
        assert turns._free == 0
    assert turns._free == 2


def test_the_next_item_is_made_while_one_is_worked_on() -> None:
    made: queue.Queue[int] = queue.Queue()

    def items() -> Iterator[int]:
        for item in range(3):
            made.put(item)
            yield item

    found = ahead("test", items())
    assert next(found) == 0
    assert [made.get(timeout=5), made.get(timeout=5)] == [0, 1]
    assert made.empty()
    assert list(found) == [1, 2]


def test_what_the_making_of_an_item_raises_comes_out_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = ahead("test", items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)


def test_closing_waits_for_the_item_that_is_made() -> None:
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        time.sleep(0.2)
        made.set()
        yield 2

    with contextlib.closing(ahead("test", items())) as found:
        assert next(found) == 1
    assert made.is_set()
