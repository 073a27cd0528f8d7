"""The gRPC methods over an application of a test's own."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import orjson
import pytest
from grpc_health.v1 import health_pb2
from starlette.types import Receive, Scope, Send

from deployments.protocols import open_inference_pb2 as pb
from deployments.protocols.open_inference_grpc import frame
from serve_app.rpc import OpenInferenceMethods, RpcRefused

NAMED = pb.ModelInferRequest(model_name="m", model_version="2", id="7").SerializeToString()
LONG = pb.ModelInferRequest(model_name="m" * 300, id="7").SerializeToString()
TENSORS = pb.ModelInferRequest(raw_input_contents=[b"x" * 300]).SerializeToString()


class Context:
    """A call's context, as far as the methods know it."""

    def __init__(self, request_id: str = "", **metadata: str) -> None:
        self._metadata = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        self._trailing = (("request_id", request_id), ("other", "x")) if request_id else ()
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


class Methods(OpenInferenceMethods):
    """Over an application that gives one answer to everything; `asked` are the requests."""

    def __init__(self, status: int = 200, *pieces: bytes) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self._status, self._pieces = status, pieces
        self.http_app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append((scope["method"], scope["path"], headers, (await receive())["body"]))
        await send({"type": "http.response.start", "status": self._status, "headers": []})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def refusing(status: int) -> Methods:
    return Methods(status, b'{"error": "because"}')


async def messages(*given: bytes) -> AsyncIterator[bytes]:
    for one in given:
        yield one


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (404, "NOT_FOUND"),
        (413, "RESOURCE_EXHAUSTED"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (501, "UNIMPLEMENTED"),
        (502, "UNAVAILABLE"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
async def test_a_refusal_ends_the_call_with_its_code_and_words(status: int, code: str) -> None:
    context: Any = Context()
    with pytest.raises(RpcRefused):
        await refusing(status).ModelInfer(pb.ModelInferRequest(model_name="m").SerializeToString(), context)
    assert (context.code.name, context.details) == (code, "because")


async def test_a_call_is_a_request_with_its_metadata_as_headers() -> None:
    methods, answer = Methods(200, b""), pb.ModelInferResponse(model_name="m", id="7")
    methods._pieces = (answer.SerializeToString(),)
    message = pb.ModelInferRequest(model_name="BAAI/bge", model_version="2", id="7")
    context: Any = Context(authorization="Bearer x", user_agent="grpc", content_type="application/grpc")
    written = await methods.ModelInfer(message.SerializeToString(), context)
    assert written.SerializeToString() == answer.SerializeToString()
    ((method, path, headers, body),) = methods.asked
    assert (method, path) == ("POST", "/v2/models/BAAI/bge/versions/2/infer")
    assert headers == {"authorization": "Bearer x", "content-type": "application/x-protobuf"}
    assert body == message.SerializeToString()


async def test_a_call_has_the_id_that_ray_serve_answers_and_no_other() -> None:
    methods = Methods(200, b"")
    context: Any = Context(request_id="ours", x_request_id="another")
    await methods.ModelInfer(NAMED, context)
    ((_, _, headers, _),) = methods.asked
    assert headers == {"x-request-id": "ours", "content-type": "application/x-protobuf"}


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (NAMED + TENSORS, "m/versions/2"),
        (TENSORS + NAMED, "m/versions/2"),
        (NAMED[3:] + TENSORS + NAMED[:3], "m/versions/2"),
        (NAMED[3:] + NAMED[:3], "m/versions/2"),
        (LONG + TENSORS, "m" * 300),
        (NAMED + b"\x3a\xff", "m/versions/2"),
        (TENSORS, ""),
        (b"", ""),
    ],
)
async def test_a_message_goes_to_its_model_wherever_it_names_it(message: bytes, path: str) -> None:
    methods = Methods(200, b"")
    context: Any = Context()
    await methods.ModelInfer(message, context)
    assert [(asked, body) for _, asked, _, body in methods.asked] == [(f"/v2/models/{path}/infer", message)]


@pytest.mark.parametrize("message", [b"\x0a\xff", b"\x0a\x01\xff", b"\x0a\x05m", b"\x0a", b"iris"])
async def test_what_is_no_message_is_refused_and_not_asked(message: bytes) -> None:
    methods = Methods()
    context: Any = Context()
    with pytest.raises(RpcRefused, match="no ModelInferRequest"):
        await methods.ModelInfer(message, context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [path for _, path, _, _ in methods.asked] == ["/v2"]


async def test_what_is_no_message_needs_a_key_too() -> None:
    context: Any = Context()
    with pytest.raises(RpcRefused):
        await refusing(401).ModelInfer(b"\x0a\xff", context)
    assert context.code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_model_that_is_not_ready_is_no_error_and_an_unknown_one_is() -> None:
    context: Any = Context()
    asked = pb.ModelReadyRequest(name="m")
    assert (await Methods().ModelReady(asked, context)).ready
    assert not (await refusing(503).ModelReady(asked, context)).ready
    with pytest.raises(RpcRefused):
        await refusing(404).ModelReady(asked, context)
    assert context.code is grpc.StatusCode.NOT_FOUND


async def test_health_of_all_is_that_of_each() -> None:
    states = {"a": "ready", "b": "failed", "c": "unloaded"}
    body = orjson.dumps({"ready": True, "models": [{"name": name, "state": state} for name, state in states.items()]})
    context: Any = Context()
    found = await Methods(200, body).List(health_pb2.HealthListRequest(), context)
    assert {name: one.status for name, one in found.statuses.items()} == {"": 1, "a": 1, "b": 2, "c": 1}


async def test_fields_that_a_message_lacks_are_left_out() -> None:
    body = orjson.dumps({"name": "m", "versions": ["1"], "platform": "p", "note": "x", "inputs": []})
    context: Any = Context()
    found = await Methods(200, body).ModelMetadata(pb.ModelMetadataRequest(name="m"), context)
    assert (found.name, list(found.versions), found.platform) == ("m", ["1"], "p")


async def test_a_model_is_loaded_where_either_client_names_it() -> None:
    methods = Methods(200, b"{}")
    context: Any = Context()
    for message in (pb.RepositoryModelLoadRequest(model_name="m"), pb.RepositoryModelLoadRequest(repository_name="m")):
        await methods.RepositoryModelLoad(message, context)
    assert {path for _, path, _, _ in methods.asked} == {"/v2/repository/models/m/load"}


async def test_the_answers_of_a_stream_come_out_of_whatever_pieces_they_came_in() -> None:
    answers = [pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(id=str(at))) for at in range(3)]
    whole = b"".join(frame(one) for one in answers)
    methods = Methods(200, whole[:1], whole[1:9], whole[9:])
    context: Any = Context()
    got = [one async for one in methods.ModelStreamInfer(messages(NAMED), context)]
    assert [one.SerializeToString() for one in got] == [one.SerializeToString() for one in answers]


async def test_a_refusal_in_a_stream_leaves_the_stream_open() -> None:
    context: Any = Context()
    asked = messages(NAMED, NAMED[:-1] + b"8")
    got: list[Any] = [one async for one in refusing(400).ModelStreamInfer(asked, context)]
    assert [(one.error_message, one.infer_response.id) for one in got] == [("because", "7"), ("because", "8")]
    assert context.code is None


async def test_what_is_no_message_leaves_the_stream_open() -> None:
    methods = Methods(200, frame(pb.ModelStreamInferResponse(error_message="because")))
    context: Any = Context()
    answers = [one.SerializeToString() async for one in methods.ModelStreamInfer(messages(b"\x0a\xff", NAMED), context)]
    said = [pb.ModelStreamInferResponse.FromString(one).error_message for one in answers]
    assert said == ["the message is no ModelInferRequest: its bytes cannot be read", "because"]


@pytest.mark.parametrize("message", [NAMED, b"\x0a\xff"])
async def test_a_stream_without_a_key_ends_as_a_whole(message: bytes) -> None:
    context: Any = Context()
    with pytest.raises(RpcRefused):
        await anext(refusing(401).ModelStreamInfer(messages(message), context))
    assert context.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("rpc", ["Check", "List", "Watch"])
async def test_health_without_a_key_is_no_news_of_the_model(rpc: str) -> None:
    context, message = Context(), health_pb2.HealthCheckRequest(service="m")
    asked = getattr(refusing(401), rpc)(message, context)
    with pytest.raises(RpcRefused):
        await (anext(asked) if rpc == "Watch" else asked)
    assert context.code is grpc.StatusCode.UNAUTHENTICATED
