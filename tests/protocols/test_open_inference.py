"""V2's REST bodies, as tritonclient makes and reads them."""

import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from deployments.errors import BadRequest
from deployments.protocols.open_inference import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    read_json,
    write_json,
)
from deployments.specs import Datatype, object_array
from deployments.tensors import Tensor
from tests.made_tensors import WITHOUT_HALVES, same, tensors

ONE = Tensor.of("x", np.array([1.5], np.float32))
REQUEST = InferRequest("m", [ONE])


def sent(*given: tuple[Tensor, bool], outputs: Any = None, **options: Any) -> tuple[bytes, int | None]:
    """The body and its header's length as tritonclient makes them of tensors, each in binary or not."""
    inputs = []
    for tensor, binary in given:
        one = InferInput(tensor.name, list(tensor.array.shape), tensor.datatype)
        inputs.append(one.set_data_from_numpy(tensor.array, binary_data=binary))
    made: tuple[bytes, int | None] = InferenceServerClient.generate_request_body(inputs, outputs=outputs, **options)
    return made


def received(response: InferResponse, request: InferRequest) -> Any:
    """The answer as tritonclient parses it."""
    headers, body = write_json(response, request)
    length = dict(headers).get(b"inference-header-content-length")
    return InferenceServerClient.parse_response_body(body, header_length=length and length.decode())


def body_of(*inputs: dict[str, Any], **more: Any) -> bytes:
    return orjson.dumps({"inputs": list(inputs), **more}, option=orjson.OPT_SERIALIZE_NUMPY)


def input_of(**changed: Any) -> dict[str, Any]:
    described = {"name": "x", "shape": [1], "datatype": "INT8", "data": [1]} | changed
    return {key: value for key, value in described.items() if value is not ...}


@given(st.lists(st.tuples(tensors(), st.just(True)), min_size=1, max_size=3, unique_by=lambda one: one[0].name))
def test_tritonclients_binary_tensors_are_read(made: list[tuple[Tensor, bool]]) -> None:
    body, length = sent(*made)
    request = read_json(body, length)
    assert all(same(got, tensor) for got, (tensor, _) in zip(request.inputs, made, strict=True))
    assert request.parameters == {"binary_data_output": True}


@given(tensors(WITHOUT_HALVES, text=True).filter(lambda one: one.array.dtype.kind != "f"))
def test_tritonclients_json_tensors_are_read(made: Tensor) -> None:
    body, length = sent((made, False))
    assert length is None
    assert same(read_json(body, length).inputs[0], made)


def test_binary_and_json_tensors_are_read_in_one_request() -> None:
    made = [
        (Tensor.of("a", np.array([1, 2], np.int16)), True),
        (Tensor.of("b", np.array([[0.1]])), False),
        (Tensor.of("c", ["ä", "b"]), True),
    ]
    body, length = sent(*made, request_id="7", priority=3, timeout=5, parameters={"k": "v"})
    request = read_json(np.frombuffer(body, np.uint8), length, model_name="m", model_version="2")
    assert all(same(got, tensor) for got, (tensor, _) in zip(request.inputs, made, strict=True))
    assert (request.model_name, request.model_version, request.id) == ("m", "2", "7")
    assert request.parameters == {"binary_data_output": True, "priority": 3, "timeout": 5, "k": "v"}


def test_binary_tensors_are_seen_in_the_body() -> None:
    body, length = sent((Tensor.of("x", np.arange(1000, dtype=np.float32)), True))
    array = read_json(body, length).inputs[0].array
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert not array.flags.writeable


@given(st.lists(tensors(), max_size=3, unique_by=lambda one: one.name))
def test_tritonclient_reads_binary_outputs(made: list[Tensor]) -> None:
    result = received(InferResponse("m", made), replace(REQUEST, parameters={"binary_data_output": True}))
    for tensor in made:
        array = result.as_numpy(tensor.name)
        assert same(Tensor(tensor.name, tensor.datatype, array.reshape(tensor.array.shape)), tensor)


@given(tensors(WITHOUT_HALVES, text=True))
def test_tritonclient_reads_json_outputs(made: Tensor) -> None:
    array = received(InferResponse("m", [made]), REQUEST).as_numpy(made.name)
    if made.datatype == "BYTES":
        array = object_array([one.encode() for one in array.reshape(-1)]).reshape(array.shape)
    assert same(Tensor(made.name, made.datatype, array), made)


def test_each_output_is_written_as_it_is_asked_for() -> None:
    asked = [InferRequestedOutput("a", binary_data=True), InferRequestedOutput("b", binary_data=False)]
    request = read_json(*sent((ONE, True), outputs=asked))
    assert [one.name for one in request.outputs] == ["a", "b"]
    result = received(InferResponse("m", [replace(ONE, name="a"), replace(ONE, name="b")]), request)
    assert result.get_output("a") == {
        "name": "a",
        "shape": [1],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 4},
    }
    assert result.get_output("b") == {"name": "b", "shape": [1], "datatype": "FP32", "data": [1.5]}


def test_an_outputs_own_wish_comes_before_the_requests() -> None:
    outputs = [RequestedOutput("x", {"binary_data": False})]
    request = replace(REQUEST, outputs=outputs, parameters={"binary_data_output": True})
    assert write_json(InferResponse("m", [ONE]), request)[0] == [(b"content-type", b"application/json")]


def test_the_answer_in_json() -> None:
    _, body = write_json(InferResponse("m", [ONE], "3", "7", {"k": 1}), REQUEST)
    assert orjson.loads(body) == {
        "model_name": "m",
        "model_version": "3",
        "id": "7",
        "parameters": {"k": 1},
        "outputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}],
    }


def test_the_answer_in_binary() -> None:
    headers, body = write_json(InferResponse("m", [ONE]), replace(REQUEST, parameters={"binary_data_output": True}))
    length = int(dict(headers)[b"inference-header-content-length"])
    assert dict(headers)[b"content-type"] == b"application/octet-stream"
    assert body[length:] == ONE.array.tobytes()
    assert "model_version" not in orjson.loads(body[:length])


def test_an_answer_has_the_requests_id_or_a_new_one() -> None:
    assert received(InferResponse("m", [ONE]), replace(REQUEST, id="7")).get_response()["id"] == "7"
    assert uuid.UUID(received(InferResponse("m", [ONE]), REQUEST).get_response()["id"]).version == 4


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_in_json_are_refused_both_ways(datatype: Datatype) -> None:
    with pytest.raises(BadRequest, match=f"'x' is {datatype}.*binary"):
        read_json(body_of(input_of(datatype=datatype)))
    halves = Tensor("x", datatype, np.zeros(1, np.float16))
    with pytest.raises(BadRequest, match=f"'x' is {datatype}.*binary"):
        write_json(InferResponse("m", [halves]), REQUEST)


def test_audio_travels_in_json_as_base64_that_says_so() -> None:
    sound = input_of(datatype="BYTES", data=["/wA="], parameters={"content_type": "base64"})
    (tensor,) = read_json(body_of(sound)).inputs
    assert tensor.array.tolist() == [b"\xff\0"]
    assert orjson.loads(write_json(InferResponse("m", [tensor]), REQUEST)[1])["outputs"][0] == sound


def test_text_is_base64_where_an_output_is_asked_to_be() -> None:
    request = replace(REQUEST, outputs=[RequestedOutput("x", {"content_type": "base64"})])
    output = received(InferResponse("m", [Tensor.of("x", ["a"])]), request).get_output("x")
    assert (output["data"], output["parameters"]) == (["YQ=="], {"content_type": "base64"})


def test_null_is_as_good_as_nothing() -> None:
    request = read_json(body_of(input_of(parameters=None), id=None, parameters=None, outputs=None, more=1))
    assert (request.id, request.parameters, list(request.outputs)) == ("", {}, [])
