"""V2 requests to a model, and models to ask: one of two named inputs, and one that gives back what it gets."""

from collections.abc import Mapping
from typing import Any

import orjson
from tritonclient.http import InferenceServerClient, InferInput

from deployments.specs import Array
from deployments.tensors import DTYPES
from tests.protocols.engines import Predict, ask, spec
from tests.protocols.fakes import Served

INFER = "/v2/models/m/infer"
Given = Mapping[str, Array]


def two() -> Served[Predict]:
    inputs = [spec("a", "FP32", -1, 2), spec("b", "INT64", -1)]
    return Served(
        Predict(
            lambda got: {"sum": got["a"].sum(axis=1) + got["b"], "a": got["a"]},
            inputs,
            [spec("sum", "FP64", -1), spec("a", "FP32", -1, 2)],
        )
    )


def echo(*inputs: Any, named: bool = True) -> Served[Predict]:
    return Served(Predict(inputs=inputs, named=named))


def texts(name: str, *values: str | bytes) -> dict[str, Any]:
    return {"name": name, "shape": [len(values)], "datatype": "BYTES", "data": list(values)}


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}


async def infer(served: Served[Any], *inputs: Any, path: str = INFER, **more: Any) -> dict[str, Any]:
    answer = await ask(served, path, json={"inputs": list(inputs), **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body["model_version"] == served.settings.version
    return body


async def output(served: Served[Any], *inputs: Any, **more: Any) -> dict[str, Any]:
    (one,) = (await infer(served, *inputs, **more))["outputs"]
    return dict(one)


async def refused(served: Served[Any], body: Any, status: int = 400, **options: Any) -> str:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    answer = await ask(served, INFER, content=content, **options)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    return str(answer.json()["error"])


async def binary(served: Served[Any], given: Given, outputs: Any = None, **options: Any) -> Any:
    """What tritonclient makes of the answer to what it sends for these tensors, all of them binary."""
    inputs = []
    for name, array in given.items():
        datatype = next(key for key, dtype in DTYPES.items() if dtype == array.dtype)
        inputs.append(InferInput(name, list(array.shape), datatype).set_data_from_numpy(array))
    body, length = InferenceServerClient.generate_request_body(inputs, outputs=outputs, **options)
    answer = await ask(
        served, INFER, content=body, headers={"inference-header-content-length": str(length)} if length else {}
    )
    assert answer.status_code == 200, answer.text
    header = answer.headers.get("inference-header-content-length")
    return InferenceServerClient.parse_response_body(answer.content, header_length=header)
