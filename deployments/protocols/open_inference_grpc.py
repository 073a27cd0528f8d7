"""Open Inference Protocol (V2) requests and responses in their gRPC form, and the reflection of its service.

Contract: `open_inference.proto`, whose messages `open_inference_pb2` has and whose service
`open_inference_pb2_grpc` adds to a server. Knows no calls and no models.
"""

import struct
from collections.abc import AsyncIterator, Mapping
from operator import methodcaller
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message

from deployments.errors import BadRequest, EngineError
from deployments.protocols import open_inference_pb2 as pb
from deployments.protocols.open_inference import (
    InferRequest,
    InferResponse,
    Parameters,
    RequestedOutput,
    check_parameters,
)
from deployments.protocols.tensor_data import ONLY_RAW, check_count, read_raw, write_raw
from deployments.specs import Datatype, object_array
from deployments.tensors import DTYPES, Tensor, convert, read_datatype, read_shape, refusal

SERVICE = "inference.GRPCInferenceService"
UNREAD = frozenset({"ModelInfer", "ModelStreamInfer"})
"""The RPCs whose methods are given each message as its bytes, and answer what has bytes."""
_LENGTH = struct.Struct("<I")

_CONTENTS: Mapping[Datatype, tuple[str, Datatype]] = {
    "BOOL": ("bool_contents", "BOOL"),
    "INT8": ("int_contents", "INT32"),
    "INT16": ("int_contents", "INT32"),
    "INT32": ("int_contents", "INT32"),
    "INT64": ("int64_contents", "INT64"),
    "UINT8": ("uint_contents", "UINT32"),
    "UINT16": ("uint_contents", "UINT32"),
    "UINT32": ("uint_contents", "UINT32"),
    "UINT64": ("uint64_contents", "UINT64"),
    "FP32": ("fp32_contents", "FP32"),
    "FP64": ("fp64_contents", "FP64"),
    "BYTES": ("bytes_contents", "BYTES"),
}
"""The field of `InferTensorContents` that a datatype's values are in, and the datatype that the field holds."""


def read_proto(message: pb.ModelInferRequest) -> InferRequest:
    """A request whose tensors are raw or typed, but not some of them one way and some the other.

    Arrays of raw contents are read-only views of the bytes that protobuf copies out of the message once.
    Raises `BadRequest`.
    """
    raw, named = message.raw_input_contents, message.inputs
    if raw and len(raw) != len(named):
        raise BadRequest(
            f"raw_input_contents has {len(raw)} entries for {len(named)} inputs; it has one for each, or none at all",
            param="raw_input_contents",
        )
    inputs = [_read_input(given, raw[at] if raw else None) for at, given in enumerate(named)]
    outputs = [RequestedOutput(one.name, _read_parameters(one.parameters)) for one in message.outputs]
    parameters = _read_parameters(message.parameters)
    return InferRequest(
        message.model_name, inputs, outputs, message.model_version, message.id, parameters, raw=len(raw) > 0
    )


def _read_input(given: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    parameters = _read_parameters(given.parameters)
    check_parameters(given.name, parameters)
    filled = {field.name for field, _ in given.contents.ListFields()}
    if raw is None:
        return _read_contents(given, filled, parameters)
    if filled:
        raise refusal(given.name, "has contents beside raw_input_contents; it has one of them")
    return read_raw(given.name, given.datatype, list(given.shape), raw, parameters)


def _read_contents(
    given: pb.ModelInferRequest.InferInputTensor, filled: set[str], parameters: dict[str, Any]
) -> Tensor:
    name, kind = given.name, read_datatype(given.name, given.datatype)
    shape = read_shape(name, list(given.shape))
    if kind in ONLY_RAW:
        raise refusal(name, f"is {kind}, which no typed contents are for; send it in raw_input_contents")
    field, holds = _CONTENTS[kind]
    if filled - {field}:
        raise refusal(name, f"is {kind}, so its contents are in {field}; found {', '.join(sorted(filled - {field}))}")
    values = getattr(given.contents, field)
    check_count(name, shape, len(values))
    if kind == "BYTES":
        return Tensor(name, kind, object_array(list(values)).reshape(shape), parameters)
    array = np.fromiter(values, DTYPES[holds], len(values))
    return Tensor(name, kind, convert(name, array, kind).reshape(shape), parameters)


def _read_parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    if not given:
        return {}
    parameters = {}
    for key, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise BadRequest(f"parameter {key} has no value", param=key)
        parameters[key] = getattr(value, choice)
    return parameters


def write_proto(response: InferResponse, request: InferRequest) -> pb.ModelInferResponse:
    """The answer to `request`: raw where that is, or where an output can be nothing else; typed contents otherwise.

    tritonclient sends and reads raw contents; KServe's client takes both. Raises `EngineError` for a parameter of
    the response that gRPC has no form for.
    """
    message = pb.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id_for(request)
    )
    _write_parameters(message.parameters, response.parameters)
    raw = request.raw or any(tensor.datatype in ONLY_RAW for tensor in response.outputs)
    for tensor in response.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        _write_parameters(output.parameters, tensor.parameters)
        if raw:
            message.raw_output_contents.append(bytes(write_raw(tensor)))
        else:
            field, _ = _CONTENTS[tensor.datatype]
            getattr(output.contents, field).extend(tensor.array.reshape(-1).tolist())
    return message


def _write_parameters(into: Mapping[str, pb.InferParameter], parameters: Parameters) -> None:
    for key, value in parameters.items():
        if isinstance(value, bool):
            into[key].bool_param = value
        elif isinstance(value, str):
            into[key].string_param = value
        elif isinstance(value, float):
            into[key].double_param = value
        elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
            into[key].int64_param = value
        elif isinstance(value, int) and 0 <= value < 1 << 64:
            into[key].uint64_param = value
        else:
            raise EngineError(f"parameter {key} is {type(value).__name__}; gRPC takes booleans, numbers and strings")


def repository_model(message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """The model that is to be loaded or unloaded: where Triton's clients name it, or where KServe's do."""
    return message.model_name or message.repository_name


class _Unregistered:
    """A gRPC server that is not told the names of methods beforehand, and does not read tensors.

    With every call, Python's waits anew for one to each name: 2 µs a method. The calls of `UNREAD` are given their
    message's bytes: whoever computes reads them, and once.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Nothing: generated code names the same ones again, for the method below."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add them as generic ones."""
        bare = {"request_deserializer": None, "response_serializer": methodcaller("SerializeToString")}
        given = {name: one._replace(**bare) if name in UNREAD else one for name, one in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, given),))


def add_services_to_server(servicer: object, server: Any) -> None:
    """Add Open Inference, gRPC's health, and the reflection by which `grpcurl` knows calls and messages.

    What gRPC's own reflection looks in, and so Ray Serve's, is the pool that all libraries share, where this
    service is not; so its `enable_reflection` is to be off, or it answers in this one's place. Ray Serve hands every
    call to a replica but those of a service that it is told to pass over.
    """
    from grpc_health.v1 import health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    from deployments.protocols import open_inference_pb2_grpc

    unregistered: Any = _Unregistered(server)
    add: Any = open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server  # generated, without types
    add(servicer, unregistered)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, unregistered)
    if hasattr(server, "add_passthrough_service"):
        server.add_passthrough_service(reflection.SERVICE_NAME)
    reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server, pool=pb.POOL)


def frame(message: Message) -> bytes:
    """A message in a stream of several: its length in 4 bytes, then itself."""
    written: bytes = message.SerializeToString()
    return _LENGTH.pack(len(written)) + written


async def split_frames(first: bytes, rest: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """The messages of a stream of `frame`s, whatever pieces it comes in."""
    held = bytearray(first)
    while True:
        while len(held) >= _LENGTH.size and len(held) >= (end := _LENGTH.size + _LENGTH.unpack_from(held)[0]):
            yield bytes(held[_LENGTH.size : end])
            del held[:end]
        piece = await anext(rest, None)
        if piece is None:
            return
        held += piece
