"""Models on demand within a budget, with models that the test controls."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from deployments.cache import Budget, ModelCache
from deployments.errors import ModelUnavailable


class Model:
    """Remembers whether it is loaded; a broken one never is."""

    def __init__(self, name: str, file_bytes: int = 1, broken: bool = False) -> None:
        self.name, self._size, self.broken = name, file_bytes, broken
        self.loaded = False
        self.local = False
        self.tried = 0
        self.gate = asyncio.Event()
        """Whether it may be unloaded now."""
        self.gate.set()
        self._known = False

    @property
    def file_bytes(self) -> int:
        return self._size if self.tried or self._known else 0

    def load(self) -> None:
        self.tried += 1
        self.loaded = not self.broken

    async def measure(self) -> None:
        if self.local:
            self._known = True

    async def unload(self) -> None:
        await self.gate.wait()
        self.loaded = False

    def failed(self) -> bool:
        return self.broken and bool(self.tried)


class Bench:
    """Models `0`, `1`... and their cache."""

    def __init__(self, *models: Model, **budget: int) -> None:
        self.models = models
        self.cache = ModelCache()
        self.cache.budget = Budget.model_validate(budget)
        self.most = 0

    @contextlib.asynccontextmanager
    async def use(self, number: int, timeout_s: float = 5) -> AsyncIterator[None]:
        async with self.cache.hold(self.models[number], timeout_s):
            assert self.models[number].loaded or self.models[number].broken
            self.most = max(self.most, len(self.loaded()))
            yield

    async def enter(self, number: int) -> None:
        async with self.use(number):
            pass

    async def settled(self) -> None:
        while self.cache._leaving:
            await asyncio.sleep(0)

    def loaded(self) -> list[int]:
        return [number for number, model in enumerate(self.models) if model.loaded]


def several(count: int, **budget: int) -> Bench:
    return Bench(*(Model(str(number)) for number in range(count)), **budget)


async def test_the_least_recently_used_one_makes_room() -> None:
    bench = several(4, max_loaded=2)
    for number in (0, 1, 0, 2):
        async with bench.use(number):
            pass
    assert bench.loaded() == [0, 2]


async def test_a_model_in_use_is_not_unloaded_and_the_next_one_waits() -> None:
    bench = several(3, max_loaded=1)
    order = []

    async def second() -> None:
        async with bench.use(1):
            order.append("second")

    async with bench.use(0):
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert bench.loaded() == [0]
        order.append("first")
    await waiting
    assert order == ["first", "second"]
    assert bench.loaded() == [1]


async def test_who_finds_no_room_in_time_is_told_so() -> None:
    bench = several(2, max_loaded=1)
    async with bench.use(0):
        with pytest.raises(ModelUnavailable, match="no room") as refused:
            async with bench.use(1, timeout_s=0.01):
                pass
    assert refused.value.retry_after_s
    async with bench.use(1):
        assert bench.loaded() == [1]


async def test_many_clients_of_many_models_stay_within_the_budget() -> None:
    bench = several(50, max_loaded=5)

    async def client(first: int) -> None:
        for step in range(40):
            async with bench.use((first * 7 + step * 11) % 50):
                await asyncio.sleep(0)

    await asyncio.gather(*(client(first) for first in range(16)))
    assert bench.most <= 5
    assert len(bench.loaded()) == 5


async def test_sizes_that_were_not_known_are_made_up_for() -> None:
    bench = Bench(Model("0", 60), Model("1", 60), Model("2", 10), memory=100)
    for number in (0, 1):
        async with bench.use(number):
            pass
    await bench.settled()
    assert bench.loaded() == [1]
    async with bench.use(2):
        assert bench.loaded() == [1, 2]


async def test_sizes_that_can_be_known_before_count_from_the_start() -> None:
    bench = Bench(*(Model(str(number), 40) for number in range(12)), memory=100)
    for model in bench.models:
        model.local = True

    async def client(number: int) -> None:
        async with bench.use(number):
            await asyncio.sleep(0.001)

    await asyncio.gather(*(client(number) for number in range(12)))
    assert bench.most == 2


async def test_a_model_larger_than_the_budget_is_loaded_alone() -> None:
    bench = Bench(Model("0", 500), Model("1", 10), memory=100)
    for number in (0, 1, 0):
        async with bench.use(number):
            pass
    assert bench.loaded() == [0]


async def test_a_model_that_cannot_load_takes_no_room() -> None:
    bench = Bench(Model("0"), Model("1", broken=True), max_loaded=2)
    for number in (0, 1, 1):
        async with bench.use(number):
            pass
    await bench.settled()
    assert bench.models[1].tried == 2
    assert bench.loaded() == [0]


async def test_dropping_waits_for_what_is_in_use() -> None:
    bench = several(1)
    async with bench.use(0):
        dropping = asyncio.create_task(bench.cache.drop(bench.models[0]))
        await asyncio.sleep(0.001)
        assert bench.loaded() == [0]
        assert not dropping.done()
    await dropping
    assert bench.loaded() == []


async def test_who_hangs_up_while_room_is_made_loses_nothing() -> None:
    bench = several(3, max_loaded=1)
    async with bench.use(0):
        pass
    bench.models[0].gate.clear()
    for _ in range(5):
        with pytest.raises(ModelUnavailable):
            async with bench.use(1, timeout_s=0.005):
                pass
    assert bench.loaded() == [0]
    bench.models[0].gate.set()
    async with bench.use(1):
        assert bench.loaded() == [1]


async def test_a_model_asked_for_while_it_goes_comes_back() -> None:
    bench = several(2, max_loaded=1)
    async with bench.use(0):
        pass
    bench.models[0].gate.clear()
    other = asyncio.create_task(bench.enter(1))
    await asyncio.sleep(0.001)
    back = asyncio.create_task(bench.enter(0))
    await asyncio.sleep(0.001)
    bench.models[0].gate.set()
    await asyncio.gather(other, back)
    assert bench.most == 1


async def test_one_who_waits_for_room_is_in_nobodys_way() -> None:
    bench = Bench(Model("0", 90), Model("1", 90), Model("2", 5), memory=100)
    for model in bench.models:
        model.local = True
    async with bench.use(0):
        waiting = asyncio.create_task(bench.enter(1))
        await asyncio.sleep(0.001)
        async with bench.use(2, timeout_s=1):
            assert bench.loaded() == [0, 2]
    await waiting
