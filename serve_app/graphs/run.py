"""One request on its way through a graph.

Contract: KServe's router (`cmd/router`), whose statuses and bodies these are; docs/graphs.md has the table. The
last step's answer goes to the client as it comes; every other one is kept whole. Cancelling a run cancels its steps.
Knows nothing of how models and services are reached.
"""

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson
from starlette.types import Message, Send

from deployments.errors import ServeAppError
from deployments.protocols.app import off_loop
from serve_app.graphs.metrics import CLIENT_GONE, Timing
from serve_app.graphs.payload import JSON, STEP, Collector, Headers, Out, Payload
from serve_app.graphs.spec import ROOT, Graph, Node, Step
from serve_app.graphs.templates import Missing, Reference, Template

log = logging.getLogger("serve_app")
UNMATCHED = "None of the routes matched with the switch condition"
TYPES_OF_NOTHING = (b"", b"text/plain", b"application/x-www-form-urlencoded")
"""Content types that clients send where nobody chose one; KServe's router would say `application/json`."""


class Call(NamedTuple):
    """What a step asks of its model or service: a POST."""

    step: Step
    headers: Headers
    body: bytes
    timeout_s: float


Ask = Callable[[Call, Send], Awaitable[None]]
"""Has a call answered, as an ASGI app answers. Raises errors of ours, before the answer began."""


class Refused(Exception):
    """Ends the whole graph: a status, the cause that the client is told, and the step that it is about, if one is."""

    def __init__(self, status: int, cause: str, step: str = "") -> None:
        super().__init__(cause)
        self.status, self.cause, self.step = status, cause, step


@dataclass
class Run:
    """A request's run; `timings` collects what each step took."""

    graph: Graph
    ask: Ask
    headers: Headers
    """Those of the request that its steps get too."""
    out: Out
    chance: Callable[[], float] = random.random
    """A number from 0 to 1, 1 excluded, for Splitters."""
    timings: list[Timing] = field(default_factory=list)

    async def answer(self, request: Payload) -> Payload | None:
        """The graph's answer, or None where it went to `out` already. Raises `Refused`."""
        self._ends_s = asyncio.get_running_loop().time() + self.graph.timeout
        return await self._node(ROOT, request, self.out)

    async def _node(self, name: str, request: Payload, out: Out | None) -> Payload | None:
        """The node's answer; where `out` is given, its last step may answer there, and nothing is returned."""
        node = self.graph.nodes[name]
        match node.router_type:
            case "Sequence":
                return await self._sequence(name, node, request, out)
            case "Ensemble":
                return await self._ensemble(name, node, request)
            case "Switch":
                index = await self._matching(node, request)
            case "Splitter":
                index = drawn([step.weight or 0 for step in node.steps], self.chance())
        return await self._step(name, index, request, request, {}, out)

    async def _sequence(self, name: str, node: Node, request: Payload, out: Out | None) -> Payload | None:
        before: Payload | None = None
        done: dict[str, Payload] = {}
        for index, step in enumerate(node.steps):
            if step.where and before:
                asked = label(name, index - 1, node.steps[index - 1])
                if not await self._holds(step, before, asked):
                    return replace(before, status=200, headers=())
            last = index == len(node.steps) - 1
            answer = await self._step(name, index, request, before, done, out if last else None)
            if answer is None or (step.dependency == "Hard" and not answer.succeeded):
                return answer
            before = done[step.name] = answer
        return before

    async def _ensemble(self, name: str, node: Node, request: Payload) -> Payload:
        async def one(index: int) -> Payload:
            answer = await self._step(name, index, request, None, {}, None)
            assert answer is not None, "without `out` a step's answer is kept"
            try:
                await answer.data()
            except ValueError:
                how = f"answered no JSON, with status {answer.status}"
                return self._failed(
                    label(name, index, node.steps[index]), how, 502 if answer.succeeded else answer.status
                )
            return answer

        tasks = [asyncio.create_task(one(index)) for index in range(len(node.steps))]
        merged: dict[str, Any] = {}
        try:
            for index, (step, task) in enumerate(zip(node.steps, tasks, strict=True)):
                answer = await task
                if step.dependency == "Hard" and not answer.succeeded:
                    return answer
                merged[step.name or str(index)] = orjson.Fragment(answer.body)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return Payload(orjson.dumps(merged))

    async def _matching(self, node: Node, request: Payload) -> int:
        for index, step in enumerate(node.steps):
            try:
                if await self._holds(step, request):
                    return index
            except Refused:
                break  # a request that is no JSON matches nothing
        raise Refused(404, UNMATCHED)

    async def _holds(self, step: Step, payload: Payload, asked: str = "") -> bool:
        """Whether a step's condition is there in a request, or in the answer of the step `asked`."""
        where = step.where
        assert where, "asked of steps with a condition"
        try:
            data = await payload.data()
        except ValueError:
            raise Refused(500, "invalid response", asked) from None
        return await off_loop(len(payload.body), lambda: where.exists(data))

    async def _step(
        self,
        name: str,
        index: int,
        request: Payload,
        before: Payload | None,
        done: Mapping[str, Payload],
        out: Out | None,
    ) -> Payload | None:
        """The answer of one step, whatever its status; None where it went to `out`."""
        step = self.graph.nodes[name].steps[index]
        place = label(name, index, step)
        given = before if step.data == "$response" and before else request
        if step.template:
            try:
                given = await self._made(step.template, request, before, done)
            except Missing as error:
                status = 400 if error.reference.root == "request" else 502
                return self._failed(place, f"cannot be asked: {error}", status)
        elif step.map_predictions:
            given = await _mapped(given)
        if not step.node_name:
            return await self._call(place, step, given, out)
        try:
            return await self._limited(place, step, self._node(step.node_name, given, out), out)
        except Refused as error:
            raise Refused(max(error.status, 500), error.cause, error.step or place) from None

    async def _made(
        self, template: Template, request: Payload, before: Payload | None, done: Mapping[str, Payload]
    ) -> Payload:
        roots = {"request": request, "response": before}

        def named(reference: Reference) -> Payload:
            return roots.get(reference.root) or done[reference.step]

        sources = {reference.text: named(reference) for reference in template.references}
        data = {}
        for reference in template.references:
            try:
                data[reference.text] = await sources[reference.text].data()
            except ValueError:
                raise Missing(reference) from None
        size = sum(len(source.body) for source in sources.values())
        body = await off_loop(size, lambda: orjson.dumps(template.fill(lambda reference: data[reference.text])))
        return Payload(body)

    async def _call(self, place: str, step: Step, given: Payload, out: Out | None) -> Payload | None:
        """Ask a model or a service; its answer kept, or given to `out` as it comes."""
        kept = Collector(self.graph.max_answer)
        began_s, noted = time.perf_counter(), False

        def note(status: int) -> None:
            nonlocal noted
            if not noted:
                noted = True
                self.timings.append(Timing(place, time.perf_counter() - began_s, status))

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                if not 200 <= message["status"] <= 299:
                    message = {**message, "headers": [*message.get("headers", ()), (STEP, place.encode())]}
                if out:
                    note(message["status"])
            await (out.send if out else kept.send)(message)

        async def ask() -> Payload | None:
            kind = JSON if given.kind.partition(b";")[0].strip().lower() in TYPES_OF_NOTHING else given.kind
            left_s = min(step.timeout or self.graph.timeout, self._ends_s - asyncio.get_running_loop().time())
            await self.ask(Call(step, [(b"content-type", kind), *self.headers], given.body, max(left_s, 0.0)), send)
            return None if out else kept.payload()

        status = CLIENT_GONE
        try:
            answer = await self._limited(place, step, ask(), out)
            status = answer.status if answer else 200
            return answer
        except Refused as error:
            status = error.status
            raise
        finally:
            note(status)

    async def _limited(
        self, place: str, step: Step, work: Coroutine[Any, Any, Payload | None], out: Out | None
    ) -> Payload | None:
        """What `work` answers within the time of the step and the graph; what goes wrong, as the answer of the step.

        Raises `Refused` when the time of the whole graph is over. Where an answer has begun at `out`, what goes
        wrong breaks it off.
        """
        loop = asyncio.get_running_loop()
        ends_s = min(self._ends_s, loop.time() + step.timeout) if step.timeout else self._ends_s
        try:
            async with asyncio.timeout_at(ends_s) as clock:
                with out.stops(clock) if out else contextlib.nullcontext():
                    return await work
        except TimeoutError:
            if loop.time() >= self._ends_s:
                raise Refused(504, f"{self.graph.timeout:g} s were over in step {place} (timeout)", place) from None
            return self._failed(place, f"did not answer within {step.timeout or self.graph.timeout:g} s", 504)
        except Refused:
            raise
        except Exception as error:
            if out and out.begun:
                raise
            if isinstance(error, ServeAppError):
                return Payload.error(error, place)
            log.exception("graph %s: step %s failed", self.graph.name, place)
            return self._failed(place, "failed", 502)

    def _failed(self, place: str, how: str, status: int) -> Payload:
        return Payload.failure(f"step {place} {how}", status, place)


def label(node: str, index: int, step: Step) -> str:
    """What a step is called in errors and timings."""
    return step.name or f"{node}.{index}"


def drawn(weights: list[int], chance: float) -> int:
    """Which of several with these weights, in percent, a number from 0 to 1 falls upon."""
    point = chance * 100
    for index, weight in enumerate(weights):
        point -= weight
        if point < 0:
            return index
    return max(index for index, weight in enumerate(weights) if weight)


async def _mapped(given: Payload) -> Payload:
    """V1 predictions as V1 instances; what has none stays as it is, and the model says what is wrong with it."""
    try:
        data = await given.data()
    except ValueError:
        return given
    if not isinstance(data, dict) or "predictions" not in data:
        return given
    return Payload(await off_loop(len(given.body), lambda: orjson.dumps({"instances": data["predictions"]})))


def server_timing(timings: list[Timing]) -> bytes:
    """The steps' times as a `Server-Timing` header (W3C), in milliseconds."""
    return ", ".join(
        f"{re.sub(r'[^A-Za-z0-9_-]', '_', one.step)};dur={one.took_s * 1e3:.1f}" for one in timings
    ).encode()
