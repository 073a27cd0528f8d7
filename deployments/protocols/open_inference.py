"""Open Inference Protocol (V2) requests and responses, and their REST form: JSON, and tensors as binary data after it.

Contract: the V2 REST API and its binary tensor data extension, as Triton and KServe speak them. Knows no
routes and no models; the gRPC form is `open_inference_grpc`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from deployments.asgi import new_id
from deployments.errors import BadRequest
from deployments.protocols.dialects import Headers
from deployments.protocols.tensor_data import BASE64, Buffer, read_raw, read_values, write_raw, write_values
from deployments.tensors import Tensor, refusal, show

Parameters = Mapping[str, Any]
Body = bytes | memoryview | npt.NDArray[np.uint8]

UNSERVED = ("classification", "shared_memory_region")
"""Parameters of tensors whose extensions are not here; to ignore them would be to answer something else."""


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a request names. Raises `BadRequest` for what cannot be asked of one."""

    name: str
    parameters: Parameters = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_parameters(self.name, self.parameters)


@dataclass(slots=True, eq=False)
class InferRequest:
    """One inference. Raises `BadRequest` where it has no inputs, or a name twice."""

    model_name: str
    inputs: Sequence[Tensor]
    outputs: Sequence[RequestedOutput] = ()
    """Those wanted; none for the model's default."""
    model_version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    raw: bool = False
    """Whether it came over gRPC with its tensors as raw bytes, so that its answer goes the same way."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise BadRequest("the request has no inputs", param="inputs")
        _check_distinct("inputs", [one.name for one in self.inputs])
        _check_distinct("outputs", [one.name for one in self.outputs])


@dataclass(slots=True, eq=False)
class InferResponse:
    """The answer to one inference."""

    model_name: str
    outputs: Sequence[Tensor]
    model_version: str = ""
    id: str = ""
    """Empty for the request's, or where that has none, a new one."""
    parameters: Parameters = field(default_factory=dict)

    def id_for(self, request: InferRequest) -> str:
        """The id that the answer to `request` has; KServe's always have one."""
        return self.id or request.id or new_id()


def check_parameters(name: str, parameters: Parameters) -> None:
    """Raise `BadRequest` where the tensor of that name is asked for, or given, in a way that is not served."""
    for key in UNSERVED:
        if key in parameters:
            raise refusal(name, f"has parameter {key}, which is not served here")


def _check_distinct(what: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        name, times = Counter(names).most_common(1)[0]
        raise BadRequest(f"{what} has {show(name)} {times} times; a name is there once", param=what)


def read_header_length(given: str | None) -> int | None:
    """The header `Inference-Header-Content-Length` as a number. Raises `BadRequest`."""
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise BadRequest(f"Inference-Header-Content-Length is {show(given)}; it is a number of bytes")
    return int(given)


def read_json(
    body: Body, header_length: int | None = None, *, model_name: str = "", model_version: str = ""
) -> InferRequest:
    """A request of a body whose first `header_length` bytes are JSON, or all of them; binary data follows.

    `body` is not compressed. Arrays of binary data are views of it: read-only if it is, and perhaps unaligned.
    `model_name` and `model_version` are the path's. Raises `BadRequest`.
    """
    whole = memoryview(body)  # type: ignore[arg-type]  # numpy's arrays are buffers, from Python 3.12 on by type too
    end = len(whole) if header_length is None else header_length
    if not 0 <= end <= len(whole):
        raise BadRequest(f"Inference-Header-Content-Length is {end}, but the body has {len(whole)} bytes")
    try:
        given = orjson.loads(whole[:end])
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"Unrecognized request format: {error}") from None
    if not isinstance(given, dict):
        raise BadRequest("Unrecognized request format: the body is not a JSON object")
    binary = _Binary(whole[end:])
    inputs = [_read_input(one, binary) for one in _objects(given, "inputs")]
    binary.check_empty()
    outputs = [RequestedOutput(_name(one, "outputs"), _parameters(one)) for one in _objects(given, "outputs")]
    id, parameters = given.get("id"), _parameters(given)
    if not (id is None or isinstance(id, str)):
        raise BadRequest(f"id is {show(id)}; it is a string", param="id")
    _check_flag(parameters, "binary_data_output")
    for one in outputs:
        _check_flag(one.parameters, "binary_data")
    return InferRequest(model_name, inputs, outputs, model_version, id or "", parameters)


class _Binary:
    """The binary data that inputs have not taken yet."""

    def __init__(self, left: memoryview) -> None:
        self._left = left

    def take(self, name: str, size: object) -> memoryview:
        if type(size) is not int or size < 0:
            raise refusal(name, f"has binary_data_size {show(size)}; it is a number of bytes")
        if size > len(self._left):
            left = f"{len(self._left)} bytes of binary data are left after the JSON"
            raise refusal(name, f"has binary_data_size {size}, but {left}; is Inference-Header-Content-Length right?")
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def check_empty(self) -> None:
        if len(self._left):
            raise BadRequest(f"the body has {len(self._left)} bytes of binary data more than its inputs take")


def _read_input(given: dict[str, Any], binary: _Binary) -> Tensor:
    name = _name(given, "inputs")
    parameters = dict(_parameters(given))
    size, data = parameters.pop("binary_data_size", None), given.get("data")
    check_parameters(name, parameters)
    if (size is None) == (data is None):
        found = "neither data nor" if data is None else "both data and"
        raise refusal(name, f"has {found} parameter binary_data_size; it has one of them")
    datatype, shape = given.get("datatype"), given.get("shape")
    if size is None:
        return read_values(name, datatype, shape, data, parameters)
    return read_raw(name, datatype, shape, binary.take(name, size), parameters)


def _objects(given: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = given.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or set(map(type, found)) - {dict}:
        raise BadRequest(f"{key} is not a list of objects", param=key)
    return found


def _name(given: dict[str, Any], key: str) -> str:
    name = given.get("name")
    if not isinstance(name, str):
        raise BadRequest(f"{key} has one with the name {show(name)}; a name is a string", param=key)
    return name


def _parameters(given: dict[str, Any]) -> Parameters:
    found = given.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadRequest(f"parameters is {show(found)}; it is an object", param="parameters")
    return found


def _check_flag(parameters: Parameters, key: str) -> None:
    given = parameters.get(key)
    if not (given is None or isinstance(given, bool)):
        raise BadRequest(f"parameter {key} is {show(given)}; it is true or false", param=key)


def write_json(response: InferResponse, request: InferRequest) -> tuple[Headers, bytes]:
    """Headers and body of the answer to `request`, its outputs in binary where that asks for it.

    Not compressed, and without `content-length`. Raises `BadRequest` for FP16 and BF16 that are not asked for in
    binary, as KServe does.
    """
    asked = {one.name: one.parameters for one in request.outputs}
    outputs: list[dict[str, Any]] = []
    pieces: list[Buffer] = []
    for tensor in response.outputs:
        wanted = asked.get(tensor.name, {})
        flag = wanted.get("binary_data")
        if request.parameters.get("binary_data_output") if flag is None else flag:
            pieces.append(write_raw(tensor))
            outputs.append(_write_binary(tensor, memoryview(pieces[-1]).nbytes))
        else:
            outputs.append(_write_output(tensor, wanted.get("content_type") == BASE64["content_type"]))
    said: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version:
        said["model_version"] = response.model_version
    said["id"] = response.id_for(request)
    if response.parameters:
        said["parameters"] = dict(response.parameters)
    said["outputs"] = outputs
    head = orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)
    if not pieces:
        return [(b"content-type", b"application/json")], head
    length = (b"inference-header-content-length", str(len(head)).encode())
    return [(b"content-type", b"application/octet-stream"), length], b"".join([head, *pieces])


def _described(tensor: Tensor, parameters: Parameters) -> dict[str, Any]:
    described: dict[str, Any] = {"name": tensor.name, "shape": tensor.array.shape, "datatype": tensor.datatype}
    if parameters:
        described["parameters"] = dict(parameters)
    return described


def _write_binary(tensor: Tensor, size: int) -> dict[str, Any]:
    return _described(tensor, {**tensor.parameters, "binary_data_size": size})


def _write_output(tensor: Tensor, encoded: bool) -> dict[str, Any]:
    values, how = write_values(tensor, encoded)
    described = _described(tensor, {**tensor.parameters, **how})
    described["data"] = values
    return described
