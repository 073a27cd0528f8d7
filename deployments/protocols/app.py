"""What the protocols share: the model they are built around, bodies in and out, the app they make up.

Knows no protocol's shapes.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from starlette._utils import get_route_path
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from deployments.asgi import BODY
from deployments.engines import Task
from deployments.errors import BadRequest, MethodNotAllowed, ModelNotFound, NotFound, ServeAppError
from deployments.explainers import Explainer
from deployments.metrics import PredictTimes
from deployments.protocols.compression import decompress
from deployments.protocols.dialects import response
from deployments.settings import ModelIdentity, ModelSettings

THREAD_BYTES = 256 << 10
"""What is larger is read and written off the event loop."""
REFUSALS = (ServeAppError, HTTPException, ClientDisconnect)
"""What is answered as it says, and is no fault of ours."""
Endpoint = Callable[[Request], Awaitable[Response]]
Body = TypeVar("Body", bound=BaseModel)
Piece = TypeVar("Piece")


class ClientBody(BaseModel):
    """Base of what clients send: keys that are not known are ignored, and null is as good as nothing."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if isinstance(given, dict) else given


@dataclass(frozen=True)
class ModelStatus:
    """What a model says of itself."""

    name: str
    task: Task
    engine: str
    state: str
    progress: str = ""
    failure: str | None = None
    pid: int | None = None
    adapters: tuple[str, ...] = ()
    """Names of the LoRA adapters that it has loaded, which are models of their own to clients."""
    version: str = "1"
    stats: dict[str, object] | None = None
    """What Triton's statistics extension says of it."""


class Configured(Protocol):
    """What has a model's settings."""

    settings: ModelSettings


class Served(Configured, Protocol):
    """The model behind the routers, as they see it."""

    identity: ModelIdentity

    def engine(self, request: Request) -> AbstractAsyncContextManager[Any]:
        """The loaded engine, waited for within the request's deadline. Raises `ModelUnavailable`."""

    def explained(self, request: Request) -> AbstractAsyncContextManager[tuple[Any, Explainer]]:
        """The same, and its explainer. Raises `NotImplementedHere` where it has none, `ModelUnavailable`."""

    async def release(self, request: Request) -> None:
        """Unload it, once no request uses it. Raises `BadRequest` where it is always loaded, `ModelUnavailable`."""

    def status(self) -> ModelStatus: ...

    def check(self) -> None:
        """Raise `ModelUnavailable` unless the model is ready."""

    times: PredictTimes

    def loaded(self) -> Any | None:
        """The engine, if one answers now."""

    def adapters(self) -> tuple[str, ...]:
        """Names of its LoRA adapters, while it is loaded."""


def check_name(served: Served | None, name: str, version: str = "") -> Served:
    """The model, if that is its name, an alias of it or one of its adapters, and its version if one is given.

    Raises `ModelNotFound`.
    """
    assert served, "the routers of the documentation are not called"
    if name != served.identity.name and name not in (*served.settings.aliases, *served.adapters()):
        raise ModelNotFound.named(name, [served.identity.name, *served.adapters()])
    if version and version != served.settings.version:
        have = f"Its version here is {served.settings.version}."
        raise ModelNotFound(f"Model with name {name} has no version {version}. {have}", param="version")
    return served


async def off_loop(size: int, call: Callable[[], Piece]) -> Piece:
    """What `call` returns: at once where it works on few bytes, from a thread where others would have to wait."""
    return await run_in_threadpool(call) if size > THREAD_BYTES else call()


async def whole_body(request: Request) -> bytes:
    """The body, as it came; after this there is nothing left to read. Raises `ClientDisconnect`."""
    here: bytes | None = request.scope.get(BODY)
    if here is not None:
        return here
    parts: list[bytes] = []
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def header_of(request: Request, name: bytes) -> str | None:
    """The first header of that name, in lower case; None where there is none. Starlette's way makes an object first."""
    for key, value in request.scope["headers"]:
        if key == name:
            found: str = value.decode("latin-1")
            return found
    return None


async def plain_body(request: Request, served: Configured) -> bytes:
    """The body, decompressed where `Content-Encoding` says so. Raises `BadRequest`, `PayloadTooLarge`."""
    body = await whole_body(request)
    coding = header_of(request, b"content-encoding")
    if not coding:
        return body
    opened = await run_in_threadpool(decompress, body, coding, served.settings.limits.max_decompressed)
    assert isinstance(opened, bytes)
    return opened


class HeldStream(StreamingResponse):
    """A stream that holds something (the engine, an open file) until it has ended, however it ends."""

    def __init__(self, held: AsyncExitStack, content: AsyncIterator[bytes], media_type: str) -> None:
        super().__init__(content, media_type=media_type)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def preceded(first: Piece, rest: AsyncIterator[Piece]) -> AsyncGenerator[Piece]:
    """A stream whose first piece was taken, so that what is wrong from the start is said with its status."""
    yield first
    async for piece in rest:
        yield piece


def event(content: object) -> bytes:
    """A server-sent event with this as its JSON data."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


def as_list(given: object) -> object:
    """A validator's way to take one string for a list of it."""
    return [given] if isinstance(given, str) else given


def json_response(content: object, status: int = 200) -> Response:
    """A JSON body by orjson, which takes numpy arrays as they are."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def read_object(body: bytes) -> dict[str, Any]:
    """A body that is a JSON object. Raises `BadRequest` in KServe's words."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"Unrecognized request format: {error}") from None
    if not isinstance(given, dict):
        raise BadRequest("Unrecognized request format: the body is not a JSON object")
    return given


async def read_json(request: Request, shape: type[Body]) -> Body:
    """The body as `shape`, whatever its content type says. Raises `BadRequest` naming what is wrong."""
    try:
        return shape.model_validate_json(await request.body())
    except ValidationError as error:
        raise explain(error) from None


def explain(error: ValidationError) -> BadRequest:
    """The first things that pydantic found wrong, in one sentence."""
    found = error.errors(include_url=False, include_input=False)
    wrong = "; ".join(f"{_place(one['loc'])}{one['msg'].removeprefix('Value error, ')}" for one in found[:3])
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    first = found[0]["loc"]
    return BadRequest(f"Unrecognized request format: {wrong}{more}", param=str(first[0]) if first else None)


def _place(loc: Sequence[int | str]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    return f"{path}: " if path else ""


def read_fields(form: FormData, shape: type[Body]) -> Body:
    """A form's text fields as `shape`; an empty one is none, repeated ones are lists. Raises `BadRequest`."""
    given: dict[str, object] = {}
    for name in form:
        values = [value for value in form.getlist(name) if isinstance(value, str) and value]
        if values:
            given[name] = values if len(values) > 1 else values[0]
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        raise explain(error) from None


def post(api: APIRouter, path: str, served: Served | None, **described: Any) -> Callable[[Endpoint], Endpoint]:
    """Decorates a function that reads a POST to that path itself: FastAPI documents it, Starlette serves it.

    FastAPI's own way to call a function costs 0.1 ms more, which is a third of a small model's answer.
    """

    def add(answer: Endpoint) -> Endpoint:
        if served:
            api.add_route(path, answer, ["POST"], include_in_schema=False)

        async def documented() -> Response:
            raise AssertionError("the route before this one has answered")

        api.add_api_route(path, documented, methods=["POST"], name=answer.__name__, **described)
        return answer

    return add


def build_app(title: str, routers: Sequence[APIRouter], description: str = "") -> FastAPI:
    """An ASGI app of these routers, with `/docs`, and with every refusal in the caller's dialect."""
    app: FastAPI = FastAPIOffline(title=title, description=description, redoc_url=None, openapi_url="/openapi.json")
    for router in routers:
        app.include_router(router)

    async def refuse(request: Request, error: Exception) -> Response:
        return response(as_ours(request, error, app), request.url.path)

    async def fail(request: Request, _error: Exception) -> Response:
        return response(ServeAppError("internal error"), request.url.path)

    for kind in REFUSALS:
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(Exception, fail)
    return app


def as_ours(request: Request, error: Exception, app: FastAPI) -> ServeAppError:
    """Starlette's own refusals as errors of ours, naming what would have been valid."""
    if isinstance(error, ServeAppError):
        return error
    path = get_route_path(request.scope)
    if isinstance(error, HTTPException) and error.status_code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed on {path}; it takes {_methods_at(request, app)}")
    if isinstance(error, HTTPException) and error.status_code == 404:
        return NotFound(f"nothing at {path}; here are {', '.join(app.openapi()['paths'])}")
    if isinstance(error, HTTPException):
        return BadRequest(error.detail)
    return BadRequest("the client went away before its request was complete")


def check_method(request: Request) -> None:
    """Raise `MethodNotAllowed` if the request's path is there for other methods than its own."""
    if allowed := _methods_at(request, request.app):
        path = get_route_path(request.scope)
        raise MethodNotAllowed(f"{request.method} is not allowed on {path}; it takes {allowed}")


def _methods_at(request: Request, app: FastAPI) -> str:
    routes = [route for route in app.routes if isinstance(route, Route)]
    able = [route.methods or () for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return ", ".join(sorted({method for methods in able for method in methods}))
