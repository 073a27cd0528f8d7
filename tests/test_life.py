"""A model's life, with a loader that the test controls."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from deployments.errors import ModelFailed, ModelLoading
from deployments.life import Life


class Version:
    """Something loaded; it knows whether it was closed."""

    def __init__(self, number: int) -> None:
        self.number, self.closed = number, False

    def close(self) -> None:
        self.closed = True


class Loader:
    """Loads `{"v": n}` as `Version(n)`; fails for those in `broken`; stands still while `hold` is not set."""

    def __init__(self) -> None:
        self.broken: set[int] = set()
        self.hold = threading.Event()
        self.hold.set()
        self.loads: list[int] = []
        self.open_at_load: list[int] = []
        self.made: list[Version] = []

    def __call__(self, settings: dict[str, Any], progress: Callable[[str], None]) -> Version:
        progress("halfway")
        assert self.hold.wait(10)
        number = settings["v"]
        self.loads.append(number)
        self.open_at_load.append(sum(not version.closed for version in self.made))
        if number in self.broken:
            raise ValueError(f"version {number} is broken")
        self.made.append(Version(number))
        return self.made[-1]


class Bench:
    """A life under test; `room` says whether two versions fit."""

    def __init__(self) -> None:
        self.loader, self.room = Loader(), True
        self.life: Life[Version] = Life("m", self.loader, lambda: self.room, first_pause_s=0.01)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.loader.hold.set()
    await bench.life.close()
    assert all(version.closed for version in bench.loader.made)


async def use(bench: Bench, timeout_s: float = 10) -> int:
    with await bench.life.ready(timeout_s) as version:
        assert not version.closed
        return version.number


async def test_a_request_waits_for_the_first_load(bench: Bench) -> None:
    bench.loader.hold.clear()
    bench.life.want({"v": 1})
    waiting = asyncio.create_task(use(bench))
    await bench.until(lambda: bench.life.state == "loading" and bench.life.progress == "halfway")
    bench.loader.hold.set()
    assert await waiting == 1
    await bench.until(lambda: bench.life.state == "ready")


async def test_waiting_ends_at_the_deadline_with_progress(bench: Bench) -> None:
    bench.loader.hold.clear()
    bench.life.want({"v": 1})
    await bench.until(lambda: bench.life.progress == "halfway")
    with pytest.raises(ModelLoading, match="halfway") as refused:
        await use(bench, timeout_s=0.01)
    assert refused.value.retry_after_s


async def test_a_model_that_cannot_load_says_why_and_is_tried_again(bench: Bench) -> None:
    bench.loader.broken = {1}
    bench.life.want({"v": 1})
    with pytest.raises(ModelFailed, match="version 1 is broken"):
        await use(bench)
    await bench.until(lambda: len(bench.loader.loads) > 1)
    assert bench.life.state == "failed"
    bench.loader.broken = set()
    await bench.until(lambda: bench.life.state == "ready")
    assert await use(bench) == 1
    assert bench.life.failure is None


async def test_new_settings_repair_a_failed_model(bench: Bench) -> None:
    bench.loader.broken = {1}
    bench.life.want({"v": 1})
    await bench.until(lambda: bench.life.state == "failed")
    bench.life.want({"v": 2})
    assert bench.life.state == "loading"
    assert await use(bench) == 2


async def test_the_old_version_answers_while_the_new_one_loads_beside_it(bench: Bench) -> None:
    bench.life.want({"v": 1})
    assert await use(bench) == 1
    bench.loader.hold.clear()
    bench.life.want({"v": 2})
    assert [await use(bench) for _ in range(5)] == [1] * 5
    bench.loader.hold.set()
    await bench.until(lambda: bench.loader.loads == [1, 2] and bench.loader.made[0].closed)
    assert await use(bench) == 2


async def test_a_version_that_cannot_load_leaves_the_old_one(bench: Bench) -> None:
    bench.life.want({"v": 1})
    await use(bench)
    bench.loader.broken = {2}
    bench.life.want({"v": 2})
    await bench.until(lambda: bench.life.failure is not None)
    assert bench.life.state == "ready"
    assert await use(bench) == 1
    bench.life.want({"v": 1})
    await bench.until(lambda: bench.life.failure is None)
    assert bench.loader.loads.count(1) == 1


async def test_a_version_in_use_is_closed_only_afterwards(bench: Bench) -> None:
    bench.life.want({"v": 1})
    with await bench.life.ready(10) as old:
        bench.life.want({"v": 2})
        await bench.until(lambda: bench.life.loaded() is not old)
        assert await use(bench) == 2
        assert not old.closed
    await bench.until(lambda: old.closed)


async def test_without_room_the_new_version_takes_the_old_ones_place(bench: Bench) -> None:
    bench.room = False
    bench.life.want({"v": 1})
    await use(bench)
    bench.life.want({"v": 2})
    await bench.until(lambda: bench.loader.loads == [1, 2])
    assert bench.loader.open_at_load == [0, 0]
    assert await use(bench) == 2


async def test_without_room_the_old_version_comes_back_if_the_new_one_fails(bench: Bench) -> None:
    bench.room = False
    bench.life.want({"v": 1})
    await use(bench)
    bench.loader.broken = {2}
    bench.loader.hold.clear()
    bench.life.want({"v": 2})
    await bench.until(lambda: bench.life.state == "loading")
    waiting = asyncio.create_task(use(bench))
    bench.loader.hold.set()
    assert await waiting == 1
    await bench.until(lambda: "version 2 is broken" in (bench.life.failure or ""))
    for _ in range(50):  # far longer than the pause: a retry would take the version that answers away again
        await asyncio.sleep(0.001)
        assert bench.life.state == "ready"
    assert bench.loader.loads == [1, 2, 1]


async def test_the_newest_of_several_changes_wins(bench: Bench) -> None:
    bench.loader.hold.clear()
    bench.life.want({"v": 1})
    await asyncio.sleep(0)
    for number in (2, 3, 4):
        bench.life.want({"v": number})
    bench.loader.hold.set()
    await bench.until(lambda: getattr(bench.life.loaded(), "number", None) == 4)
    assert await use(bench) == 4
    assert bench.loader.loads == [1, 4]


async def test_a_repair_during_a_load_that_fails_is_waited_for(bench: Bench) -> None:
    bench.loader.broken = {1}
    bench.loader.hold.clear()
    bench.life.want({"v": 1})
    await bench.until(lambda: bench.life.progress == "halfway")
    bench.life.want({"v": 2})
    waiting = asyncio.create_task(use(bench))
    bench.loader.hold.set()
    assert await waiting == 2


async def test_a_model_that_was_closed_refuses_at_once(bench: Bench) -> None:
    bench.life.want({"v": 1})
    await use(bench)
    await bench.life.close()
    with pytest.raises(ModelLoading):
        await use(bench)


async def test_a_version_that_failed_in_place_is_tried_again_once_there_is_room(bench: Bench) -> None:
    bench.room = False
    bench.life.want({"v": 1})
    await use(bench)
    bench.loader.broken = {2}
    bench.life.want({"v": 2})
    await bench.until(lambda: bench.loader.loads == [1, 2, 1])
    bench.loader.broken = set()
    bench.room = True
    await bench.until(lambda: bench.loader.loads == [1, 2, 1, 2])
    await bench.until(lambda: getattr(bench.life.loaded(), "number", None) == 2)


async def test_a_loader_that_stops_iteration_is_a_failure(bench: Bench) -> None:
    def load(_settings: dict[str, Any], _progress: Callable[[str], None]) -> Version:
        raise StopIteration

    life: Life[Version] = Life("m", load, lambda: True)
    life.want({"v": 1})
    with pytest.raises(ModelFailed, match="ended early"), await life.ready(5):
        pass
    await life.close()


async def test_unloaded_gives_the_memory_back_until_it_is_wanted_again(bench: Bench) -> None:
    bench.life.want({"v": 1})
    await bench.until(lambda: bench.life.state == "ready")
    await bench.life.unload()
    assert bench.life.state == "unloaded"
    assert bench.loader.made[0].closed
    bench.life.want({"v": 1})
    with await bench.life.ready(10) as version:
        assert version is bench.loader.made[1]


async def test_unloading_waits_for_what_is_in_use(bench: Bench) -> None:
    bench.life.want({"v": 1})
    with await bench.life.ready(10) as version:
        unloading = asyncio.create_task(bench.life.unload())
        await bench.until(lambda: bench.life.state == "unloaded")
        assert not version.closed
    await unloading
    assert version.closed


async def test_unloading_ends_the_retries_of_what_cannot_load(bench: Bench) -> None:
    bench.loader.broken = {1}
    bench.life.want({"v": 1})
    await bench.until(lambda: bench.life.state == "failed")
    await bench.life.unload()
    tried = len(bench.loader.loads)
    await asyncio.sleep(0.05)
    assert (bench.life.state, bench.life.failure, len(bench.loader.loads)) == ("unloaded", None, tried)


async def test_memory_is_given_back_though_who_asked_for_it_has_gone(bench: Bench) -> None:
    bench.loader.hold.clear()
    bench.life.want({"v": 1})
    unloading = asyncio.create_task(bench.life.unload())
    await asyncio.sleep(0.01)
    unloading.cancel()
    bench.loader.hold.set()
    await bench.until(lambda: bench.life.state == "unloaded" and bool(bench.loader.made))
    await bench.until(lambda: bench.loader.made[0].closed)
    bench.life.want({"v": 1})
    assert await use(bench) == 1


async def test_what_is_wanted_while_it_is_unloaded_is_loaded(bench: Bench) -> None:
    bench.loader.hold.clear()
    bench.life.want({"v": 1})
    unloading = asyncio.create_task(bench.life.unload())
    await asyncio.sleep(0.01)
    bench.life.want({"v": 2})
    await unloading
    bench.loader.hold.set()
    await bench.until(lambda: getattr(bench.life.loaded(), "number", None) == 2)
    await bench.until(lambda: [version.closed for version in bench.loader.made] == [True, False])


async def test_loads_that_need_the_loops_threads_do_not_wait_for_each_other() -> None:
    loop = asyncio.get_running_loop()

    def load(_settings: dict[str, Any], _progress: Callable[[str], None]) -> Version:
        asyncio.run_coroutine_threadsafe(asyncio.to_thread(int), loop).result(10)
        return Version(1)

    lives = [Life(str(number), load, lambda: True) for number in range(40)]
    for life in lives:
        life.want({"v": 1})
    for life in lives:
        with await life.ready(10) as version:
            assert version.number == 1
        await life.close()
