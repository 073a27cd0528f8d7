"""V2's REST bodies as they should not be: every one is read or refused, and none fills the memory."""

import tracemalloc
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import BadRequest
from deployments.protocols.open_inference import InferResponse, read_header_length, read_json, write_json
from deployments.tensors import DATATYPES, Tensor
from tests.made_tensors import tensors
from tests.protocols.test_open_inference import ONE, body_of, input_of, sent


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Unrecognized request format"),
        (b"{", "Unrecognized request format"),
        (b"\xff", "Unrecognized request format"),
        (b'{"inputs": [NaN]}', "Unrecognized request format"),
        (b"[" * 5000, "Unrecognized request format"),
        (b"[]", "not a JSON object"),
        (b"{}", "no inputs"),
        (b'{"inputs": []}', "no inputs"),
        (b'{"inputs": {}}', "inputs is not a list of objects"),
        (b'{"inputs": [1]}', "inputs is not a list of objects"),
        (body_of(input_of(name=...)), "inputs has one with the name None"),
        (body_of(input_of(name=1)), "a name is a string"),
        (body_of(input_of(), input_of()), "inputs has 'x' 2 times"),
        (body_of(input_of(shape=...)), "tensor 'x' has the shape None"),
        (body_of(input_of(datatype=...)), "tensor 'x' has the unknown datatype None"),
        (body_of(input_of(data=...)), "tensor 'x' has neither data nor parameter binary_data_size"),
        (body_of(input_of(data=None)), "neither"),
        (body_of(input_of(parameters={"binary_data_size": 1})), "both data and parameter binary_data_size"),
        (body_of(input_of(parameters=[])), "parameters is"),
        (body_of(input_of(data=..., parameters={"shared_memory_region": "r"})), "shared_memory_region"),
        (body_of(input_of(), parameters="p"), "parameters is 'p'"),
        (body_of(input_of(), parameters={"binary_data_output": 1}), "binary_data_output is 1"),
        (body_of(input_of(), id=7), "id is 7"),
        (body_of(input_of(), outputs={}), "outputs is not a list"),
        (body_of(input_of(), outputs=["y"]), "outputs is not a list of objects"),
        (body_of(input_of(), outputs=[{}]), "a name is a string"),
        (body_of(input_of(), outputs=[{"name": "y"}, {"name": "y"}]), "outputs has 'y' 2 times"),
        (body_of(input_of(), outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]), "binary_data is 'yes'"),
        (body_of(input_of(), outputs=[{"name": "y", "parameters": {"classification": 3}}]), "classification"),
    ],
)
def test_malformed_json_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read_json(body)


def binary(**sizes: Any) -> bytes:
    """The header of a request with INT8 inputs of 2 elements each, and these sizes."""
    return body_of(
        *(input_of(name=k, shape=[2], data=..., parameters={"binary_data_size": v}) for k, v in sizes.items())
    )


@pytest.mark.parametrize(
    ("head", "tail", "said"),
    [
        (binary(a=2), b"\1", "size 2, but 1 bytes of binary data are left"),
        (binary(a=2, b=2), b"\1\2\3", "'b' has binary_data_size 2, but 1 bytes"),
        (binary(a=2), b"\1\2\3", "1 bytes of binary data more"),
        (body_of(input_of()), b"\1", "1 bytes of binary data more"),
        (binary(a=1), b"\1", "2 bytes; its binary data has 1"),
        (binary(a=-1), b"\1", "binary_data_size -1"),
        (binary(a=2.0), b"\1\2", "binary_data_size 2.0"),
        (binary(a=True), b"\1\2", "binary_data_size True"),
        (binary(a="2"), b"\1\2", "binary_data_size '2'"),
        (binary(a=10**18), b"\1\2", "binary_data_size 1000000000000000000"),
    ],
)
def test_sizes_that_do_not_add_up_are_refused(head: bytes, tail: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read_json(head + tail, len(head))


def test_a_header_length_that_lies_is_refused() -> None:
    body, length = sent((ONE, True))
    assert length
    for wrong in (-1, 0, 1, length - 1, length + 1, len(body), len(body) + 1, 10**12):
        with pytest.raises(BadRequest):
            read_json(body, wrong)


def test_binary_data_without_its_header_length_is_refused() -> None:
    with pytest.raises(BadRequest, match="Unrecognized"):
        read_json(binary(a=2) + b"\1\2")
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length"):
        read_json(binary(a=2))


@pytest.mark.parametrize(("given_", "length"), [(None, None), ("0", 0), ("123", 123), ("007", 7)])
def test_header_lengths_are_read(given_: str | None, length: int | None) -> None:
    assert read_header_length(given_) == length


@pytest.mark.parametrize("given_", ["", "-1", "+1", "1.0", "x", "1_0", " 1", "٣", "9" * 5000])
def test_what_is_no_header_length_is_refused(given_: str) -> None:
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length"):
        read_header_length(given_)


def test_many_names_are_compared_quickly() -> None:
    inputs = [input_of(name=str(index % 19_999)) for index in range(20_000)]
    with pytest.raises(BadRequest, match="inputs has '0' 2 times"):
        read_json(body_of(*inputs))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**10) | st.floats(-1e9, 1e9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)
PARAMETERS = st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 12) | VALUES, "k": VALUES})
WILD_INPUT = st.fixed_dictionaries(
    {"name": st.sampled_from("abc")},
    optional={"shape": VALUES, "datatype": VALUES, "data": VALUES, "parameters": PARAMETERS | VALUES},
)
WILD = st.fixed_dictionaries(
    {"inputs": st.lists(WILD_INPUT, max_size=3) | VALUES},
    optional={"outputs": st.lists(WILD_INPUT, max_size=2) | VALUES, "id": VALUES, "parameters": PARAMETERS | VALUES},
)
LIKELY_INPUT = {
    "name": st.text(max_size=9),
    "shape": st.lists(st.sampled_from([0, 1, 2, 3, 10**9, 1 << 62]), max_size=3) | st.just([1]),
    "datatype": st.sampled_from(DATATYPES),
}
IN_BINARY = st.fixed_dictionaries({"binary_data_size": st.integers(0, 16) | st.sampled_from([1, 2, 4, 8])})
LIKELY = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries({**LIKELY_INPUT, "parameters": IN_BINARY})
            | st.fixed_dictionaries({**LIKELY_INPUT, "data": st.lists(VALUES, max_size=3)}),
            min_size=1,
            max_size=3,
        )
    }
)


def check_read_or_refused(body: bytes, length: int | None) -> None:
    try:
        request = read_json(body, length)
    except BadRequest:
        return
    assert write_json(InferResponse("m", request.inputs), replace(request, parameters={"binary_data_output": True}))


@settings(max_examples=500)
@given(WILD | LIKELY, st.binary(max_size=16), st.integers(-2, 3))
def test_any_header_and_bytes_are_read_or_refused(head: Any, tail: bytes, lie: int) -> None:
    text = orjson.dumps(head)
    check_read_or_refused(text + tail, len(text) + lie)
    check_read_or_refused(text + tail, len(text))
    check_read_or_refused(text, None)


@settings(max_examples=300)
@given(tensors(), st.data())
def test_a_damaged_request_is_read_or_refused(tensor: Tensor, data: st.DataObject) -> None:
    body, length = sent((tensor, True))
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:at] + data.draw(st.binary(max_size=3)) + body[at + data.draw(st.integers(0, 3)) :]
    check_read_or_refused(damaged, length)


def test_no_request_makes_room_for_what_has_not_come() -> None:
    tracemalloc.start()
    for datatype in DATATYPES:
        for given_ in (
            input_of(datatype=datatype, shape=[10**9], data=..., parameters={"binary_data_size": 4 * 10**9}),
            input_of(datatype=datatype, shape=[10**9], data=..., parameters={"binary_data_size": 0}),
            input_of(datatype=datatype, shape=[10**9]),
        ):
            with pytest.raises(BadRequest):
                read_json(body_of(given_))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
