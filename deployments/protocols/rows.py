"""V1's instances and predictions as named tensors: one row of each tensor per instance, as in TensorFlow Serving."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deployments.errors import BadRequest
from deployments.protocols.predictions import Specs
from deployments.protocols.tensor_data import read_values, write_values
from deployments.tensors import Array, Datatype, Tensor, fit, show

UNNAMED = "input-0"


def rows_to_tensors(specs: Specs, instances: Sequence[Any]) -> dict[str, Array]:
    """Instances as tensors: each is the row of the only input, or an object with a row of every input.

    Raises `BadRequest`.
    """
    declared = {one.name: one for one in specs.inputs}
    tensors = {}
    for name, column in _columns(specs, instances).items():
        spec = declared.get(name)
        shape = _shape(column)
        tensor = read_values(name, spec.datatype if spec else _datatype(column), shape, column)
        tensors[name] = fit(tensor, spec) if spec else tensor.array
    return tensors


def _columns(specs: Specs, instances: Sequence[Any]) -> dict[str, list[Any]]:
    if all(type(instance) is dict for instance in instances):
        names = list(instances[0])
        for index, instance in enumerate(instances):
            if instance.keys() != instances[0].keys():
                raise BadRequest(f"instances[{index}] has {show(list(instance))}; the first has {show(names)}")
        return {name: [instance[name] for instance in instances] for name in names}
    if len(specs.inputs) > 1:
        names = [one.name for one in specs.inputs]
        raise BadRequest(f"the model has several inputs, so an instance is an object with {', '.join(names)}")
    return {specs.inputs[0].name if specs.inputs else UNNAMED: list(instances)}


def _shape(column: list[Any]) -> list[int]:
    """The shape of nested lists, by the first of each."""
    shape: list[int] = []
    inner: Any = column
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    return shape


def _datatype(column: list[Any]) -> Datatype:
    """What values are where a model does not say what it takes."""
    inner: Any = column
    while isinstance(inner, list) and inner:
        inner = inner[0]
    if isinstance(inner, str):
        return "BYTES"
    return "BOOL" if isinstance(inner, bool) else "FP64"


def tensors_to_rows(tensors: Mapping[str, Array]) -> list[Any] | Array:
    """The rows of the only tensor, or objects with a row of every tensor, in what orjson writes."""
    columns = {name: _jsonable(name, array) for name, array in tensors.items()}
    if len(columns) == 1:
        (rows,) = columns.values()
        return rows
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _jsonable(name: str, array: Array) -> list[Any] | Array:
    """A tensor as nested rows; half precision, which JSON has no other form for, as float32."""
    if array.ndim == 0:
        array = array.reshape(1)
    if array.dtype.itemsize == 2 and array.dtype.kind not in "iu":
        array = array.astype(np.float32)
    values, _ = write_values(Tensor.of(name, array))
    if isinstance(values, np.ndarray):
        return values.reshape(array.shape)
    rows: list[Any] = np.array(values, object).reshape(array.shape).tolist()
    return rows
