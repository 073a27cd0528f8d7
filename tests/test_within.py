"""Time limits; what is said of a `limit` holds for `asyncio.timeout` too, in whose place they stand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from deployments import within as limits
from deployments.within import TICK_S, within

Lift = Callable[[], None]
Limit = Callable[[float], contextlib.AbstractAsyncContextManager[Lift]]


@contextlib.asynccontextmanager
async def ours(seconds: float) -> AsyncIterator[Lift]:
    with within(seconds) as limit:
        yield limit.lift


@contextlib.asynccontextmanager
async def asyncios(seconds: float) -> AsyncIterator[Lift]:
    async with asyncio.timeout(seconds) as limit:
        yield lambda: limit.reschedule(None)


@pytest.fixture(params=[ours, asyncios])
def limit(request: pytest.FixtureRequest) -> Limit:
    found: Limit = request.param
    return found


def cancelling() -> int:
    task = asyncio.current_task()
    assert task
    return task.cancelling()


def seconds() -> float:
    return asyncio.get_running_loop().time()


async def test_a_block_that_takes_too_long_ends_in_time(limit: Limit) -> None:
    began_s = seconds()
    with pytest.raises(TimeoutError):
        async with limit(0.05):
            await asyncio.sleep(10)
    assert 0.05 <= seconds() - began_s < 5
    assert cancelling() == 0


async def test_a_block_that_is_done_is_left_alone(limit: Limit) -> None:
    async with limit(0.05):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05 + 2 * TICK_S)


async def test_what_is_lifted_limits_no_more(limit: Limit) -> None:
    async with limit(0.05) as lift:
        lift()
        await asyncio.sleep(0.05 + 2 * TICK_S)


async def test_an_error_of_the_block_is_its_own(limit: Limit) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with limit(10):
            raise KeyError("mine")


async def test_an_error_after_the_limit_is_its_own_too(limit: Limit) -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise KeyError("mine") from None

    with pytest.raises(KeyError, match="mine"):
        async with limit(0.05):
            await work()
    assert cancelling() == 0


async def test_a_limit_within_what_is_cancelled_already(limit: Limit) -> None:
    """As where a request that ends still has something to wait for."""

    async def work() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            with pytest.raises(TimeoutError):
                async with limit(0.05):
                    await asyncio.sleep(10)
            assert cancelling() == 1
            raise

    assert (await cancelled_by_others(work(), 0)).cancelled()


async def test_the_inner_of_two_limits_ends_the_inner_block_alone(limit: Limit) -> None:
    async with limit(10):
        with pytest.raises(TimeoutError):
            async with limit(0.05):
                await asyncio.sleep(10)
        await asyncio.sleep(0)


async def test_the_outer_of_two_limits_ends_both(limit: Limit) -> None:
    inner: list[BaseException] = []

    async def work() -> None:
        try:
            async with limit(10):
                await asyncio.sleep(10)
        except BaseException as error:
            inner.append(error)
            raise

    with pytest.raises(TimeoutError):
        async with limit(0.05):
            await work()
    assert [type(one) for one in inner] == [asyncio.CancelledError]


async def cancelled_by_others(work: Awaitable[None], after_s: float) -> asyncio.Task[None]:
    task = asyncio.ensure_future(work)
    assert isinstance(task, asyncio.Task)
    await asyncio.sleep(after_s)
    task.cancel()
    await asyncio.wait([task])
    return task


async def test_who_is_cancelled_by_others_is_cancelled(limit: Limit) -> None:
    async def work() -> None:
        async with limit(10):
            await asyncio.sleep(10)

    assert (await cancelled_by_others(work(), 0)).cancelled()


async def test_who_is_cancelled_by_others_after_the_limit_too_is_cancelled(limit: Limit) -> None:
    async def work() -> None:
        async with limit(0.05):
            try:
                await asyncio.sleep(10)
            finally:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(10)  # the second cancellation comes here
                await asyncio.sleep(0)

    assert (await cancelled_by_others(work(), 0.05 + 3 * TICK_S)).cancelled()


async def test_a_loop_with_no_blocks_has_no_timer() -> None:
    with within(10):
        pass
    await asyncio.sleep(2 * TICK_S)
    assert asyncio.get_running_loop() not in limits._blocks
