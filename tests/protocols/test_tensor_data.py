"""Tensors to and from JSON values and raw bytes."""

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import BadRequest
from deployments.protocols.tensor_data import read_raw, read_values, write_raw, write_values
from deployments.specs import Datatype, object_array
from deployments.tensors import DATATYPES, Tensor
from tests.made_tensors import WITHOUT_HALVES, same, tensors


def values(datatype: str, shape: list[Any], data: Any, **parameters: Any) -> Any:
    return read_values("x", datatype, shape, data, parameters).array


def raw(datatype: str, shape: list[Any], data: bytes) -> Any:
    return read_raw("x", datatype, shape, data).array


def through_json(tensor: Tensor) -> Tensor:
    written, how = write_values(tensor)
    data = orjson.loads(orjson.dumps(written, option=orjson.OPT_SERIALIZE_NUMPY))
    return read_values(tensor.name, tensor.datatype, list(tensor.array.shape), data, how)


@given(tensors(WITHOUT_HALVES))
def test_values_come_back_from_json(tensor: Tensor) -> None:
    assert same(through_json(tensor), tensor)


@given(tensors(WITHOUT_HALVES, text=True))
def test_nested_lists_are_the_same_as_flat_ones(tensor: Tensor) -> None:
    nested = tensor.array
    if tensor.datatype == "BYTES":
        nested = object_array([one.decode() for one in tensor.array.flat]).reshape(tensor.array.shape)
    data = nested.tolist() if nested.ndim else [nested.item()]
    assert same(read_values(tensor.name, tensor.datatype, list(tensor.array.shape), data), tensor)


@given(tensors())
def test_bytes_come_back_from_bytes(tensor: Tensor) -> None:
    written = write_raw(tensor)
    assert same(read_raw(tensor.name, tensor.datatype, list(tensor.array.shape), written), tensor)
    assert same(read_raw(tensor.name, tensor.datatype, tensor.array.shape, memoryview(b"-" + written)[1:]), tensor)


@given(tensors())
def test_what_does_not_lie_in_order_is_written_in_order(tensor: Tensor) -> None:
    turned = Tensor(tensor.name, tensor.datatype, tensor.array.T)
    assert bytes(write_raw(turned)) == bytes(write_raw(Tensor("", tensor.datatype, tensor.array.T.copy())))


def test_raw_numbers_are_seen_where_they_lie() -> None:
    body = np.arange(6, dtype="<f4").tobytes()
    array = raw("FP32", [2, 3], body)
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert np.shares_memory(np.frombuffer(write_raw(Tensor.of("x", array)), np.uint8), array)


def test_bf16_is_the_upper_half_of_fp32() -> None:
    array = raw("BF16", [2], b"\x80\x3f\x00\xc0")
    assert array.dtype == ml_dtypes.bfloat16
    assert array.astype(np.float32).tolist() == [1.0, -2.0]


def test_bytes_have_their_length_before_them() -> None:
    written = write_raw(Tensor.of("x", [b"ab", b"", b"\0"]))
    assert written == b"\2\0\0\0ab\0\0\0\0\1\0\0\0\0"
    assert raw("BYTES", [3, 1], bytes(written)).tolist() == [[b"ab"], [b""], [b"\0"]]


def test_bytes_that_are_not_utf8_are_base64_in_json_and_say_so() -> None:
    tensor = Tensor.of("x", [b"\xff\xfe", b"a"])
    assert write_values(tensor) == (["//4=", "YQ=="], {"content_type": "base64"})
    assert same(through_json(tensor), tensor)


def test_text_is_base64_where_that_is_asked_for() -> None:
    tensor = Tensor.of("x", ["a"])
    assert write_values(tensor) == (["a"], {})
    assert write_values(tensor, encoded=True) == (["YQ=="], {"content_type": "base64"})


def test_null_is_nan_both_ways_and_so_is_what_was_infinite() -> None:
    assert np.isnan(values("FP32", [2], [None, 1.5])).tolist() == [True, False]
    written, _ = write_values(Tensor.of("x", [np.nan, np.inf, 1.5]))
    assert orjson.dumps(written, option=orjson.OPT_SERIALIZE_NUMPY) == b"[null,null,1.5]"


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("FP32", [1, 2.5, True], [1.0, 2.5, 1.0]),
        ("INT8", [1.0, True, -128], [1, 1, -128]),
        ("UINT64", [(1 << 64) - 1, 0], [(1 << 64) - 1, 0]),
        ("INT64", [(1 << 62) + 1, 2.0], [(1 << 62) + 1, 2]),
        ("BOOL", [True, 0, 1, 1.0], [True, False, True, True]),
        ("FP64", [(1 << 64) - 1], [float(1 << 64)]),
        ("BYTES", ["ä", ""], ["ä".encode(), b""]),
    ],
)
def test_numbers_are_taken_for_any_datatype_that_can_hold_them(datatype: str, data: Any, expected: Any) -> None:
    assert values(datatype, [len(data)], data).tolist() == expected


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", [1], ["1"], "numbers; found a string"),
        ("FP32", [1], [{}], "an object"),
        ("FP32", [2], [1, [2]], "a list"),
        ("FP32", [1], [1e300], "1e\\+300"),
        ("INT32", [1], [3.5], "fraction"),
        ("INT32", [1], [float("nan")], "fraction"),
        ("INT32", [1], [None], "null"),
        ("INT32", [1], [1 << 31], str(1 << 31)),
        ("INT64", [1], [1 << 63], str(1 << 63)),
        ("INT64", [2], [-1, 1 << 63], "cannot hold"),
        ("UINT64", [1], [1.8446744073709552e19], "cannot hold"),
        ("FP64", [1], [10**400], "cannot hold"),
        ("UINT8", [1], [300], "300"),
        ("UINT8", [1], [-1], "-1"),
        ("BOOL", [1], [2], "2"),
        ("BOOL", [1], ["true"], "a string"),
        ("BYTES", [1], [1], "strings; found a number"),
        ("BYTES", [2], ["a", None], "null"),
        ("BYTES", [1], [["a"]], "nested"),
        ("BYTES", [1], ["\ud800"], "UTF-8"),
        ("FP16", [1], [1.0], "binary"),
        ("BF16", [1], [1.0], "binary"),
        ("FP32", [3], [1, 2], "3 elements; data has 2"),
        ("FP32", [], [1, 2], "1 elements; data has 2"),
        ("FP32", [2], [[1, 2]], "nested"),
        ("FP32", [2, 2], [[1, 2, 3, 4]], "nested"),
        ("FP32", [2, 2], [[1, 2], [3]], "ragged"),
        ("FP32", [2, 2], [[1, 2], 3], "ragged"),
        ("FP32", [0], [[]], "nested"),
        ("FP32", [1], 1.0, "a list"),
        ("FP32", [1], {"0": 1.0}, "a list"),
        ("BYTES", [1], "a", "a list"),
        ("FP32", [10**9], [1.0], "1000000000 elements"),
        ("FP32", [0, 10**9, 10**9], [], "elements"),
        ("FLOAT", [1], [1.0], "datatype"),
        ("FP32", [-1], [1.0], "from 0 up"),
    ],
)
def test_malformed_values_are_refused(datatype: str, shape: list[Any], data: Any, said: str) -> None:
    with pytest.raises(BadRequest, match=f"tensor 'x' .*{said}") as refused:
        values(datatype, shape, data)
    assert refused.value.param == "x"


def test_data_is_not_followed_down_for_ever() -> None:
    data: list[Any] = [1.0]
    for _ in range(900):
        data = [data]
    with pytest.raises(BadRequest, match="64 deep"):
        values("FP32", [1], data)


@pytest.mark.parametrize("data", ["_", "a", "YQ", "YQ==\n"])
def test_what_is_no_base64_is_refused(data: str) -> None:
    with pytest.raises(BadRequest, match="base64"):
        values("BYTES", [1], [data], content_type="base64")


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", [2], bytes(7), "8 bytes; its binary data has 7"),
        ("FP32", [2], bytes(9), "8 bytes; its binary data has 9"),
        ("FP32", [], b"", "4 bytes"),
        ("FP16", [2], bytes(8), "4 bytes"),
        ("INT64", [10**9], bytes(8), "8000000000 bytes"),
        ("BOOL", [2], b"\0\2", "0 or 1"),
        ("BYTES", [10**9], bytes(8), "begin with 4 bytes"),
        ("BYTES", [1], b"\1\0\0", "begin with 4 bytes"),
        ("BYTES", [1], b"\2\0\0\0a", "ends within its BYTES element 0"),
        ("BYTES", [1], b"\xff\xff\xff\xffa", "ends within"),
        ("BYTES", [2], b"\4\0\0\0abcd", "ends within its BYTES element 1"),
        ("BYTES", [2], b"\3\0\0\0abcd", "ends within its BYTES element 1"),
        ("BYTES", [1], b"\1\0\0\0ab", "end at byte 5"),
        ("BYTES", [0], b"\0", "end at byte 0"),
        ("INT8", "1", b"\0", "shape"),
        ("int7", [1], b"\0", "datatype"),
    ],
)
def test_malformed_bytes_are_refused(datatype: str, shape: Any, data: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=f"tensor 'x' .*{said}") as refused:
        raw(datatype, shape, data)
    assert refused.value.param == "x"


@pytest.mark.parametrize("datatype", DATATYPES)
def test_no_shape_makes_room_for_what_has_not_come(datatype: Datatype) -> None:
    tracemalloc.start()
    for shape in ([10**9], [1 << 40], [10**9, 10**9], [1000] * 3, [0, 10**14]):
        with pytest.raises(BadRequest):
            raw(datatype, shape, bytes(13))
        with pytest.raises(BadRequest):
            values(datatype, shape, [1.0] * 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@given(st.sampled_from(DATATYPES), st.lists(st.integers(0, 9), max_size=3), st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(datatype: Datatype, shape: list[int], data: bytes) -> None:
    try:
        array = raw(datatype, shape, data)
    except BadRequest:
        return
    assert bytes(write_raw(Tensor("x", datatype, array))) == data


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)


@given(st.sampled_from(DATATYPES), st.lists(st.integers(0, 3), max_size=3), JSON)
def test_any_json_is_read_or_refused(datatype: Datatype, shape: list[int], data: Any) -> None:
    try:
        array = values(datatype, shape, data)
    except BadRequest:
        return
    assert array.shape == tuple(shape)
