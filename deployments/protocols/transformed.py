"""KServe's V1 and V2 requests through a transformer: its `preprocess`, the model's own app, its `postprocess`.

What it sees is JSON whatever the request came as: a CloudEvent's data, binary tensors and gRPC's messages are opened
before it and made again after it. An answer that is an error passes it by.
"""

import logging
import re
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import orjson
from fastapi import Request
from starlette._utils import get_route_path
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.asgi import Head, run_unary
from deployments.engines._transformer import Method, Transformer
from deployments.errors import BadRequest, NotImplementedHere, ServeAppError
from deployments.protocols import cloud_events
from deployments.protocols.app import Configured, off_loop, plain_body, read_object
from deployments.protocols.compression import compress
from deployments.protocols.dialects import response
from deployments.protocols.open_inference import InferRequest, InferResponse, read_json
from deployments.protocols.tensor_data import write_values
from deployments.protocols.v2 import PROTOBUF, read_request, write_response
from deployments.tensors import Tensor

log = logging.getLogger(__name__)
_V1 = re.compile(r"/v1/models/(.+):(?:predict|explain)")
_V2 = re.compile(r"/v2/models/(.+?)(?:/versions/([^/]+))?/(infer|explain|infer_stream)")
BINARY = ("binary_data", "binary_data_output", "binary_data_size")
"""V2's parameters about how a tensor is written, which is the transformer's affair no more."""

WRAPPING = frozenset(
    b"accept-encoding content-encoding content-length content-type inference-header-content-length".split()
)
"""Headers about a body that is not the model's."""


class Host(Configured, Protocol):
    """What hosts a model's transformer, if that has one."""

    def transformer(self, request: Request) -> AbstractAsyncContextManager[Transformer | None]:
        """The loaded transformer, held for one request; None where the model has none. Raises `ModelUnavailable`."""


class Transformed:
    """ASGI middleware around a model's app, be that in this process or the way to another."""

    def __init__(self, app: ASGIApp, host: Host) -> None:
        self._app, self._host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = self._host.settings.transformer is not None and scope["type"] == "http" and scope["method"] == "POST"
        path = get_route_path(scope) if wanted else ""
        v1, v2 = _V1.fullmatch(path), _V2.fullmatch(path)
        if not (v1 or v2):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        request.state.ends_s = time.monotonic() + scope["serve_app.timeout_s"]
        try:
            async with self._host.transformer(request) as transformer:
                if transformer is None:
                    await self._app(scope, receive, send)
                    return
                work = self._v1(request, v1, transformer) if v1 else self._v2(request, v2, transformer)
                answer = await work
        except ServeAppError as error:
            answer = response(error, path)
        except Exception:
            log.exception("%s failed", path)
            answer = response(ServeAppError("internal error"), path)
        await answer(scope, receive, send)

    async def _v1(self, request: Request, path: re.Match[str], transformer: Transformer) -> Response:
        body, event = await plain_body(request, self._host), cloud_events.form_of(request.headers)
        data = cloud_events.open_event(request.headers, body) if event else body
        done = await self._around(request, transformer, await off_loop(len(data), lambda: read_object(data)))
        if isinstance(done, Response):
            return done
        content = await _dumped(transformer, "postprocess", done)
        return cloud_events.event_response(path[1], content, event) if event else _json(content)

    async def _v2(self, request: Request, path: re.Match[str] | None, transformer: Transformer) -> Response:
        assert path, "either path matched"
        if path[3] == "infer_stream":
            raise NotImplementedHere(f"Model with name {path[1]} has a transformer, which streams do not go through.")
        given: InferRequest | None = None
        if request.headers.get("content-type") == PROTOBUF or "inference-header-content-length" in request.headers:
            given = await read_request(request, self._host, path[1], path[2] or "")
            payload = _opened(given)
        else:
            body = await plain_body(request, self._host)
            payload = await off_loop(len(body), lambda: read_object(body))
            if _wants_binary(payload):
                given = await off_loop(len(body), lambda: read_json(body, None, model_name=path[1]))
        done = await self._around(request, transformer, _without_binary(payload))
        if isinstance(done, Response):
            return done
        content = await _dumped(transformer, "postprocess", done)
        if given is None:
            more, content = compress(content, request.headers.get("accept-encoding"))
            return _json(content, *more)
        try:
            made = read_json(orjson.dumps({"inputs": orjson.loads(content).get("outputs")}))
        except BadRequest as error:
            raise transformer.failed("postprocess", error.message) from None
        parameters = done.get("parameters")
        return write_response(
            request,
            InferResponse(
                str(done.get("model_name", path[1])),
                made.inputs,
                str(done.get("model_version") or ""),
                str(done.get("id") or ""),
                parameters if isinstance(parameters, dict) else {},
            ),
            given,
        )

    async def _around(
        self, request: Request, transformer: Transformer, payload: dict[str, Any]
    ) -> dict[str, Any] | Response:
        """What comes out at the other end, or the model's answer where that is an error."""
        headers: Mapping[str, str] = request.headers
        body = await _dumped(transformer, "preprocess", await transformer.run("preprocess", payload, headers))
        answer = await run_unary(self._app, _head(request, body), body)
        if answer.status != 200:
            passed = Response(answer.body, answer.status)
            passed.raw_headers = answer.headers
            return passed
        result = await off_loop(len(answer.body), lambda: read_object(answer.body))
        return await transformer.run("postprocess", result, headers)


def _head(request: Request, body: bytes) -> Head:
    """The same request with this JSON as its body, in no wrapping, and what is left of its time."""
    scope = request.scope
    kept = [one for one in scope["headers"] if one[0] not in WRAPPING and not one[0].startswith(b"ce-")]
    about = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    root, path = scope.get("root_path", ""), get_route_path(scope)
    left_s = max(0.0, request.state.ends_s - time.monotonic())
    return Head("POST", path, root, scope["query_string"], [*kept, *about], None, left_s)


async def _dumped(transformer: Transformer, name: Method, made: dict[str, Any]) -> bytes:
    """What a method returned, as JSON; numpy's arrays and numbers will do. Raises `EngineError`."""
    try:
        return orjson.dumps(made, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise transformer.failed(name, error) from error


def _json(content: bytes, *headers: tuple[bytes, bytes]) -> Response:
    made = Response(content, media_type="application/json")
    made.raw_headers.extend(headers)
    return made


def _opened(given: InferRequest) -> dict[str, Any]:
    """A request as V2's JSON has it. Raises `BadRequest` for FP16 and BF16, which that cannot write."""
    outputs = [{"name": one.name, "parameters": dict(one.parameters)} for one in given.outputs]
    found = {"id": given.id, "parameters": dict(given.parameters), "outputs": outputs}
    return {**{key: value for key, value in found.items() if value}, "inputs": [_input(one) for one in given.inputs]}


def _input(tensor: Tensor) -> dict[str, Any]:
    values, how = write_values(tensor, False)
    data = values.tolist() if hasattr(values, "tolist") else values
    parameters = {**tensor.parameters, **how}
    described = {"name": tensor.name, "shape": list(tensor.array.shape), "datatype": tensor.datatype, "data": data}
    return {**described, "parameters": parameters} if parameters else described


def _parameters(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """All the parameters in a payload that is perhaps not valid."""
    outputs = payload.get("outputs")
    holders = [payload, *(one for one in outputs if isinstance(one, dict))] if isinstance(outputs, list) else [payload]
    return [found for one in holders if isinstance(found := one.get("parameters"), dict)]


def _wants_binary(payload: dict[str, Any]) -> bool:
    return any(one.get(key) for one in _parameters(payload) for key in BINARY)


def _without_binary(payload: dict[str, Any]) -> dict[str, Any]:
    for one in _parameters(payload):
        for key in BINARY:
            one.pop(key, None)
    inputs = payload.get("inputs")
    for one in inputs if isinstance(inputs, list) else []:
        if isinstance(one, dict) and isinstance(one.get("parameters"), dict):
            one["parameters"].pop("binary_data_size", None)
    return payload
