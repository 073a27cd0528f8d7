"""V2's messages of gRPC, as tritonclient and KServe's clients make and read them."""

import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult, service_pb2
from tritonclient.grpc._utils import _get_inference_request

from deployments.errors import BadRequest, EngineError
from deployments.protocols import open_inference_pb2 as pb
from deployments.protocols.open_inference import InferRequest, InferResponse
from deployments.protocols.open_inference_grpc import read_proto, repository_model, write_proto
from deployments.tensors import DATATYPES, Tensor
from tests.made_tensors import WITHOUT_HALVES, same, tensors

ONE = Tensor.of("x", np.array([1.5], np.float32))
RAW = InferRequest("m", [ONE], raw=True)
TYPED = InferRequest("m", [ONE])
DISTINCT: Any = {"min_size": 1, "max_size": 3, "unique_by": lambda tensor: tensor.name}


def sent(made: list[Tensor], **options: Any) -> pb.ModelInferRequest:
    """The message of these tensors as tritonclient sends it, in ours."""
    inputs = [InferInput(one.name, list(one.array.shape), one.datatype).set_data_from_numpy(one.array) for one in made]
    rest = {"model_version": "", "request_id": "", "outputs": None, "sequence_id": 0, "sequence_start": False}
    rest |= {"sequence_end": False, "priority": 0, "timeout": None, "parameters": None}
    message = _get_inference_request(model_name="m", inputs=inputs, **rest | options)
    return parsed(message.SerializeToString())


def parsed(body: bytes) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest()
    message.ParseFromString(body)
    return message


def typed(response: pb.ModelInferResponse) -> pb.ModelInferRequest:
    """A request with the tensors of a response."""
    message = pb.ModelInferRequest(model_name="m")
    for output in response.outputs:
        message.inputs.add().ParseFromString(output.SerializeToString())
    return message


def request_of(**changed: Any) -> pb.ModelInferRequest:
    described: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "INT8"}
    described |= {"contents": pb.InferTensorContents(int_contents=[1, 2])} | changed
    return pb.ModelInferRequest(inputs=[described])


@given(st.lists(tensors(), **DISTINCT))
def test_tritonclients_tensors_are_read(made: list[Tensor]) -> None:
    request = read_proto(sent(made))
    assert request.raw
    assert all(same(got, tensor) for got, tensor in zip(request.inputs, made, strict=True))


@given(st.lists(tensors(), **DISTINCT))
def test_tritonclient_reads_the_answer_to_its_request(made: list[Tensor]) -> None:
    message = write_proto(InferResponse("m", made), RAW)
    result = InferResult(service_pb2.ModelInferResponse.FromString(message.SerializeToString()))
    for tensor in made:
        assert same(Tensor(tensor.name, tensor.datatype, result.as_numpy(tensor.name)), tensor)


@given(st.lists(tensors(WITHOUT_HALVES), **DISTINCT))
def test_typed_contents_are_answered_with_typed_contents(made: list[Tensor]) -> None:
    message = write_proto(InferResponse("m", made), TYPED)
    assert not message.raw_output_contents
    request = read_proto(typed(message))
    assert not request.raw
    assert all(same(got, tensor) for got, tensor in zip(request.inputs, made, strict=True))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_are_answered_raw_and_all_outputs_with_them(datatype: Any) -> None:
    half = Tensor("h", datatype, np.zeros(1, np.float16))
    message = write_proto(InferResponse("m", [ONE, half]), TYPED)
    assert [len(raw) for raw in message.raw_output_contents] == [4, 2]
    assert not any(output.HasField("contents") for output in message.outputs)


def test_raw_tensors_are_seen_in_the_bytes_that_protobuf_gives() -> None:
    seen: Any = read_proto(sent([Tensor.of("x", np.arange(6, dtype=np.float32).reshape(2, 3))])).inputs[0].array
    while isinstance(seen, np.ndarray):
        assert not seen.flags.owndata
        seen = seen.base
    assert bytes(seen) == np.arange(6, dtype="<f4").tobytes()


def test_all_that_a_request_says_is_read() -> None:
    given_ = {"s": "a", "b": True, "i": -3, "f": 0.5}
    outputs = [InferRequestedOutput("y")]
    message = sent([ONE], model_version="2", request_id="7", outputs=outputs, priority=1 << 63, parameters=given_)
    message.inputs[0].parameters["k"].string_param = "v"
    message.outputs[0].parameters["binary_data"].bool_param = True
    request = read_proto(message)
    assert (request.model_name, request.model_version, request.id) == ("m", "2", "7")
    assert request.parameters == {**given_, "priority": 1 << 63}
    assert request.inputs[0].parameters == {"k": "v"}
    assert [(one.name, one.parameters) for one in request.outputs] == [("y", {"binary_data": True})]


def test_all_that_a_response_says_is_written() -> None:
    parameters = {"s": "a", "b": True, "i": -3, "u": 1 << 63, "f": 0.5}
    output = replace(ONE, parameters={"k": 1})
    message = write_proto(InferResponse("m", [output], "2", "7", parameters), TYPED)
    assert (message.model_name, message.model_version, message.id) == ("m", "2", "7")
    assert read_proto(typed(message)).inputs[0].parameters == {"k": 1}
    message = pb.ModelInferRequest(parameters=message.parameters, inputs=[request_of().inputs[0]])
    assert read_proto(message).parameters == parameters


@pytest.mark.parametrize("value", [None, [1], {}, 1 << 64, -(1 << 64)])
def test_what_grpc_has_no_parameter_for_is_the_models_fault(value: object) -> None:
    with pytest.raises(EngineError, match="parameter k"):
        write_proto(InferResponse("m", [ONE], parameters={"k": value}), TYPED)


def test_an_answer_has_the_requests_id_or_a_new_one() -> None:
    assert write_proto(InferResponse("m", [ONE]), replace(RAW, id="7")).id == "7"
    assert uuid.UUID(write_proto(InferResponse("m", [ONE]), RAW).id).version == 4


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (pb.ModelInferRequest(model_name="m"), "no inputs"),
        (pb.ModelInferRequest(raw_input_contents=[b"a"]), "1 entries for 0 inputs"),
        (request_of(contents=None), "2 elements; data has 0"),
        (request_of(shape=[3]), "3 elements; data has 2"),
        (request_of(shape=[-2]), "from 0 up"),
        (request_of(shape=[1 << 62, 1 << 62]), "elements"),
        (request_of(shape=[10**9]), "1000000000 elements; data has 2"),
        (request_of(datatype="int7"), "unknown datatype"),
        (request_of(datatype="UINT8"), "in uint_contents; found int_contents"),
        (request_of(datatype="FP16"), "raw_input_contents"),
        (request_of(datatype="BF16"), "raw_input_contents"),
        (request_of(contents={"int_contents": [1, 300]}), "300, which INT8 cannot hold"),
        (request_of(contents={"int_contents": [1, 2], "fp32_contents": [1]}), "found fp32_contents"),
        (request_of(parameters={"k": pb.InferParameter()}), "parameter k has no value"),
        (request_of(parameters={"shared_memory_region": {"string_param": "r"}}), "shared_memory_region"),
        (pb.ModelInferRequest(inputs=request_of().inputs, raw_input_contents=[b"ab"]), "beside raw_input_contents"),
        (pb.ModelInferRequest(inputs=request_of().inputs, raw_input_contents=[b"", b""]), "2 entries for 1 inputs"),
        (pb.ModelInferRequest(inputs=[*request_of().inputs] * 2), "inputs has 'x' 2 times"),
        (pb.ModelInferRequest(inputs=request_of().inputs, outputs=[{"name": "y"}] * 2), "outputs has 'y' 2 times"),
    ],
)
def test_malformed_messages_are_refused(message: pb.ModelInferRequest, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read_proto(message)


CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=2),
        "int_contents": st.lists(st.integers(-300, 300), max_size=2),
        "uint64_contents": st.lists(st.integers(0, (1 << 64) - 1), max_size=2),
        "fp32_contents": st.lists(st.floats(width=32), max_size=2),
        "bytes_contents": st.lists(st.binary(max_size=2), max_size=2),
    },
)
INPUT = st.fixed_dictionaries(
    {
        "name": st.text(max_size=2),
        "datatype": st.sampled_from([*DATATYPES, "", "X"]),
        "shape": st.lists(st.sampled_from([-1, 0, 1, 2, 10**9, 1 << 62]), max_size=2),
    },
    optional={"contents": CONTENTS},
)
MESSAGE = st.fixed_dictionaries(
    {"inputs": st.lists(INPUT, max_size=2)},
    optional={"raw_input_contents": st.lists(st.binary(max_size=8), max_size=2)},
)


def check_read_or_refused(message: pb.ModelInferRequest) -> None:
    try:
        request = read_proto(message)
    except BadRequest:
        return
    assert len(write_proto(InferResponse("m", request.inputs), request).outputs) == len(message.inputs)


@settings(max_examples=300)
@given(MESSAGE)
def test_any_message_is_read_or_refused(fields: Any) -> None:
    check_read_or_refused(pb.ModelInferRequest(**fields))


@given(tensors(), st.data())
def test_a_damaged_message_is_read_or_refused(tensor: Tensor, data: st.DataObject) -> None:
    body = sent([tensor]).SerializeToString()
    at = data.draw(st.integers(0, len(body) - 1))
    try:
        message = parsed(body[:at] + data.draw(st.binary(max_size=2)) + body[at + 1 :])
    except DecodeError:
        return
    check_read_or_refused(message)


def test_a_model_is_loaded_by_its_name_in_tritons_place_or_kserves() -> None:
    tritons = service_pb2.RepositoryModelLoadRequest(model_name="m").SerializeToString()
    kserves = b"\x0a\x01m"  # field 1, where Triton has repository_name
    for message in (tritons, kserves):
        assert repository_model(pb.RepositoryModelLoadRequest.FromString(message)) == "m"
        assert repository_model(pb.RepositoryModelUnloadRequest.FromString(message)) == "m"
