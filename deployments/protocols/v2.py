"""The Open Inference Protocol (V2), for every task: named tensors in, named tensors out, as JSON, binary or protobuf.

A thin layer between a request's bytes (`open_inference`, `open_inference_grpc`) and a task's work
(`predictions`). The gateway's gRPC methods ask here too, with the message as the body.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from google.protobuf.message import DecodeError
from pydantic import BaseModel
from starlette.responses import Response

from deployments.errors import BadRequest, ServeAppError
from deployments.protocols import open_inference_pb2 as pb
from deployments.protocols.app import (
    Configured,
    HeldStream,
    Served,
    check_name,
    header_of,
    off_loop,
    plain_body,
    post,
    preceded,
)
from deployments.protocols.compression import compress
from deployments.protocols.described import json_body
from deployments.protocols.open_inference import (
    InferRequest,
    InferResponse,
    read_header_length,
    read_json,
    write_json,
)
from deployments.protocols.open_inference_grpc import frame, read_proto, write_proto
from deployments.protocols.predictions import Asked, Prediction, Specs
from deployments.specs import Array, Datatype, TensorSpec
from deployments.tensors import Tensor, fit, show

MODEL = "/v2/models/{model:path}"
PROTOBUF = "application/x-protobuf"
"""The content type of gRPC's messages, carried as bodies."""


class TensorBody(BaseModel):
    """An input in JSON; a binary one has parameter `binary_data_size` in the place of `data`."""

    name: str
    shape: list[int]
    datatype: Datatype
    data: list[Any] = []
    parameters: dict[str, Any] = {}


class OutputBody(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferBody(BaseModel):
    """V2's body, for the documentation."""

    id: str = ""
    parameters: dict[str, Any] = {}
    inputs: list[TensorBody]
    outputs: list[OutputBody] = []


def router(prediction: Prediction[Any, Any], served: Served | None) -> APIRouter:
    """The routes; `served` is None for documentation only."""
    api = APIRouter(tags=["model"])
    body = json_body(InferBody)

    @post(api, f"{MODEL}/infer", served, openapi_extra=body, summary="Open Inference: tensors in, tensors out")
    @post(api, f"{MODEL}/versions/{{version}}/infer", served, openapi_extra=body, summary="Open Inference, a version")
    async def infer(request: Request) -> Response:
        named = request.path_params
        model, version = named["model"], named.get("version", "")
        found = check_name(served, model, version)
        with found.times.request() as marks:
            given = await read_request(request, found, model, version)
            async with found.engine(request) as engine:
                asked, items = prepare(found, engine, prediction, given)
                marks.predicting()
                results = await prediction.work(asked, engine, items)
            marks.writing()
            made = answer(asked, prediction.tensors(results))
            binary = given.parameters.get("binary_data_output")
            size = 0 if binary else sum(tensor.array.nbytes for tensor in made.outputs)
            return await off_loop(size, lambda: write_response(request, made, given))

    @post(api, f"{MODEL}/infer_stream", served, include_in_schema=False)
    @post(api, f"{MODEL}/versions/{{version}}/infer_stream", served, include_in_schema=False)
    async def infer_stream(request: Request) -> Response:
        """For the gateway's `ModelStreamInfer`: the answers to one request, as frames."""
        model, version = request.path_params["model"], request.path_params.get("version", "")
        found = check_name(served, model, version)
        given = _read_message(await request.body())
        async with contextlib.AsyncExitStack() as held:
            held.enter_context(found.times.request()).predicting()
            engine = await held.enter_async_context(found.engine(request))
            asked, items = prepare(found, engine, prediction, given)
            pieces = prediction.stream(asked, engine, items)
            await held.enter_async_context(contextlib.aclosing(pieces))
            begun = preceded(await anext(pieces), pieces)
            return HeldStream(held.pop_all(), frames(asked, begun, given), PROTOBUF)
        raise AssertionError  # the block above returns or raises

    return api


async def frames(asked: Asked, pieces: AsyncIterator[dict[str, Array]], given: InferRequest) -> AsyncIterator[bytes]:
    """A stream's answers; an error in the middle is the last of them.

    With Triton's `triton_enable_empty_final_response` an empty one follows, and each says whether it is the last.
    """
    final = bool(given.parameters.get("triton_enable_empty_final_response"))
    try:
        async for piece in pieces:
            yield frame(_streamed(answer(asked, piece, {"triton_final_response": False} if final else {}), given))
        if final:
            yield frame(_streamed(answer(asked, {}, {"triton_final_response": True}), given))
    except ServeAppError as error:
        ended = pb.ModelInferResponse(id=given.id)
        yield frame(pb.ModelStreamInferResponse(error_message=error.message, infer_response=ended))


def _streamed(response: InferResponse, given: InferRequest) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse(infer_response=write_proto(response, given))


async def read_request(request: Request, served: Configured, model: str, version: str) -> InferRequest:
    """The request in whichever form it came. Raises `BadRequest`."""
    body = await plain_body(request, served)
    if header_of(request, b"content-type") == PROTOBUF:
        return await off_loop(len(body), lambda: _read_message(body))
    length = read_header_length(header_of(request, b"inference-header-content-length"))

    def read() -> InferRequest:
        return read_json(body, length, model_name=model, model_version=version)

    return await off_loop(len(body) if length is None else length, read)


def _read_message(body: bytes) -> InferRequest:
    try:
        return read_proto(pb.ModelInferRequest.FromString(body))
    except DecodeError as error:
        raise BadRequest(f"Unrecognized request format: the body is no ModelInferRequest: {error}") from None


def write_response(request: Request, answer: InferResponse, asked: InferRequest) -> Response:
    """The answer in the form in which its request came."""
    if header_of(request, b"content-type") == PROTOBUF:
        return Response(write_proto(answer, asked).SerializeToString(), media_type=PROTOBUF)
    headers, body = write_json(answer, asked)
    more, body = compress(body, header_of(request, b"accept-encoding"))
    response = Response(body)
    response.raw_headers = [*headers, *more, (b"content-length", str(len(body)).encode())]
    return response


def prepare(
    served: Served, engine: Any, prediction: Prediction[Any, Any], given: InferRequest
) -> tuple[Asked, list[Any]]:
    """What a loaded engine is to work on. Raises `BadRequest` naming the tensor that is wrong."""
    specs = prediction.specs(engine)
    tensors = fit_all(given.inputs, specs)
    wanted = tuple([one.name for one in given.outputs])
    have = [one.name for one in specs.outputs] if wanted else []
    for name in wanted:
        if have and name not in have:
            raise BadRequest(f"unknown output {show(name)}; the model has {', '.join(have)}", param=name)
    asked = Asked(served, given.model_name, specs, given.parameters, given.inputs[0].name, wanted)
    return asked, prediction.of_tensors(asked, tensors)


def answer(asked: Asked, found: Mapping[str, Array], parameters: Mapping[str, Any] | None = None) -> InferResponse:
    """The outputs that were asked for, or all there are."""
    wanted = asked.outputs if found and asked.outputs else found
    for name in wanted:
        if name not in found:
            raise BadRequest(f"unknown output {show(name)}; the model gives {', '.join(found)}", param=name)
    outputs = [Tensor.of(name, found[name]) for name in wanted]
    return InferResponse(asked.model, outputs, asked.served.settings.version, parameters=parameters or {})


def fit_all(inputs: Sequence[Tensor], specs: Specs) -> dict[str, Array]:
    """The inputs by their names, each as it is declared. Raises `BadRequest`."""
    declared = specs.inputs_of([tensor.name for tensor in inputs])
    if not declared:
        return {tensor.name: tensor.array for tensor in inputs}
    return {declared[tensor.name].name: _fit(tensor, declared[tensor.name]) for tensor in inputs}


def _fit(tensor: Tensor, spec: TensorSpec) -> Array:
    """The array as declared; `[n, 1]` will do for `[n]`, as clients of Triton's batches send it."""
    if len(spec.shape) == 1 and tensor.array.ndim == 2 and tensor.array.shape[1] == 1:
        tensor = Tensor(tensor.name, tensor.datatype, tensor.array.reshape(-1), tensor.parameters)
    return fit(tensor, spec)
