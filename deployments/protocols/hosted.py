"""A request handed to the engine's own ASGI app as it came, within the model's limits.

Knows no protocol's shapes beyond the few fields that are limited.
"""

import contextlib
import json
import math
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import BadRequest, NotFound
from deployments.protocols.app import Served, check_method
from deployments.settings import Limits
from deployments.tensors import show

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Hosted(Response):
    """The answer of the engine's own app; `generates` says whether the request is one for generated texts."""

    def __init__(self, served: Served, request: Request, generates: bool = False) -> None:
        super().__init__()
        self._served, self._request, self._generates = served, request, generates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = {key: value for key, value in scope.items() if key not in ("app", "router", "route", "endpoint")}
        if self._generates:
            body = await self._request.body()
            check_limits(body, self._served.settings.limits)
            receive = _with_body(body, receive)
        async with self._served.engine(self._request) as engine:
            if engine.app is None:
                check_method(self._request)
                raise NotFound(
                    f"nothing at {scope['path']}: engine {self._served.status().engine!r} has no such endpoint"
                )
            await engine.app(own | {"path_params": {}}, receive, send)


def router(served: Served | None) -> APIRouter:
    """Every path that no other router has, for the engine's own app; nothing in the documentation."""
    api = APIRouter()

    async def hosted(request: Request) -> Response:
        assert served
        return Hosted(served, request)

    if served:
        api.add_route("/{path:path}", hosted, METHODS, include_in_schema=False)
    return api


def check_limits(body: bytes, limits: Limits) -> None:
    """Raise `BadRequest` if a body asks for more texts or has more stop strings than one request may.

    Numbers are read as leniently as pydantic reads them, which takes 2.0 and "2" for 2; the rest is for who answers
    the request to refuse.
    """
    asked = _lenient(body)
    if not isinstance(asked, dict):
        return
    prompt = asked.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    for name in ("n", "best_of"):
        if _number(asked.get(name)) * prompts > limits.max_choices:
            have = f"{name}={show(asked[name])}" + (f" for each of {prompts} prompts" if prompts > 1 else "")
            raise BadRequest(f"{have}: at most {limits.max_choices} texts in one request", param=name)
    if prompts > limits.max_choices:
        raise BadRequest(f"{prompts} prompts: at most {limits.max_choices} in one request", param="prompt")
    for name in ("stop", "stop_sequences"):
        stops = asked.get(name)
        if isinstance(stops, list) and len(stops) > limits.max_stops:
            raise BadRequest(f"{len(stops)} stop strings: at most {limits.max_stops} in one request", param=name)


def _lenient(body: bytes) -> Any:
    """JSON, also with the NaN and the numbers without end that the standard library takes; None for what is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(body)
    return None


def _number(given: object) -> float:
    """What it counts, if it can be taken for a number; else nothing."""
    try:
        return float(given) if isinstance(given, int | float | str) else 0.0
    except ValueError:
        return 0.0
    except OverflowError:
        return math.inf


def _with_body(body: bytes, rest: Receive) -> Receive:
    """ASGI's `receive` that gives a body which was read already, then what is still to come."""
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return given.pop() if given else await rest()

    return receive
