"""A tensor's data as it travels: JSON values, raw little-endian bytes, and the numbers of gRPC's typed contents.

What is malformed is a `BadRequest` that names the tensor and says what was expected. Formats: Open Inference
Protocol (V2) and its binary tensor extension. Knows nothing of the requests that tensors are in.
"""

import base64
import contextlib
import math
import struct
from collections.abc import Mapping
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np

from deployments.specs import Array, Datatype, object_array
from deployments.tensors import (
    DTYPES,
    FLOATS,
    MAX_DIMENSIONS,
    Tensor,
    convert,
    read_datatype,
    read_shape,
    refusal,
    show,
)

Buffer = bytes | memoryview
ONLY_RAW = ("FP16", "BF16")
"""What JSON and gRPC's typed contents have no form for: Triton and KServe take and give it as bytes alone."""
BASE64 = {"content_type": "base64"}
"""The parameters of a tensor whose BYTES are base64 in JSON: MLServer's convention, both ways."""

_LENGTH = struct.Struct("<I")
_WHOLE: set[type] = {bool, int, float}
_FRACTIONS = _WHOLE | {NoneType}


def read_values(
    name: str, datatype: object, shape: object, data: object, parameters: Mapping[str, Any] | None = None
) -> Tensor:
    """A tensor of JSON's `data`: a list, flat in row-major order or nested as `shape` says.

    A number is taken for any datatype that can hold it (3.0 for INT32, 1 for BOOL), and null for NaN. BYTES
    are strings, whose UTF-8 they are; with parameter `content_type: base64` they are decoded from it. FP16
    and BF16 are not taken as JSON, as by Triton and KServe. Raises `BadRequest`.
    """
    kind, lengths, said = read_datatype(name, datatype), read_shape(name, shape), parameters or {}
    if kind in ONLY_RAW:
        raise refusal(name, f"is {kind}, which JSON has no numbers for; send it as binary data")
    flat = _flatten(name, data, lengths)
    if kind == "BYTES":
        encoded = _read_texts(name, flat, said.get("content_type") == BASE64["content_type"])
        return Tensor(name, kind, object_array(encoded).reshape(lengths), said)
    array = convert(name, _numbers(name, kind, flat), kind)
    return Tensor(name, kind, array.reshape(lengths), said)


def _flatten(name: str, data: object, shape: tuple[int, ...]) -> list[Any]:
    if not isinstance(data, list):
        raise refusal(name, f"has data of type {type(data).__name__}; data is a list")
    level, nesting = data, [len(data)]
    while level and type(level[0]) is list:
        if set(map(type, level)) != {list} or len(set(map(len, level))) > 1:
            raise refusal(name, "has ragged data: lists side by side must be of one length")
        nesting.append(len(level[0]))
        if len(nesting) > MAX_DIMENSIONS:
            raise refusal(name, f"has data nested more than {MAX_DIMENSIONS} deep")
        level = list(chain.from_iterable(level))
    if len(nesting) > 1 and tuple(nesting) != (shape if level else shape[: len(nesting)]):
        raise refusal(name, f"has shape {show(list(shape))}, but its data is nested as {show(nesting)}")
    check_count(name, shape, len(level))
    return level


def check_count(name: str, shape: tuple[int, ...], count: int) -> None:
    """Raise `BadRequest` unless the shape is of so many elements."""
    if math.prod(shape) != count:
        raise refusal(name, f"has shape {show(list(shape))}, which is {math.prod(shape)} elements; data has {count}")


def _read_texts(name: str, flat: list[Any], encoded: bool) -> list[bytes]:
    if set(map(type, flat)) - {str}:
        raise refusal(name, f"is BYTES, so its data is strings; found {_types(flat, {str})}")
    try:
        return [base64.b64decode(text, validate=True) if encoded else text.encode() for text in flat]
    except ValueError as error:
        raise refusal(name, f"has a string that is not {'base64' if encoded else 'UTF-8'}: {error}") from None


def _types(flat: list[Any], good: set[type]) -> str:
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", NoneType: "null"}
    return " and ".join(sorted({names.get(kind, "a number") for kind in set(map(type, flat)) - good}))


def _numbers(name: str, datatype: Datatype, flat: list[Any]) -> Array:
    """JSON's numbers in the dtype that holds them as they are."""
    fractions = datatype in FLOATS
    kinds, good = set(map(type, flat)), _FRACTIONS if fractions else _WHOLE
    if kinds - good:
        raise refusal(name, f"is {datatype}, so its data is numbers; found {_types(flat, good)}")
    if kinds == {bool}:
        return np.array(flat, np.bool_)
    if not fractions and float in kinds:
        flat = [int(value) if type(value) is float and value.is_integer() else value for value in flat]
        if float in set(map(type, flat)):
            raise refusal(name, f"is {datatype}, so its data is whole numbers; found a fraction")
    for dtype in (np.float64,) if fractions else (np.int64, np.uint64):
        try:
            return np.array(flat, dtype)
        except OverflowError:
            continue
    raise refusal(name, f"has a number that {datatype} cannot hold")


def read_raw(
    name: str, datatype: object, shape: object, raw: Buffer, parameters: Mapping[str, Any] | None = None
) -> Tensor:
    """A tensor of raw bytes: little-endian elements in row-major order, seen where they lie, not copied.

    BYTES are elements each preceded by its length in 4 bytes; they are copied out. Raises `BadRequest`.
    """
    kind, lengths = read_datatype(name, datatype), read_shape(name, shape)
    if kind == "BYTES":
        return Tensor(name, kind, _split(name, lengths, memoryview(raw)).reshape(lengths), parameters or {})
    expected, given = math.prod(lengths) * DTYPES[kind].itemsize, memoryview(raw).nbytes
    if expected != given:
        shown = show(list(lengths))
        raise refusal(name, f"is {kind} of shape {shown}, which is {expected} bytes; its binary data has {given}")
    array = np.frombuffer(raw, DTYPES[kind])
    if kind == "BOOL" and array.size and array.view(np.uint8).max() > 1:
        raise refusal(name, "is BOOL, so its bytes are 0 or 1; found another")
    return Tensor(name, kind, array.reshape(lengths), parameters or {})


def _split(name: str, shape: tuple[int, ...], raw: memoryview) -> Array:
    count, at = math.prod(shape), 0
    elements: list[bytes] = []
    if count * _LENGTH.size > len(raw):
        raise refusal(name, f"is {count} BYTES elements, which begin with 4 bytes each; its data has {len(raw)}")
    for index in range(count):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(raw, at)[0] if start <= len(raw) else start
        if at > len(raw):
            raise refusal(name, f"ends within its BYTES element {index}: that is to byte {at} of {len(raw)}")
        elements.append(bytes(raw[start:at]))
    if at != len(raw):
        raise refusal(name, f"has {len(raw)} bytes; its {count} BYTES elements end at byte {at}")
    return object_array(elements)


def write_values(tensor: Tensor, encoded: bool = False) -> tuple[Array | list[str], Mapping[str, Any]]:
    """A tensor for JSON (by orjson): its values in row-major order, and the parameters that say how they are written.

    BYTES are UTF-8 strings. Where one is not UTF-8, or base64 is asked for, all of them are base64, and the
    parameters are `BASE64`. NaN and infinities become null, as in KServe. Raises `BadRequest` for FP16 and BF16.
    """
    if tensor.datatype in ONLY_RAW:
        raise refusal(tensor.name, f"is {tensor.datatype}, which JSON has no numbers for; ask for binary data")
    flat = tensor.array.reshape(-1)
    if tensor.datatype != "BYTES":
        dtype, flags = DTYPES[tensor.datatype], flat.flags
        # An equal dtype need not do: orjson knows no `longlong`, which ONNX's numbers may be.
        plain = flat.dtype is dtype and flags.c_contiguous and flags.aligned
        return flat if plain else np.require(flat, dtype, ["C", "A"]), {}
    elements: list[bytes] = flat.tolist()
    if not encoded:
        with contextlib.suppress(UnicodeDecodeError):
            return [element.decode() for element in elements], {}
    return [base64.b64encode(element).decode("ascii") for element in elements], BASE64


def write_raw(tensor: Tensor) -> Buffer:
    """A tensor's raw bytes, as `read_raw` takes them; those of numbers are not copied if they lie in order."""
    flat = tensor.array.reshape(-1)
    if tensor.datatype == "BYTES":
        return b"".join(chain.from_iterable((_LENGTH.pack(len(element)), element) for element in flat.tolist()))
    return np.require(flat, DTYPES[tensor.datatype], "C").view(np.uint8).data
