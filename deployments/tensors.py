"""Named tensors as the Open Inference Protocol (V2) has them: datatypes, shapes, and numpy arrays of them.

Makes them of what engines return, and fits them to what a model declares. Whatever is wrong with a tensor is
a `BadRequest` that names it, found before anything is allocated for it. Knows nothing of HTTP, gRPC, engines,
or how tensors are written down.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, get_args

import ml_dtypes
import numpy as np
import numpy.typing as npt

from deployments.errors import BadRequest, EngineError
from deployments.specs import Array, Datatype, TensorSpec, object_array

DATATYPES: tuple[Datatype, ...] = get_args(Datatype)
_NAMED: dict[str, Datatype] = {name: name for name in DATATYPES}

DTYPES: Mapping[Datatype, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_OF_DTYPE: Mapping[np.dtype[Any], Datatype] = {dtype: datatype for datatype, dtype in DTYPES.items()}
FLOATS = ("FP16", "BF16", "FP32", "FP64")

MAX_DIMENSIONS = 64
"""What numpy has at most."""
MAX_ELEMENTS = 1 << 48
"""More than any body holds, and few enough for numpy to count their bytes."""

_short = reprlib.Repr()
_short.maxstring, _short.maxother, _short.maxlist, _short.maxtuple = 100, 100, 16, 16
show = _short.repr
"""A value as an error quotes it: short, whatever was sent."""


@dataclass(slots=True, eq=False)
class Tensor:
    """A named array, and what was said beside it."""

    name: str
    datatype: Datatype
    array: Array
    """Read-only, and at any address in memory, where it is a view of a body."""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, given: npt.ArrayLike, parameters: Mapping[str, Any] | None = None) -> Self:
        """What an engine made, with the datatype that its dtype has. Text is BYTES, as UTF-8.

        Raises `EngineError` for a dtype that has no datatype.
        """
        array = np.asarray(given)
        if array.dtype.kind in "SU" and array is not given:
            array = np.array(given, object)  # numpy's own kinds of text lose the zeros that texts end with
        if array.dtype.kind in "OSUT":
            encoded = [_encoded(name, value) for value in array.reshape(-1).tolist()]
            return cls(name, "BYTES", object_array(encoded).reshape(array.shape), parameters or {})
        datatype = _OF_DTYPE.get(array.dtype.newbyteorder("<"))
        if datatype is None:
            raise EngineError(f"output {show(name)} is of dtype {array.dtype}, which no datatype stands for")
        return cls(name, datatype, array.astype(DTYPES[datatype], copy=False), parameters or {})


def _encoded(name: str, value: object) -> bytes:
    if isinstance(value, bytes | str):
        return value.encode() if isinstance(value, str) else value
    kind = type(value).__name__
    raise EngineError(f"output {show(name)} is or has a {kind}, which is neither a number nor a text")


def refusal(name: str, message: str) -> BadRequest:
    """What is wrong with the tensor of that name."""
    return BadRequest(f"tensor {show(name)} {message}", param=name)


def read_datatype(name: str, given: object) -> Datatype:
    """The datatype of that name, in upper or lower case, as KServe takes it. Raises `BadRequest`."""
    datatype = _NAMED.get(given.upper()) if isinstance(given, str) else None
    if datatype is None:
        raise refusal(name, f"has the unknown datatype {show(given)}; there are: {', '.join(DATATYPES)}")
    return datatype


def read_shape(name: str, given: object) -> tuple[int, ...]:
    """A shape of lengths that numpy can hold, by numbers alone: nothing is allocated. Raises `BadRequest`."""
    shape = tuple(given) if isinstance(given, (list, tuple)) else (None,)
    if len(shape) > MAX_DIMENSIONS:
        raise refusal(name, f"has {len(shape)} dimensions; at most {MAX_DIMENSIONS}")
    elements = 1
    for length in shape:
        if type(length) is not int or length < 0:
            raise refusal(name, f"has the shape {show(given)}; a shape is a list of integers from 0 up")
        elements *= length or 1
    if elements > MAX_ELEMENTS:
        raise refusal(name, f"has the shape {show(given)}, which is more than {MAX_ELEMENTS} elements")
    return shape


def fit(tensor: Tensor, spec: TensorSpec) -> Array:
    """The array as `spec` declares it, converted where that loses nothing but precision. Raises `BadRequest`.

    Aligned in memory, which a view of a body seldom is: some libraries (XGBoost) refuse what is not. Only then,
    and where it is converted, is it a copy.
    """
    shape = tensor.array.shape
    if not spec.takes(shape):
        raise refusal(tensor.name, f"has shape {show(list(shape))}; the model takes {show(list(spec.shape))}")
    array = convert(tensor.name, tensor.array, spec.datatype)
    return array if array.flags.aligned else array.copy()


def convert(name: str, array: Array, datatype: Datatype) -> Array:
    """The same values as `datatype`. Fractions may be rounded. Raises `BadRequest` for a value that it cannot hold."""
    dtype = DTYPES[datatype]
    if array.dtype == dtype:
        return array
    if object in (array.dtype, dtype):
        raise refusal(name, f"is {_OF_DTYPE.get(array.dtype, array.dtype)}; the model takes {datatype}")
    if datatype not in FLOATS and array.size:
        _check_whole(name, array, datatype)
    with np.errstate(all="ignore"):
        converted = array.astype(dtype)
    if datatype in FLOATS and (lost := np.isfinite(converted) != np.isfinite(array)).any():
        raise refusal(name, f"has {array[lost][0]}, which {datatype} cannot hold")
    return converted


def _check_whole(name: str, array: Array, datatype: Datatype) -> None:
    """Raise `BadRequest` unless each of the values, of which there is one at least, is one of whole numbers."""
    dtype = DTYPES[datatype]
    low, high = (0, 1) if datatype == "BOOL" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if array.dtype.kind in "biu":
        wrong = [value for value in (int(array.min()), int(array.max())) if not low <= value <= high]
    else:
        exact = array.astype(np.float64)
        wrong = array[~((np.trunc(exact) == exact) & (exact >= low) & (exact < high + 1))].tolist()
    if wrong:
        raise refusal(name, f"has {wrong[0]}, which {datatype} cannot hold")
