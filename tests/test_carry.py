"""Carrying a request: replicas that die, deadlines, streams that break; handles stand in for Ray's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from deployments.asgi import Answer, Head
from deployments.errors import DeadlineExceeded, QueueFull, ReplicaLost
from deployments.protocols.app import ModelStatus
from serve_app.carry import ATTEMPTS, INLINE_BYTES, BrokenStream, Carrier, Parcel, pack, wants_stream

HEAD = Head("POST", "/v1/x", "", b"", [], None, 30.0)
ANSWER = Answer(200, [(b"a", b"b")], b"whole")


class Handle:
    """Answers `remote()` by what `behave` makes of the call's number; notes how it was called."""

    def __init__(self, behave: Callable[[int], Any], calls: list[dict[str, Any]] | None = None, **how: Any) -> None:
        self.behave, self.how = behave, how
        self.calls: list[dict[str, Any]] = calls if calls is not None else []

    def options(self, **how: Any) -> "Handle":
        return Handle(self.behave, self.calls, **how)

    def remote(self, head: Head = HEAD, body: Any = b"") -> Any:
        self.calls.append({"head": head, "body": body, **self.how})
        made = self.behave(len(self.calls))
        return Stream(made) if self.how.get("stream") else Unary(made)


class Unary:
    def __init__(self, made: Any) -> None:
        self.made, self.cancelled = made, False

    def __await__(self) -> Any:
        return self._result().__await__()

    async def _result(self) -> Any:
        if isinstance(self.made, BaseException):
            raise self.made
        if asyncio.iscoroutine(self.made):
            return await self.made
        return self.made

    def cancel(self) -> None:
        self.cancelled = True


class Stream(AsyncIterator[Any]):
    def __init__(self, made: Any) -> None:
        self.pieces = iter(made if isinstance(made, list) else [made])
        self.cancelled = False

    async def __anext__(self) -> Any:
        piece = next(self.pieces, None)
        if isinstance(piece, BaseException):
            raise piece
        if piece is None:
            raise StopAsyncIteration
        return piece

    def cancel(self) -> None:
        self.cancelled = True


async def carry(handle: Handle, body: bytes = b"{}", head: Head = HEAD) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    parcel = Parcel(body, len(body) > INLINE_BYTES, wants_stream(body))
    await Carrier("m", handle).carry(head, parcel, send)
    return sent


def died() -> Any:
    return ActorDiedError()


def unavailable() -> Any:
    return ActorUnavailableError("gone", b"0" * 16)


async def test_a_unary_answer_is_one_call() -> None:
    handle = Handle(lambda _: ANSWER)
    sent = await carry(handle)
    assert [call["method_name"] for call in handle.calls] == ["unary"]
    assert sent[0] == {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
    assert sent[1]["body"] == b"whole"


@pytest.mark.parametrize("error", [died, unavailable, asyncio.CancelledError])
@pytest.mark.parametrize("body", [b"{}", b'{"stream": true}'], ids=["unary", "stream"])
async def test_a_request_whose_replica_died_is_carried_again(error: Callable[[], Any], body: bytes) -> None:
    handle = Handle(lambda n: error() if n == 1 else [ANSWER] if b"stream" in body else ANSWER)
    sent = await carry(handle, body)
    assert len(handle.calls) == 2
    assert b"".join(m.get("body", b"") for m in sent) == b"whole"
    assert handle.calls[1]["head"].timeout_s < HEAD.timeout_s


async def test_an_input_that_kills_replicas_is_given_up() -> None:
    handle = Handle(lambda _: died())
    with pytest.raises(ReplicaLost, match="3 replicas of m"):
        await carry(handle)
    assert len(handle.calls) == ATTEMPTS


async def test_an_answer_that_began_is_never_carried_again() -> None:
    handle = Handle(lambda _: [ANSWER, b"more", died()])
    with pytest.raises(BrokenStream):
        await carry(handle, b'{"stream": true}')
    assert len(handle.calls) == 1


async def test_a_stream_passes_in_order_and_ends() -> None:
    sent = await carry(Handle(lambda _: [ANSWER, b"1", b"2"]), b'{"stream":true}')
    assert [m.get("body") for m in sent[1:]] == [b"whole", b"1", b"2", b""]
    assert not sent[-1].get("more_body")


async def test_the_deadline_cancels_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Unary] = []

    class Kept(Handle):
        def options(self, **how: Any) -> "Handle":
            return Kept(self.behave, self.calls, **how)

        def remote(self, head: Head = HEAD, body: Any = b"") -> Any:
            made.append(super().remote(head, body))
            return made[-1]

    monkeypatch.setattr("serve_app.carry.GRACE_S", 0.01)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.01 s"):
        await carry(Kept(lambda _: asyncio.Event().wait()), head=HEAD._replace(timeout_s=0.01))
    assert made[0].cancelled


async def test_a_full_queue_is_a_429() -> None:
    with pytest.raises(QueueFull) as refused:
        await carry(Handle(lambda _: BackPressureError(num_queued_requests=5, max_queued_requests=5)))
    assert refused.value.retry_after_s


async def test_a_cancelled_caller_cancels_the_work() -> None:
    handle = Handle(lambda _: asyncio.Event().wait())
    task = asyncio.create_task(carry(handle))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert len(handle.calls) == 1


async def test_large_bodies_go_by_reference() -> None:
    handle = Handle(lambda _: ANSWER)
    await carry(handle, b"x" * INLINE_BYTES)
    await carry(handle, b"x" * (INLINE_BYTES + 1))
    small, large = handle.calls
    assert "_by_reference" not in small
    assert large["_by_reference"] is True


async def test_a_small_body_is_packed_as_it_is() -> None:
    assert await pack(bytearray(b'{"stream": true}')) == Parcel(b'{"stream": true}', False, True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"stream": true}', True),
        (b'{"a":1,"stream":true}', True),
        (b'{"stream": false}', False),
        (b'{"streams": true}', False),
        (b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n--x--', True),
        (b"\x00\xff" * 1000, False),
        (b"", False),
    ],
)
def test_which_bodies_ask_for_a_stream(body: bytes, expected: bool) -> None:
    assert wants_stream(body) is expected


async def test_a_busy_model_keeps_its_last_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.carry.STATUS_TIMEOUT_S", 0.01)
    known = [ModelStatus("m", "embed", "fake", "ready")]
    carrier = Carrier("m", Handle(lambda n: asyncio.Event().wait() if n != 2 else known))
    assert await carrier.statuses() == []
    assert await carrier.statuses() is known
    assert await carrier.statuses() is known
