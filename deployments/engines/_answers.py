"""Checks what a model of the user's own has answered, and makes it the arrays that it declares.

Whatever is wrong is an `EngineError` that says what: it is for the model's author. Knows nothing of how it was called.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from deployments.errors import EngineError
from deployments.specs import Array, Datatype, TensorSpec

ANSWER = "output-0"


def read_answer(made: Any, declared: Sequence[TensorSpec]) -> dict[str, Array]:
    """Named arrays, or the only one, as arrays of the declared names, datatypes and shapes. Raises `EngineError`."""
    if not isinstance(made, Mapping):
        made = {declared[0].name if declared else ANSWER: made}
    specs = {spec.name: spec for spec in declared}
    if declared and specs.keys() != made.keys():
        has, have = ", ".join(map(repr, made)) or "nothing", ", ".join(map(repr, specs))
        raise EngineError(f"predict answered {has}; the model declares {have}")
    return {str(name): _fit(_tensor(str(name), value), str(name), specs.get(name)) for name, value in made.items()}


def _tensor(name: str, value: Any) -> Array:
    """The value as an array of a dtype for which there is a datatype."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "SUT":
            array = np.asarray(value, np.object_)  # numpy's own kinds of text lose the zeros that texts end with
    except Exception as error:
        raise EngineError(f"output {name!r} is no array: {error}") from error
    if array.dtype.kind == "O":
        texts = np.empty(array.shape, np.object_)
        texts.reshape(-1)[:] = [_bytes(name, one) for one in array.reshape(-1).tolist()]
        return texts
    if _datatype_of(array) not in get_args(Datatype):
        raise EngineError(f"output {name!r} is of dtype {array.dtype}, for which there is no datatype")
    return array


def _bytes(name: str, value: Any) -> bytes:
    if not isinstance(value, str | bytes):
        raise EngineError(f"output {name!r} is or has a {type(value).__name__}, which is neither a number nor a text")
    return value.encode() if isinstance(value, str) else value


def _fit(array: Array, name: str, spec: TensorSpec | None) -> Array:
    """The array as declared: whole numbers as others that can hold them, and any numbers as fractions."""
    if spec is None:
        return array
    shape = array.shape
    if len(shape) != len(spec.shape) or any(want not in (-1, got) for want, got in zip(spec.shape, shape, strict=True)):
        raise EngineError(f"output {name!r} has shape {list(shape)}; the model declares {list(spec.shape)}")
    found = _datatype_of(array)
    if found == spec.datatype:
        return array
    whole = array.dtype.kind in "biu" and spec.datatype.startswith(("INT", "UINT"))
    if "BYTES" not in (found, spec.datatype) and (whole or spec.datatype.startswith(("FP", "BF"))):
        fitted: Array = array.astype(_dtype_of(spec.datatype))
        if not whole or np.array_equal(fitted, array):
            return fitted
    raise EngineError(f"output {name!r} is {found}; the model declares {spec.datatype}, which cannot hold all of it")


def _datatype_of(array: Array) -> str:
    """The datatype that would stand for the array's dtype; not every dtype has one."""
    names = {"object": "BYTES", "bfloat16": "BF16"}
    return names.get(array.dtype.name) or array.dtype.name.upper().replace("FLOAT", "FP")


def _dtype_of(datatype: Datatype) -> Any:
    if datatype == "BF16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.dtype(datatype.lower().replace("fp", "float"))
