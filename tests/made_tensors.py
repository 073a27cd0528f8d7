"""Hypothesis's tensors of every datatype, for the tests of their codecs."""

import math
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deployments.specs import Array, Datatype, object_array
from deployments.tensors import DATATYPES, DTYPES, Tensor

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
WITHOUT_HALVES: tuple[Datatype, ...] = tuple(one for one in DATATYPES if one not in ("FP16", "BF16"))


def _elements(datatype: Datatype) -> st.SearchStrategy[Any]:
    if datatype in ("FP16", "FP32", "FP64"):
        return st.floats(width=int(datatype[2:]), allow_infinity=False)  # type: ignore[arg-type]  # 16, 32 or 64
    return hnp.from_dtype(DTYPES[datatype])


@st.composite
def tensors(draw: st.DrawFn, datatypes: tuple[Datatype, ...] = DATATYPES, text: bool = False) -> Tensor:
    """A tensor of one of the datatypes, NaN among its values but no infinity; with `text`, its BYTES are UTF-8."""
    datatype, shape = draw(st.sampled_from(datatypes)), draw(SHAPES)
    name = draw(st.text(max_size=8))
    if datatype == "BYTES":
        element = st.text(max_size=8).map(str.encode) if text else st.binary(max_size=8)
        size = math.prod(shape)
        elements = draw(st.lists(element, min_size=size, max_size=size))
        return Tensor(name, datatype, object_array(elements).reshape(shape))
    if datatype == "BF16":
        bits: Array = draw(hnp.arrays(np.float32, shape, elements=_elements("FP32")))
        with np.errstate(over="ignore"):
            return Tensor(name, datatype, bits.astype(ml_dtypes.bfloat16))
    return Tensor(name, datatype, draw(hnp.arrays(DTYPES[datatype], shape, elements=_elements(datatype))))


def same(got: Tensor, made: Tensor) -> bool:
    """Whether two tensors are of one datatype, shape and values, NaN being NaN."""
    if (got.name, got.datatype, got.array.shape) != (made.name, made.datatype, made.array.shape):
        return False
    if got.array.dtype != made.array.dtype:
        return False
    if made.datatype == "BYTES":
        return bool(got.array.reshape(-1).tolist() == made.array.reshape(-1).tolist())
    if made.array.dtype.kind in "biu":
        return bool((got.array == made.array).all())
    return bool(np.array_equal(got.array.astype(np.float64), made.array.astype(np.float64), equal_nan=True))
