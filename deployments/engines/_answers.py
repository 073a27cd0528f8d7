"""Checks what a model of the user's own has answered, and makes it the arrays that it declares.

Whatever is wrong is an `EngineError` that says what: it is for the model's author. Knows nothing of how it was called.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deployments.errors import EngineError
from deployments.specs import OUTPUT, Array, Datatype, TensorSpec

if TYPE_CHECKING:
    from deployments.tensors import Tensor


def read_answer(made: Any, declared: Sequence[TensorSpec]) -> dict[str, Array]:
    """Named arrays, or the only one, as arrays of the declared names, datatypes and shapes. Raises `EngineError`."""
    if not isinstance(made, Mapping):
        made = {declared[0].name if declared else OUTPUT: made}
    specs = {spec.name: spec for spec in declared}
    if declared and specs.keys() != made.keys():
        has, have = ", ".join(map(repr, made)) or "nothing", ", ".join(map(repr, specs))
        raise EngineError(f"predict answered {has}; the model declares {have}")
    return {str(name): _fit(_tensor(str(name), value), specs.get(name)) for name, value in made.items()}


def datatype_of(name: str, array: Array) -> Datatype:
    """What the output of that name is. Raises `EngineError` for what is no tensor."""
    return _tensor(name, array).datatype


def _tensor(name: str, value: Any) -> "Tensor":
    from deployments.tensors import Tensor  # here, because engines are imported with little installed

    try:
        return Tensor.of(name, value)
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(f"output {name!r} is no array: {error}") from error


def _fit(tensor: "Tensor", spec: TensorSpec | None) -> Array:
    """The array as declared: whole numbers as others that can hold them, and any numbers as fractions."""
    from deployments.tensors import DTYPES, FLOATS

    array = tensor.array
    if spec is None:
        return array
    if not spec.takes(array.shape):
        raise EngineError(
            f"output {tensor.name!r} has shape {list(array.shape)}; the model declares {list(spec.shape)}"
        )
    if tensor.datatype == spec.datatype:
        return array
    whole = array.dtype.kind in "biu" and spec.datatype.startswith(("INT", "UINT"))
    if tensor.datatype != "BYTES" and (whole or spec.datatype in FLOATS):
        fitted: Array = array.astype(DTYPES[spec.datatype])
        if not whole or np.array_equal(fitted, array):
            return fitted
    cannot = f"the model declares {spec.datatype}, which cannot hold all of it"
    raise EngineError(f"output {tensor.name!r} is {tensor.datatype}; {cannot}")
