"""V1's instances and predictions as named tensors: one row of each tensor per instance, as in TensorFlow Serving.

An instance may also be a table, as pandas writes one and KServe's servers read it: `{"a": {"0": 1, "1": 2}, ...}`, or
`{"a": [1, 2], ...}` for a model of columns. Bytes that are no text are `{"b64": "..."}`, both ways.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deployments.errors import BadRequest, EngineError
from deployments.protocols.predictions import Specs
from deployments.protocols.tensor_data import BASE64, read_values, write_values
from deployments.specs import INPUT, Array, Datatype, TensorSpec, object_array
from deployments.tensors import Tensor, fit, read_shape, refusal, show


def rows_to_tensors(specs: Specs, instances: Sequence[Any]) -> dict[str, Array]:
    """Instances as tensors: each is the row of the only input, an object with a row of every input, or a table of them.

    Raises `BadRequest`.
    """
    columns = _columns(specs, instances)
    declared = specs.inputs_of(columns)
    return {
        declared[name].name if declared else name: _tensor(name, columns[name], declared.get(name)) for name in columns
    }


def _columns(specs: Specs, instances: Sequence[Any]) -> dict[str, list[Any]]:
    if all(type(instance) is dict and not _is_binary(instance) for instance in instances):
        instances = [row for index, one in enumerate(instances) for row in _table_rows(specs, one, index)]
        names = list(instances[0])
        for index, instance in enumerate(instances):
            if instance.keys() != instances[0].keys():
                raise BadRequest(f"instances[{index}] has {show(list(instance))}; the first has {show(names)}")
        return {name: [instance[name] for instance in instances] for name in names}
    if len(specs.inputs) > 1:
        names = [one.name for one in specs.inputs]
        raise BadRequest(f"the model has several inputs, so an instance is an object with {', '.join(names)}")
    return {specs.inputs[0].name if specs.inputs else INPUT: list(instances)}


def _table_rows(specs: Specs, instance: dict[str, Any], index: int) -> list[dict[str, Any]]:
    """The rows of an instance that is a table; one that is a row as it is."""
    values = list(instance.values())
    if values and all(type(one) is dict and one and not _is_binary(one) for one in values):
        places = list(values[0])
        for name, column in instance.items():
            if column.keys() != values[0].keys():
                raise refusal(name, f"of instances[{index}] has rows {show(list(column))}; the first {show(places)}")
        return [{name: column[place] for name, column in instance.items()} for place in places]
    if values and instance.keys() == set(specs.columns) and all(type(one) is list and one for one in values):
        for name, column in instance.items():
            if len(column) != len(values[0]):
                raise refusal(name, f"of instances[{index}] has {len(column)} rows; the first has {len(values[0])}")
        return [dict(zip(instance, row, strict=True)) for row in zip(*values, strict=True)]
    return [instance]


def _tensor(name: str, column: list[Any], spec: TensorSpec | None) -> Array:
    first, shape = _first(column), _shape(column)
    datatype = spec.datatype if spec else _datatype(first)
    if _is_binary(first) and datatype == "BYTES":
        tensor = read_values(name, datatype, shape, _encoded(name, column, len(read_shape(name, shape))), BASE64)
    else:
        tensor = read_values(name, datatype, shape, column)
    if spec is None:
        return tensor.array
    if len(shape) == 1 and spec.shape[1:] == (1,):  # a number for a row of one, as models of columns have them
        tensor = Tensor(name, tensor.datatype, tensor.array.reshape(-1, 1), tensor.parameters)
    return fit(tensor, spec)


def _is_binary(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"}


def _encoded(name: str, value: Any, depth: int) -> Any:
    """Lists of `{"b64": "..."}`, nested so deep, as lists of base64 alone."""
    if depth and isinstance(value, list):
        return [_encoded(name, one, depth - 1) for one in value]
    if depth or not _is_binary(value):
        raise refusal(name, 'has {"b64": "..."} for some of its values; it has it for all or for none')
    return value["b64"]


def _shape(column: list[Any]) -> list[int]:
    """The shape of nested lists, by the first of each."""
    shape: list[int] = []
    inner: Any = column
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    return shape


def _first(column: list[Any]) -> Any:
    inner: Any = column
    while isinstance(inner, list):
        inner = inner[0] if inner else None
    return inner


def _datatype(first: object) -> Datatype:
    """What values are where a model does not say what it takes, by the first of them."""
    if isinstance(first, str | dict):
        return "BYTES"
    return "BOOL" if isinstance(first, bool) else "FP64"


def tensors_to_rows(tensors: Mapping[str, Array]) -> list[Any] | Array:
    """The rows of the only tensor, or objects with a row of every tensor, in what orjson writes."""
    columns = {name: _jsonable(name, array) for name, array in tensors.items()}
    if len(columns) == 1:
        (rows,) = columns.values()
        return rows
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise EngineError(f"the model's outputs have different numbers of rows, which V1 has no form for: {counts}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _jsonable(name: str, array: Array) -> list[Any] | Array:
    """A tensor as nested rows; half precision, which JSON has no other form for, as float32."""
    if array.ndim == 0:
        array = array.reshape(1)
    if array.dtype.itemsize == 2 and array.dtype.kind not in "iu":
        array = array.astype(np.float32)
    values, how = write_values(Tensor.of(name, array))
    if isinstance(values, np.ndarray):
        return values.reshape(array.shape)
    written = [{"b64": value} for value in values] if how else values
    rows: list[Any] = object_array(written).reshape(array.shape).tolist()
    return rows
