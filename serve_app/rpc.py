"""The gRPC service `inference.GRPCInferenceService`: each RPC asks the application's own HTTP paths, in this process.

Contract: the Open Inference Protocol (V2) over gRPC, with Triton's repository, configuration, statistics and
stream. Knows nothing of models; `deployments.protocols.open_inference_grpc` turns messages into tensors.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, TypeVar

import grpc
import orjson
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from ray.serve.grpc_util import RayServegRPCContext
from starlette.types import ASGIApp

from deployments.asgi import Answer, Head, run_stream, run_unary
from deployments.protocols import open_inference_pb2 as pb
from deployments.protocols.models import ANSWERING
from deployments.protocols.open_inference_grpc import SERVICE, repository_model, split_frames
from deployments.protocols.v2 import PROTOBUF

Made = TypeVar("Made", bound=Message)
NOT_CARRIED = frozenset({"content-type", "te", "user-agent", "grpc-accept-encoding", "accept-encoding"}) | {
    "content-length",
    "transfer-encoding",
    "request_id",
    "x-request-id",
}
"""Metadata about the call's own transport, and its id."""
HEAD_TAGS = (b"\x0a", b"\x12", b"\x1a")
"""How fields 1 to 3 of a message begin where they are texts."""
UNREADABLE = "the message is no ModelInferRequest: its bytes cannot be read"
WATCH_S = 2.0
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's codes of HTTP's statuses; another is INTERNAL."""


class OpenInferenceMethods:
    """The RPCs as Ray Serve calls them, by their names: a message and its context in, a message out.

    Tensors are not read here: their messages come and go as bytes.
    """

    http_app: ASGIApp
    """What answers HTTP."""

    async def ServerLive(self, _message: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, _message: pb.ServerReadyRequest, grpc_context: RayServegRPCContext
    ) -> pb.ServerReadyResponse:
        answer = await self._ask(grpc_context, "GET", "/v2/health/ready")
        return pb.ServerReadyResponse(ready=answer.status == 200)

    async def ModelReady(
        self, message: pb.ModelReadyRequest, grpc_context: RayServegRPCContext
    ) -> pb.ModelReadyResponse:
        answer = await self._health(grpc_context, f"{_path(message.name, message.version)}/ready")
        return pb.ModelReadyResponse(ready=answer.status == 200)

    async def ServerMetadata(
        self, _message: pb.ServerMetadataRequest, grpc_context: RayServegRPCContext
    ) -> pb.ServerMetadataResponse:
        return await self._read(grpc_context, "/v2", pb.ServerMetadataResponse())

    async def ModelMetadata(
        self, message: pb.ModelMetadataRequest, grpc_context: RayServegRPCContext
    ) -> pb.ModelMetadataResponse:
        return await self._read(grpc_context, _path(message.name, message.version), pb.ModelMetadataResponse())

    async def ModelConfig(
        self, message: pb.ModelConfigRequest, grpc_context: RayServegRPCContext
    ) -> pb.ModelConfigResponse:
        path = f"{_path(message.name, message.version)}/config"
        config = await self._read(grpc_context, path, pb.ModelConfig())
        return pb.ModelConfigResponse(config=config)

    async def ModelStatistics(
        self, message: pb.ModelStatisticsRequest, grpc_context: RayServegRPCContext
    ) -> pb.ModelStatisticsResponse:
        path = f"{_path(message.name, message.version)}/stats" if message.name else "/v2/models/stats"
        return await self._read(grpc_context, path, pb.ModelStatisticsResponse())

    async def ModelInfer(self, message: bytes, grpc_context: RayServegRPCContext) -> "Written":
        asked = head_in(message)
        if asked is None:
            await self._admit(grpc_context)
            raise _refusal(UNREADABLE, 400, grpc_context)
        return await self.infer(asked, message, grpc_context)

    async def infer(self, asked: pb.ModelInferRequest, message: bytes, context: RayServegRPCContext) -> "Written":
        """Answer a `ModelInfer`, of which `asked` is the head. Raises `RpcRefused`."""
        path = f"{_path(asked.model_name, asked.model_version)}/infer"
        answer = await self._ask(context, "POST", path, message)
        _raise_unless_done(answer, context)
        return Written(answer.body)

    async def ModelStreamInfer(
        self, messages: AsyncIterator[bytes], grpc_context: RayServegRPCContext
    ) -> AsyncIterator["Written | pb.ModelStreamInferResponse"]:
        """Each request's answers, in order: one, or as many as a text has pieces. An error ends its request only."""
        async for message in messages:
            asked = head_in(message)
            if asked is None:
                await self._admit(grpc_context)
                yield pb.ModelStreamInferResponse(error_message=UNREADABLE)
                continue
            path = f"{_path(asked.model_name, asked.model_version)}/infer_stream"
            pieces = run_stream(self.http_app, _head(grpc_context, "POST", path), message)
            first = await anext(pieces)
            assert isinstance(first, Answer), "a stream begins with its head"
            if first.status != 200:
                body = b"".join([first.body, *[piece async for piece in pieces if isinstance(piece, bytes)]])
                if first.status == 401:
                    _raise_unless_done(first._replace(body=body), grpc_context)
                yield pb.ModelStreamInferResponse(
                    error_message=_message_in(body), infer_response=pb.ModelInferResponse(id=asked.id)
                )
                continue
            async for found in split_frames(first.body, pieces):
                yield Written(found)

    async def RepositoryIndex(
        self, message: pb.RepositoryIndexRequest, grpc_context: RayServegRPCContext
    ) -> pb.RepositoryIndexResponse:
        body = orjson.dumps({"ready": message.ready})
        answer = await self._ask(grpc_context, "POST", "/v2/repository/index", body, "application/json")
        _raise_unless_done(answer, grpc_context)
        return _filled(pb.RepositoryIndexResponse(), {"models": orjson.loads(answer.body)})

    async def RepositoryModelLoad(
        self, message: pb.RepositoryModelLoadRequest, grpc_context: RayServegRPCContext
    ) -> pb.RepositoryModelLoadResponse:
        name = await self._have(grpc_context, message, "load")
        return pb.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def RepositoryModelUnload(
        self, message: pb.RepositoryModelUnloadRequest, grpc_context: RayServegRPCContext
    ) -> pb.RepositoryModelUnloadResponse:
        name = await self._have(grpc_context, message, "unload")
        return pb.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    async def _have(
        self,
        context: RayServegRPCContext,
        message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest,
        done: str,
    ) -> str:
        """Have the message's model loaded or unloaded; its name."""
        name = repository_model(message)
        _raise_unless_done(await self._ask(context, "POST", f"/v2/repository/models/{name}/{done}"), context)
        return name

    async def Check(
        self, message: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthCheckResponse:
        """`grpc.health.v1.Health`: of the server, or of the model that `service` names."""
        path = "/v2/health/ready" if message.service in ("", SERVICE) else f"{_path(message.service)}/ready"
        return _serving((await self._health(grpc_context, path)).status == 200)

    async def List(
        self, _message: health_pb2.HealthListRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthListResponse:
        """The health of the server, whose name is empty, and of each model, as `Check` has them."""
        await self._admit(grpc_context)
        told = orjson.loads((await self._health(grpc_context, "/v2/health/ready")).body)
        up = {"": told["ready"]} | {model["name"]: model["state"] in ANSWERING for model in told["models"]}
        return health_pb2.HealthListResponse(statuses={name: _serving(one) for name, one in up.items()})

    async def Watch(
        self, message: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The same, now and whenever it has changed."""
        said = None
        while True:
            try:
                now = await self.Check(message, grpc_context)
            except RpcRefused as refused:
                if refused.status != 404:
                    raise
                grpc_context.set_code(grpc.StatusCode.OK)
                now = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if now != said:
                yield now
            said = now
            await asyncio.sleep(WATCH_S)

    async def _ask(
        self, context: RayServegRPCContext, method: str, path: str, body: bytes = b"", kind: str = PROTOBUF
    ) -> Answer:
        return await run_unary(self.http_app, _head(context, method, path, kind), body)

    async def _health(self, context: RayServegRPCContext, path: str) -> Answer:
        """What is at a path of readiness, where 503 is an answer and no error."""
        answer = await self._ask(context, "GET", path)
        if answer.status != 503:
            _raise_unless_done(answer, context)
        return answer

    async def _admit(self, context: RayServegRPCContext) -> None:
        """End a call that shows no key where one is needed. Raises `RpcRefused`."""
        _raise_unless_done(await self._ask(context, "GET", "/v2"), context)

    async def _read(self, context: RayServegRPCContext, path: str, message: Made) -> Made:
        """What is at a path, as a message of the same fields."""
        answer = await self._ask(context, "GET", path)
        _raise_unless_done(answer, context)
        return _filled(message, orjson.loads(answer.body))


def _filled(message: Made, fields: dict[str, Any]) -> Made:
    json_format.ParseDict(fields, message, ignore_unknown_fields=True)
    return message


def _serving(up: bool) -> health_pb2.HealthCheckResponse:
    state = health_pb2.HealthCheckResponse
    return state(status=state.SERVING if up else state.NOT_SERVING)


def head_in(message: bytes) -> pb.ModelInferRequest | None:
    """Model, version and id of a `ModelInferRequest`, and no more of it where it begins with them; None if it is none.

    Protobuf writes fields by their numbers, so that these three come first: texts, behind a tag and a length of a byte
    each unless they are long. A message in another order is read as a whole.
    """
    at, fields = 0, set()
    while message[at : at + 1] in HEAD_TAGS and at + 1 < len(message) and message[at + 1] < 128:
        fields.add(message[at])
        at += 2 + message[at + 1]
    found = pb.ModelInferRequest()
    try:
        found.ParseFromString(message[:at] if 0x0A in fields else message)
    except DecodeError:
        return None
    return found


def _path(model: str, version: str = "") -> str:
    return f"/v2/models/{model}" + (f"/versions/{version}" if version else "")


def _head(context: RayServegRPCContext, method: str, path: str, kind: str = PROTOBUF) -> Head:
    """An HTTP request to `path` with the call's metadata as its headers; its id is the one that Ray Serve answers."""
    headers = [
        (key.encode(), value.encode() if isinstance(value, str) else value)
        for key, value in context.invocation_metadata()
        if key not in NOT_CARRIED
    ]
    headers += [(b"x-request-id", value.encode()) for key, value in context.trailing_metadata() if key == "request_id"]
    return Head(method, path, "", b"", [*headers, (b"content-type", kind.encode())], None, 0.0)


def _raise_unless_done(answer: Answer, context: RayServegRPCContext) -> None:
    """End the call with the code and the message of an answer that is an error."""
    if answer.status != 200:
        raise _refusal(_message_in(answer.body), answer.status, context)


def code_of(status: int) -> grpc.StatusCode:
    """The code of gRPC for an HTTP status that is no success."""
    return CODES.get(status, grpc.StatusCode.INTERNAL)


def _refusal(message: str, status: int, context: RayServegRPCContext) -> "RpcRefused":
    """What ends the call as an HTTP answer of that status would, its code and details set."""
    context.set_code(code_of(status))
    context.set_details(message)
    return RpcRefused(message, status)


def _message_in(body: bytes) -> str:
    return str(orjson.loads(body)["error"])


class Written(NamedTuple):
    """A message that is written already: Ray Serve asks every answer for its bytes."""

    body: bytes

    def SerializeToString(self) -> bytes:
        return self.body


class RpcRefused(Exception):
    """Ends a call whose code and details are set, as the answer of that HTTP status has it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.status = status
