"""Carries a request to a model's replica over a Ray Serve handle, and its answer back.

Unary answers are one call, streams a stream. A large body goes through the object store, not
through the call. A request whose replica dies before it began to answer is carried again, within
its deadline. Knows nothing of paths or bodies' meaning.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import numpy as np
import ray
from grpc import RpcError
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import Send

from deployments.asgi import Answer, Head
from deployments.errors import DeadlineExceeded, ModelUnavailable, QueueFull, ReplicaLost
from deployments.protocols import STREAMED
from deployments.protocols.app import ModelStatus
from deployments.within import within

log = logging.getLogger("serve_app")

INLINE_BYTES = 1 << 20
"""Bodies up to here travel in the call; larger ones by reference. gRPC takes at most 4 MiB in a call."""
ATTEMPTS = 3
"""Replicas that one request may be given to: an input that kills replicas must not kill them all."""
STATUS_TIMEOUT_S = 3.0
GRACE_S = 2.0
"""How much longer than the replica the gateway waits: a replica whose model is loading says more than "too late"."""

_STREAM = re.compile(rb'"stream"\s*:\s*true|name="stream"(?:\r\n[^\r\n]+)*\r\n\r\n(?:true|1)', re.IGNORECASE)


class Parcel(NamedTuple):
    """A request's body on its way: itself or, where it is large, where it lies in Ray's object store."""

    body: "bytes | ray.ObjectRef[Any]"
    large: bool
    wants_stream: bool


async def pack(body: bytes | bytearray) -> Parcel:
    """The body, ready to be carried, several times if need be. A large one need not be kept besides."""
    streamed = wants_stream(body)
    if len(body) <= INLINE_BYTES:
        return Parcel(bytes(body), False, streamed)
    return Parcel(await asyncio.to_thread(ray.put, np.frombuffer(body, np.uint8)), True, streamed)


class Carrier:
    """The way to the replicas of one deployment."""

    def __init__(self, name: str, handle: "DeploymentHandle[Any]") -> None:
        self._name = name
        self._unary = handle.options(
            method_name="unary", request_serialization="pickle", response_serialization="pickle"
        )
        self._unary_large = handle.options(method_name="unary", _by_reference=True)
        self._stream = handle.options(method_name="stream", stream=True, request_serialization="pickle")
        self._stream_large = handle.options(method_name="stream", stream=True, _by_reference=True)
        self._report = handle.options(method_name="report")
        self._last: list[ModelStatus] = []

    async def carry(self, head: Head, parcel: Parcel, send: Send) -> None:
        """Have the request answered through `send`. Cancelling this cancels the work in the replica.

        Raises `DeadlineExceeded`, `QueueFull`, `ModelUnavailable`, or `ReplicaLost` after `ATTEMPTS`
        replicas died; only before the answer began.
        """
        limit_s = head.timeout_s
        deadline_s = time.monotonic() + limit_s
        streamed = parcel.wants_stream or head.path.endswith(STREAMED)
        one_call = self._stream_once if streamed else self._unary_once
        for attempt in range(1, ATTEMPTS + 1):
            left_s = deadline_s - time.monotonic()
            try:
                await one_call(head._replace(timeout_s=max(left_s, 0.0)), parcel, send)
                return
            except TimeoutError:
                raise DeadlineExceeded(f"{self._name} did not begin to answer within {limit_s:g} s") from None
            except (RayActorError, RpcError, _Dropped) as error:
                log.warning("%s: a replica was lost (attempt %d of %d): %s", self._name, attempt, ATTEMPTS, error)
        raise ReplicaLost(f"{ATTEMPTS} replicas of {self._name} died while they answered this request")

    async def statuses(self) -> list[ModelStatus]:
        """What one of the replicas says of its models; what was said last when none answers soon.

        A question about the state waits in the same queue as the requests, so that a busy model is
        slow to answer it. Nothing while nothing was ever said.
        """
        response = self._report.remote()
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                self._last = await response
        except (TimeoutError, RayActorError, RpcError, DeploymentUnavailableError, BackPressureError) as error:
            response.cancel()
            log.info("%s: no status: %r", self._name, error)
        except asyncio.CancelledError:
            response.cancel()
            _raise_if_cancelled()
        return self._last

    async def _unary_once(self, head: Head, parcel: Parcel, send: Send) -> None:
        handle = self._unary_large if parcel.large else self._unary
        answer = await self._first(handle.remote(head, parcel.body), head.timeout_s)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _stream_once(self, head: Head, parcel: Parcel, send: Send) -> None:
        pieces = (self._stream_large if parcel.large else self._stream).remote(head, parcel.body)
        answer = await self._first(pieces, head.timeout_s)
        # From here on the answer has begun: an error may no longer be answered by another replica.
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
            await send({"type": "http.response.body", "body": answer.body, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (RayActorError, RpcError) as error:
            raise BrokenStream(f"the replica of {self._name} died in the middle of its answer") from error
        except asyncio.CancelledError:
            pieces.cancel()
            _raise_if_cancelled()
            raise BrokenStream(f"the replica of {self._name} was stopped in the middle of its answer") from None
        except BaseException:  # whoever takes the answer wants no more of it
            pieces.cancel()
            raise
        await send({"type": "http.response.body", "body": b""})

    async def _first(self, response: Any, timeout_s: float) -> Answer:
        """The whole answer of a unary call, or the first piece of a stream."""
        try:
            with within(timeout_s + GRACE_S):
                answer: Answer = await (anext(response) if isinstance(response, AsyncIterator) else response)
                return answer
        except TimeoutError:
            response.cancel()
            raise
        except asyncio.CancelledError:
            response.cancel()
            _raise_if_cancelled()
            raise _Dropped("the replica was stopped") from None
        except BackPressureError as error:
            raise QueueFull(f"too many requests wait for {self._name}", retry_after_s=1) from error
        except DeploymentUnavailableError as error:
            raise ModelUnavailable(f"{self._name} has no replica that could be started", retry_after_s=30) from error


def _raise_if_cancelled() -> None:
    """Within `except CancelledError`: go on being cancelled, unless it was the replica that was shut down."""
    task = asyncio.current_task()
    if task and task.cancelling():
        raise  # the CancelledError that is being handled


class BrokenStream(Exception):
    """An answer that broke off; its connection is closed, so that the client does not take it as whole."""


class _Dropped(Exception):
    """A call that ended without an answer though its caller still waits."""


def wants_stream(body: bytes | bytearray) -> bool:
    """Whether a body asks for a streamed answer. Wrongly yes costs speed only, so a plain search will do."""
    return b'"stream"' in body and _STREAM.search(body) is not None
