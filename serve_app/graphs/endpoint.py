"""The graphs of a gateway: a request to one in, its answer out.

Knows nothing of how models are reached: `carry` does that.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.types import Scope, Send

from deployments.asgi import Head
from deployments.errors import ServeAppError
from deployments.protocols.compression import decompress
from serve_app.graphs.metrics import CLIENT_GONE, GraphTimes
from serve_app.graphs.payload import JSON, Headers, Out, Payload
from serve_app.graphs.run import Call, Refused, Run, server_timing
from serve_app.graphs.services import Services
from serve_app.graphs.spec import Graph

log = logging.getLogger("serve_app")
REQUEST_ID = b"x-request-id"
TIMINGS = b"x-graph-timings"
"""Sent with whatever value, it has the answer say what each step took."""
NEVER_PROPAGATED = frozenset(
    b"accept-encoding connection content-encoding content-length content-type expect host keep-alive te trailer"
    b" transfer-encoding upgrade x-graph-timings".split()
)
"""Headers about a request's own way and body, whatever the patterns say."""

Carry = Callable[[str, Head, bytes, Send], Awaitable[None]]
"""Has the model of that name or alias answer a request, through `send`."""


class Graphs:
    """The graphs there are. `carry` leads to the models; `chance` decides for Splitters."""

    def __init__(self, carry: Carry, chance: Callable[[], float] = random.random) -> None:
        self._carry, self._chance = carry, chance
        self._graphs: Mapping[str, Graph] = {}
        self._services = Services()
        self._times = GraphTimes()

    def become(self, graphs: Sequence[Graph]) -> None:
        """Have these from now on; requests on their way end in the ones that they began in."""
        self._graphs = {graph.name: graph for graph in graphs}

    async def answer(self, name: str, scope: Scope, body: bytes, send: Send) -> None:
        """A request to graph `name`, which is answered and counted."""
        graph = self._graphs[name]
        headers: Headers = scope["headers"]
        given = dict(reversed(headers))
        out = Out(send, lambda: _timed(run, given))
        passed = [(key, value) for key, value in headers if _goes_on(graph, key)]
        run = Run(graph, lambda call, to: self._ask(scope, call, to), passed, out, self._chance)
        began_s = time.perf_counter()
        try:
            await self._answered(run, graph, given, body, out)
        finally:
            self._times.ended(name, out.status or CLIENT_GONE, time.perf_counter() - began_s, run.timings)

    async def _answered(self, run: Run, graph: Graph, given: Mapping[bytes, bytes], body: bytes, out: Out) -> None:
        """Have the run answer; whatever goes wrong before it began to is answered here."""
        try:
            opened = await _opened(body, given.get(b"content-encoding"), graph.max_answer)
            answer = await run.answer(Payload(opened, given.get(b"content-type", JSON)))
        except Refused as error:
            answer = Payload.failure(error.cause, error.status, error.step)
        except ServeAppError as error:
            if out.begun:
                raise
            answer = Payload.error(error)
        if answer is not None:
            await out.give(answer)

    async def close(self) -> None:
        """Close the connections to services elsewhere."""
        await self._services.close()

    async def _ask(self, scope: Scope, call: Call, send: Send) -> None:
        step = call.step
        if step.service_url:
            await self._services.ask(call, send)
            return
        ids = [(key, value) for key, value in scope["headers"] if key == REQUEST_ID]
        headers = [*(one for one in call.headers if one[0] != REQUEST_ID), *ids]
        headers.append((b"content-length", str(len(call.body)).encode()))
        path = step.path or f"/v1/models/{step.service_name}:predict"
        client = scope.get("client")
        caller = (client[0], client[1]) if client else None
        head = Head("POST", path, "", b"", headers, caller, call.timeout_s, step.service_name)
        await self._carry(step.service_name, head, call.body, send)


def _goes_on(graph: Graph, name: bytes) -> bool:
    """Whether a header of the request is one of the steps' too."""
    text = name.decode("latin-1")
    return name not in NEVER_PROPAGATED and any(pattern.search(text) for pattern in graph.propagated)


def _timed(run: Run, given: Mapping[bytes, bytes]) -> Headers:
    return [(b"server-timing", server_timing(run.timings))] if TIMINGS in given else []


async def _opened(body: bytes, coding: bytes | None, limit: int) -> bytes:
    """The body without its `Content-Encoding`, so that steps can look into it. Raises errors of ours."""
    if not coding:
        return body
    opened = await asyncio.to_thread(decompress, body, coding.decode("latin-1"), limit)
    assert isinstance(opened, bytes)
    return opened
