"""Tensors, and how they fit what a model declares."""

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.errors import BadRequest, EngineError
from deployments.specs import Datatype, TensorSpec
from deployments.tensors import DATATYPES, DTYPES, Tensor, fit, read_datatype, read_shape
from tests.made_tensors import same, tensors

BF16 = ml_dtypes.bfloat16


def spec(datatype: Datatype, *shape: int) -> TensorSpec:
    return TensorSpec(name="declared", datatype=datatype, shape=shape)


def fitted(values: Any, dtype: Any, datatype: Datatype) -> Any:
    return fit(Tensor.of("x", np.array(values, dtype)), spec(datatype, -1))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_has_a_dtype_and_back(datatype: Datatype) -> None:
    made = Tensor.of("x", np.zeros((2, 3), DTYPES[datatype]) if datatype != "BYTES" else np.full((2, 3), b"a", object))
    assert (made.datatype, made.array.dtype, made.array.shape) == (datatype, DTYPES[datatype], (2, 3))


@pytest.mark.parametrize(
    "array", [np.array(["ä", "b\0"]), np.array(["ä", "b\0"], object), np.array(["ä".encode(), b"b\0"], object)]
)
def test_an_engines_text_is_bytes(array: Any) -> None:
    made = Tensor.of("x", array)
    assert made.datatype == "BYTES"
    assert made.array[0] == "ä".encode()


@pytest.mark.parametrize("text", [b"a\0", "a\0"])
def test_an_engines_list_of_text_keeps_its_zeros(text: Any) -> None:
    assert Tensor.of("x", [[text]]).array.tolist() == [[b"a\0"]]


def test_an_engines_other_byte_order_is_turned() -> None:
    made = Tensor.of("x", np.array([1, 2], ">i4"))
    assert (made.datatype, made.array.dtype, made.array.tolist()) == ("INT32", np.dtype("<i4"), [1, 2])


@pytest.mark.parametrize("array", [np.zeros(1, np.complex64), np.zeros(1, "datetime64[s]"), np.array([None], object)])
def test_an_engines_dtype_without_a_datatype_is_its_own_fault(array: Any) -> None:
    with pytest.raises(EngineError, match="'x'"):
        Tensor.of("x", array)


@pytest.mark.parametrize(("given_", "datatype"), [("FP32", "FP32"), ("fp32", "FP32"), ("Bytes", "BYTES")])
def test_datatypes_are_read_in_any_case(given_: str, datatype: str) -> None:
    assert read_datatype("x", given_) == datatype


@pytest.mark.parametrize("given_", ["FLOAT", "", None, 32, ["FP32"], {}, "FP32 ", "x" * 10**6])
def test_unknown_datatypes_are_refused_with_those_there_are(given_: object) -> None:
    with pytest.raises(BadRequest, match=r"tensor 'x' .*BF16, FP32") as refused:
        read_datatype("x", given_)
    assert len(refused.value.message) < 500


@pytest.mark.parametrize("given_", [[], [1], [0, 5], [2, 3, 4], [1] * 64, (2, 2), [1 << 48]])
def test_shapes_are_read(given_: list[int]) -> None:
    assert read_shape("x", given_) == tuple(given_)


@pytest.mark.parametrize(
    "given_",
    [
        None,
        5,
        "3",
        {"0": 1},
        [-1],
        [2, -3],
        [1.0],
        [True],
        ["1"],
        [None],
        [[1]],
        [1] * 65,
        [1 << 49],
        [1 << 63],
        [10**9, 10**9],
        [0, 10**18, 10**18],
        [1 << 70],
        [10**18] * 64,
    ],
)
def test_what_is_no_shape_is_refused(given_: object) -> None:
    with pytest.raises(BadRequest, match="tensor 'x' "):
        read_shape("x", given_)


@given(st.lists(st.integers(0), max_size=70))
def test_every_shape_that_is_read_is_one_numpy_can_have(lengths: list[int]) -> None:
    try:
        shape = read_shape("x", lengths)
    except BadRequest:
        return
    np.broadcast_to(np.float64(0), shape)  # of no memory, whatever the shape


@given(tensors())
def test_what_is_as_declared_is_left_as_it_is(tensor: Tensor) -> None:
    array = fit(tensor, spec(tensor.datatype, *tensor.array.shape))
    assert array is tensor.array


@pytest.mark.parametrize(
    ("values", "dtype", "datatype", "expected"),
    [
        ([1.5, 2.0], np.float32, "FP64", [1.5, 2.0]),
        ([0.1], np.float64, "FP32", [np.float32(0.1)]),
        ([0.1], np.float64, "BF16", [BF16(0.1)]),
        ([np.nan, np.inf], np.float64, "FP32", [np.nan, np.inf]),
        ([1, 2, 3], np.int64, "INT32", [1, 2, 3]),
        ([1, 2], np.int64, "FP32", [1.0, 2.0]),
        ([(1 << 64) - 1], np.uint64, "FP64", [float(1 << 64)]),
        ([1.0, -2.0], np.float64, "INT8", [1, -2]),
        ([1.0, 3.0], BF16, "INT64", [1, 3]),
        ([-(1 << 63)], np.float64, "INT64", [-(1 << 63)]),
        ([True, False], np.bool_, "INT8", [1, 0]),
        ([True, False], np.bool_, "FP32", [1.0, 0.0]),
        ([0, 1], np.int64, "BOOL", [False, True]),
        ([0.0, 1.0], np.float32, "BOOL", [False, True]),
        ([255], np.int64, "UINT8", [255]),
        ([(1 << 63) - 1], np.uint64, "INT64", [(1 << 63) - 1]),
        ([], np.float64, "INT8", []),
    ],
)
def test_what_loses_nothing_is_converted(
    values: list[Any], dtype: Any, datatype: Datatype, expected: list[Any]
) -> None:
    array = fitted(values, dtype, datatype)
    assert array.dtype == DTYPES[datatype]
    np.testing.assert_array_equal(array, np.array(expected, DTYPES[datatype]))


@pytest.mark.parametrize(
    ("values", "dtype", "datatype", "said"),
    [
        ([1.0, 2.5], np.float64, "INT32", "2.5"),
        ([np.nan], np.float32, "INT64", "nan"),
        ([-np.inf], np.float32, "INT64", "-inf"),
        ([float(1 << 63)], np.float64, "INT64", "e\\+18"),
        ([float(1 << 64)], np.float64, "UINT64", "e\\+19"),
        ([-1.0], np.float64, "UINT64", "-1.0"),
        ([1 << 40], np.int64, "INT32", str(1 << 40)),
        ([-1], np.int64, "UINT64", "-1"),
        ([1 << 63], np.uint64, "INT64", str(1 << 63)),
        ([0, 300], np.int64, "UINT8", "300"),
        ([2], np.int64, "BOOL", "2"),
        ([-1], np.int64, "BOOL", "-1"),
        ([0.5], np.float32, "BOOL", "0.5"),
        ([1e300], np.float64, "FP32", "1e\\+300"),
        ([70000], np.int64, "FP16", "70000"),
        ([b"1"], object, "FP32", "BYTES"),
        ([1.0], np.float32, "BYTES", "FP32"),
    ],
)
def test_what_a_datatype_cannot_hold_is_refused(values: list[Any], dtype: Any, datatype: Datatype, said: str) -> None:
    with pytest.raises(BadRequest, match=f"tensor 'x' .*{said}.*{datatype}") as refused:
        fitted(values, dtype, datatype)
    assert refused.value.param == "x"


@given(tensors(), st.sampled_from(DATATYPES))
def test_a_tensor_either_fits_a_datatype_with_its_values_or_is_refused(tensor: Tensor, datatype: Datatype) -> None:
    try:
        array = fit(tensor, spec(datatype, *tensor.array.shape))
    except BadRequest:
        return
    assert array.dtype == DTYPES[datatype]
    if datatype not in ("FP16", "BF16", "FP32", "FP64", "BYTES"):
        assert [int(value) for value in array.reshape(-1)] == [int(value) for value in tensor.array.reshape(-1)]


@pytest.mark.parametrize(
    ("shape", "declared", "fits"),
    [
        ((2, 3), (-1, 3), True),
        ((0, 3), (-1, 3), True),
        ((), (), True),
        ((2, 3), (2, 3), True),
        ((2, 3), (-1, 4), False),
        ((3,), (-1, 3), False),
        ((1, 2, 3), (-1, 3), False),
        ((2,), (), False),
    ],
)
def test_minus_one_is_any_length(shape: tuple[int, ...], declared: tuple[int, ...], fits: bool) -> None:
    tensor = Tensor.of("x", np.zeros(shape, np.float32))
    if fits:
        assert fit(tensor, spec("FP32", *declared)).shape == shape
    else:
        with pytest.raises(BadRequest, match="tensor 'x' has shape") as refused:
            fit(tensor, spec("FP32", *declared))
        assert str(list(shape)) in refused.value.message
        assert str(list(declared)) in refused.value.message


def test_what_lies_askew_in_memory_is_set_straight() -> None:
    askew = np.frombuffer(memoryview(b"-" + np.arange(3, dtype="<f4").tobytes())[1:], "<f4")
    array = fit(Tensor.of("x", askew), spec("FP32", 3))
    assert array.flags.aligned
    assert array.tolist() == [0, 1, 2]


@given(tensors())
def test_tensors_survive_a_pickle(tensor: Tensor) -> None:
    assert same(pickle.loads(pickle.dumps(tensor)), tensor)
