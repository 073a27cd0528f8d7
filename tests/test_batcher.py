"""The batcher, driven step by step: the compute function waits until the test lets it go."""

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.batcher import Batcher
from deployments.errors import BadRequest, EngineError, QueueFull, ServeAppError
from deployments.on_loop import HICCUP_S, SHORT_RUNS, Patience
from deployments.waiting import Item


class Gate:
    """A compute function that records its batches, and stands still while `shut`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def compute(self, values: list[int]) -> list[int]:
        self.entered.set()
        assert self.open.wait(10)
        self.batches.append(values)
        if any(value == 13 for value in values):
            raise RuntimeError("thirteen")
        return [value * 2 for value in values]


def prepare(raws: Sequence[int]) -> list[Item | ServeAppError]:
    return [BadRequest("negative") if raw < 0 else Item(raw, abs(raw)) for raw in raws]


def make(gate: Gate, **options: Any) -> Batcher[int, int]:
    defaults: dict[str, Any] = {"max_cost": 100, "max_items": 8, "max_padding": 1.0, "max_queue": lambda: 1000}
    return Batcher("test", prepare, gate.compute, **(defaults | options))


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def batcher(gate: Gate) -> Iterator[Batcher[int, int]]:
    batcher = make(gate)
    yield batcher
    gate.open.set()
    batcher.close()


async def shut(gate: Gate, batcher: Batcher[int, int]) -> "asyncio.Task[list[int]]":
    """Have one input in the engine, standing still, so that what follows queues."""
    gate.open.clear()
    gate.entered.clear()
    held = asyncio.create_task(batcher.submit([1]))
    await asyncio.to_thread(gate.entered.wait, 10)
    return held


async def test_results_come_in_order(batcher: Batcher[int, int]) -> None:
    assert await batcher.submit([5, 1, 9, 3]) == [10, 2, 18, 6]


async def test_nothing_submitted_is_nothing_answered(batcher: Batcher[int, int]) -> None:
    assert await batcher.submit([]) == []


async def test_a_lone_input_is_computed_at_once(gate: Gate, batcher: Batcher[int, int]) -> None:
    await batcher.submit([4])
    assert gate.batches == [[4]]


async def test_what_waits_is_taken_together_and_sorted_by_cost(gate: Gate, batcher: Batcher[int, int]) -> None:
    held = await shut(gate, batcher)
    waiting = [asyncio.create_task(batcher.submit([n])) for n in (10, 2, 11, 3)]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(held, *waiting)
    assert [sorted(batch) for batch in gate.batches] == [[1], [2, 3, 10, 11]]


async def test_a_batch_stays_within_the_padded_cost(gate: Gate, batcher: Batcher[int, int]) -> None:
    held = await shut(gate, batcher)
    waiting = asyncio.create_task(batcher.submit([40, 41, 42, 2, 3]))
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(held, waiting)
    assert all(max(batch) * len(batch) <= 100 or len(batch) == 1 for batch in gate.batches)


async def test_a_short_request_is_not_stuck_behind_a_long_one(gate: Gate, batcher: Batcher[int, int]) -> None:
    held = await shut(gate, batcher)
    long = asyncio.create_task(batcher.submit([50] * 40))
    await asyncio.sleep(0)
    short = asyncio.create_task(batcher.submit([2]))
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(held, long, short)
    turn = next(i for i, batch in enumerate(gate.batches) if 2 in batch)
    assert turn <= 3 < len(gate.batches) - 10


async def test_a_poisoned_input_fails_alone(gate: Gate, batcher: Batcher[int, int]) -> None:
    held = await shut(gate, batcher)
    good = [asyncio.create_task(batcher.submit([n])) for n in (10, 12, 14)]
    bad = asyncio.create_task(batcher.submit([11, 13]))
    await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(held, *good) == [[2], [20], [24], [28]]
    with pytest.raises(EngineError, match=r"input 1: .*thirteen"):
        await bad


async def test_what_a_failed_batch_held_is_free_when_its_parts_are_computed() -> None:
    class Tensor:
        """What a batch takes of the memory."""

    taken: list[weakref.ref[Tensor]] = []

    def compute(values: list[int]) -> list[int]:
        assert all(one() is None for one in taken)
        tensor = Tensor()
        taken.append(weakref.ref(tensor))
        if len(values) > 1:
            raise MemoryError
        return values

    gate = Gate()
    gate.open.clear()

    def wait_first(values: list[int]) -> list[int]:
        return gate.compute(values) if values == [1] else compute(values)

    batcher: Batcher[int, int] = Batcher(
        "test", prepare, wait_first, max_cost=100, max_items=8, max_padding=1.0, max_queue=lambda: 100
    )
    first = asyncio.create_task(batcher.submit([1]))
    await asyncio.to_thread(gate.entered.wait, 10)
    rest = asyncio.create_task(batcher.submit([2, 2, 2, 2]))
    await asyncio.sleep(0)
    gate.open.set()
    assert await rest == [2, 2, 2, 2]
    assert len(taken) == 7
    await first
    batcher.close()


async def test_a_refused_input_names_itself(batcher: Batcher[int, int]) -> None:
    with pytest.raises(BadRequest) as refused:
        await batcher.submit([1, -1])
    assert refused.value.param == "input[1]"
    assert await batcher.submit([1]) == [2]


async def test_a_full_queue_refuses_and_empties_again(gate: Gate) -> None:
    batcher = make(gate, max_queue=lambda: 4)
    held = await shut(gate, batcher)
    waiting = asyncio.create_task(batcher.submit([1, 2, 3, 4]))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await batcher.submit([5])
    gate.open.set()
    await asyncio.gather(held, waiting)
    assert await batcher.submit([5]) == [10]
    batcher.close()


async def test_a_cancelled_request_is_not_computed(gate: Gate, batcher: Batcher[int, int]) -> None:
    held = await shut(gate, batcher)
    gone = asyncio.create_task(batcher.submit([77] * 20))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    gate.open.set()
    await held
    assert await batcher.submit([3]) == [6]
    assert 77 not in [value for batch in gate.batches for value in batch]


async def test_closing_fails_what_waits(gate: Gate) -> None:
    batcher = make(gate)
    held = await shut(gate, batcher)
    waiting = asyncio.create_task(batcher.submit([2]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    while not batcher._closed:
        await asyncio.sleep(0)
    gate.open.set()
    await closing
    assert await held == [2]
    with pytest.raises(EngineError, match="stopped"):
        await waiting
    assert not batcher.alive()


async def test_a_wrong_number_of_results_fails_its_requests_and_not_the_thread() -> None:
    batcher: Batcher[int, int] = Batcher(
        "short", prepare, lambda values: [], max_cost=9, max_items=9, max_padding=1.0, max_queue=lambda: 99
    )
    with pytest.raises(EngineError, match="0 results for 1 inputs"):
        await batcher.submit([1])
    assert batcher.alive()
    batcher.close()


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), min_size=1, max_size=10),
    max_cost=st.integers(1, 200),
    max_items=st.integers(1, 9),
    workers=st.integers(1, 3),
)
def test_any_mix_of_requests_is_answered_whole_and_in_order(
    requests: list[list[int]], max_cost: int, max_items: int, workers: int
) -> None:
    gate = Gate()
    batcher = make(gate, max_cost=max_cost, max_items=max_items, workers=workers)

    async def run() -> list[Any]:
        answers = await asyncio.gather(*(batcher.submit(one) for one in requests), return_exceptions=True)
        await batcher.submit([0])  # its turn comes once what a failed request left behind was dropped
        return answers

    answers = asyncio.run(run())
    batcher.close()
    for request, answer in zip(requests, answers, strict=True):
        if 13 in request:
            assert isinstance(answer, EngineError)
        else:
            assert answer == [value * 2 for value in request]
    for batch in gate.batches:
        assert len(batch) <= max_items
        assert len(batch) == 1 or max(batch) * len(batch) <= max_cost
    assert batcher._queued == 0


class Where:
    """A compute function that notes whether the event loop ran it; 99 takes long and 13 fails."""

    def __init__(self) -> None:
        self.loops = threading.get_ident()
        self.batches: list[tuple[bool, list[int]]] = []

    def compute(self, values: list[int]) -> list[int]:
        self.batches.append((threading.get_ident() == self.loops, values))
        if 99 in values:
            time.sleep(HICCUP_S)
        if 13 in values:
            raise RuntimeError("thirteen")
        return values


@pytest.fixture
async def short(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Where, Batcher[int, int]]]:
    """A batcher that has seen short batches of a cost of 3, on however busy a machine."""
    monkeypatch.setattr("deployments.on_loop.SHORT_S", HICCUP_S)
    where = Where()
    batcher: Batcher[int, int] = Batcher(
        "test",
        prepare,
        where.compute,
        max_cost=100,
        max_items=8,
        max_padding=1.0,
        max_queue=lambda: 1000,
        short_here=True,
    )
    while not (where.batches and where.batches[-1][0]):
        await batcher.submit([3])
    yield where, batcher
    batcher.close()


async def test_the_event_loop_computes_short_batches_itself(short: tuple[Where, Batcher[int, int]]) -> None:
    where, batcher = short
    assert not any(here for here, _ in where.batches[:SHORT_RUNS])
    assert await asyncio.gather(*(batcher.submit([1]) for _ in range(3))) == [[1], [1], [1]]
    assert where.batches[-1] == (True, [1, 1, 1])


async def test_the_thread_computes_dearer_ones(short: tuple[Where, Batcher[int, int]]) -> None:
    where, batcher = short
    assert await batcher.submit([4]) == [4]
    assert where.batches[-1] == (False, [4])


async def test_the_thread_computes_all_after_one_that_took_long(short: tuple[Where, Batcher[int, int]]) -> None:
    where, batcher = short
    assert await batcher.submit([99]) == [99]
    assert await batcher.submit([3]) == [3]
    assert [here for here, _ in where.batches[-2:]] == [False, False]


async def test_the_thread_computes_again_what_failed_on_the_loop(
    short: tuple[Where, Batcher[int, int]],
) -> None:
    where, batcher = short
    batcher._shortness.cost = 100
    failed, done = await asyncio.gather(batcher.submit([13]), batcher.submit([1]), return_exceptions=True)
    assert isinstance(failed, EngineError)
    assert done == [1]
    assert [here for here, values in where.batches if 13 in values] == [True, False, False]


async def test_after_a_failure_that_took_long_the_thread_computes(short: tuple[Where, Batcher[int, int]]) -> None:
    where, batcher = short
    batcher._shortness.cost = 1000
    with pytest.raises(EngineError):
        await asyncio.gather(batcher.submit([99]), batcher.submit([13]))
    count = len(where.batches)
    assert await batcher.submit([3]) == [3]
    assert not any(here for here, _ in where.batches[count:])


async def test_what_is_closed_computes_nothing_more(short: tuple[Where, Batcher[int, int]]) -> None:
    where, batcher = short
    waiting = asyncio.ensure_future(batcher.submit([1]))
    count = len(where.batches)
    asyncio.get_running_loop().call_soon(batcher.close)  # before the batch's turn
    with pytest.raises(EngineError, match="stopped"):
        await waiting
    assert len(where.batches) == count


async def test_requests_that_come_in_the_next_turns_are_computed_together(
    short: tuple[Where, Batcher[int, int]],
) -> None:
    where, batcher = short

    async def later(turns: int) -> list[int]:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await batcher.submit([1])

    for _ in range(2 * Patience.MOST_PASSED):  # until it is tried whether more are coming, with the first of two
        where.batches.clear()
        await asyncio.gather(*(later(turns) for turns in (0, 3)))
        if len(where.batches) == 1:
            break
    else:
        raise AssertionError("never together")
    await asyncio.gather(*(later(turns) for turns in (0, 3)))
    assert [len(batch) for _, batch in where.batches] == [2, 2], "it was not remembered that it paid"


async def test_a_request_after_many_lone_ones_is_computed_without_a_turn_of_the_loop(
    short: tuple[Where, Batcher[int, int]],
) -> None:
    where, batcher = short

    async def at_once() -> bool:
        turned: list[bool] = []
        asyncio.get_running_loop().call_soon(turned.append, True)
        assert await batcher.submit([2]) == [2]
        return not turned

    tried = [await at_once() for _ in range(8 * Patience.MOST_PASSED)]
    assert tried[-Patience.MOST_PASSED :].count(True) >= Patience.MOST_PASSED - 1
    for _ in range(2 * Patience.MOST_PASSED):
        await asyncio.gather(*(batcher.submit([0]) for _ in range(4)))
    assert where.batches[-1] == (True, [0, 0, 0, 0]), "it was not noticed that they come together"


async def alone(batcher: Batcher[int, int]) -> None:
    """Until requests that come alone are computed without a turn of the loop."""
    while not batcher._patience.alone():
        await batcher.submit([1])


async def test_what_fails_after_many_lone_ones_is_computed_again_by_the_thread(
    short: tuple[Where, Batcher[int, int]],
) -> None:
    where, batcher = short
    batcher._shortness.cost = 100
    await alone(batcher)
    where.batches.clear()
    with pytest.raises(EngineError, match="thirteen"):
        await batcher.submit([13])
    assert where.batches == [(True, [13]), (False, [13])]
    assert batcher._queued == 0


async def test_dearer_and_refused_ones_take_the_long_way_after_many_lone_ones(
    short: tuple[Where, Batcher[int, int]],
) -> None:
    where, batcher = short
    await alone(batcher)
    where.batches.clear()
    assert await batcher.submit([4]) == [4]
    assert where.batches == [(False, [4])]
    with pytest.raises(BadRequest):
        await batcher.submit([-1])
    assert await batcher.submit([1, 1]) == [1, 1]
    batcher.close()
    with pytest.raises(EngineError, match="stopped"):
        await batcher.submit([1])


MS = 0.001


async def test_a_worker_rests_once_after_a_while_without_work(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.batcher.REST_S", 0.05)
    rests: list[int] = []
    batcher = make(gate, rest=lambda: rests.append(len(gate.batches)))
    try:
        await asyncio.sleep(0.3)
        assert rests == [0]
        assert await batcher.submit([1]) == [2]
        await asyncio.sleep(0.3)
        assert rests == [0, 1]
    finally:
        batcher.close()


@pytest.mark.parametrize(
    ("turns", "holds"),
    [
        pytest.param([(0.015 * at, 1) for at in range(7)], [True] * 6 + [False], id="nothing else to do"),
        pytest.param([(0, 1), (0.2, 1), (0.9, 1), (1.01, 1)], [True, True, True, False], id="others are worked on"),
        pytest.param([(0, 1), (0.9, 2), (1.8, 3), (2.81, 3)], [True, True, True, False], id="more come"),
        pytest.param([(0, 3), (0.01, 16)], [True, False], id="enough"),
        pytest.param([(0, 16)], [False], id="enough at once"),
    ],
)
def test_a_batch_is_held_while_requests_come_and_there_are_few(
    turns: list[tuple[float, int]], holds: list[bool]
) -> None:
    patience = Patience()
    assert [patience.holds(waiting, 5 + at_ms * MS) for at_ms, waiting in turns] == holds


def test_what_was_held_in_vain_is_tried_again_after_more_and_more() -> None:
    patience, now_s = Patience(), 0.0

    def held(then: int = 1) -> bool:
        """Whether the batch of a lone request is held back; so many wait at the end."""
        nonlocal now_s
        now_s += 1
        if not patience.holds(1, now_s):
            return False
        patience.holds(then, now_s + 0.5 * MS)
        assert not patience.holds(then, now_s + 2 * MS)
        return True

    assert [at for at in range(140) if held()] == [0, 2, 5, 10, 19, 36, 69, 102, 135]
    while not held(then=2):
        pass
    assert held(), "that one came showed that it pays"
