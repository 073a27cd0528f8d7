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
        self.tried = 0

    @property
    def file_bytes(self) -> int:
        return self._size if self.tried else 0

    def load(self) -> None:
        self.tried += 1
        self.loaded = not self.broken

    async def unload(self) -> None:
        await asyncio.sleep(0)
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
        with pytest.raises(ModelUnavailable, match="in use") as refused:
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


async def test_sizes_count_once_they_are_known() -> None:
    bench = Bench(Model("0", 60), Model("1", 60), Model("2", 10), memory=100)
    for number in (0, 1):
        async with bench.use(number):
            pass
    assert bench.loaded() == [0, 1]
    async with bench.use(2):
        assert bench.loaded() == [1, 2]


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
    assert bench.models[1].tried == 2
    assert bench.loaded() == [0]


async def test_dropping_spares_what_is_in_use() -> None:
    bench = several(1)
    async with bench.use(0):
        await bench.cache.drop(bench.models[0])
        assert bench.loaded() == [0]
    await bench.cache.drop(bench.models[0])
    assert bench.loaded() == []
