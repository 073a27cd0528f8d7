"""Asking an engine for predictions, by itself and through the protocols around it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.engines import Engine, LoadContext, PredictEngine
from deployments.errors import LoadError
from deployments.specs import Array
from tests.protocols.engines import ask
from tests.protocols.fakes import Served


async def predict(engine: PredictEngine, given: Any, *outputs: str) -> dict[str, Array]:
    """The engine's answer to named tensors, or to the only one."""
    tensors = given if isinstance(given, dict) else {"input-0": np.asarray(given)}
    return await engine.predict(tensors, outputs, {})


async def v1(engine: PredictEngine, instances: Any, **more: Any) -> Any:
    """V1's predictions."""
    answer = await ask(Served(engine), "/v1/models/m:predict", json={"instances": instances, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def tensor(name: str, datatype: str, given: Any) -> dict[str, Any]:
    array = np.asarray(given)
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.reshape(-1).tolist()}


async def v2(engine: PredictEngine, *inputs: dict[str, Any], outputs: Sequence[str] = ()) -> httpx.Response:
    """V2's answer."""
    body = {"inputs": list(inputs)} | ({"outputs": [{"name": name} for name in outputs]} if outputs else {})
    return await ask(Served(engine), "/v2/models/m/infer", json=body)


async def refused(engine: PredictEngine, *inputs: dict[str, Any]) -> str:
    """What V2's 400 says."""
    answer = await v2(engine, *inputs)
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"])


async def metadata(engine: PredictEngine) -> Any:
    """What `GET /v2/models/m` says of the tensors."""
    said = (await ask(Served(engine), "/v2/models/m", "GET")).json()
    return [(one["name"], one["datatype"], one["shape"]) for one in [*said["inputs"], *said["outputs"]]]


async def all_at_once(engine: PredictEngine, requests: Sequence[Any], *outputs: str) -> list[dict[str, Array]]:
    """The answers to requests that wait together."""
    return list(await asyncio.gather(*(predict(engine, one, *outputs) for one in requests)))


def not_loaded(engine: Engine, path: Path, options: Any, gpus: float = 0) -> str:
    """The one line that says why."""
    with pytest.raises(LoadError) as error:
        engine.load(path, options, LoadContext("test", 2, gpus, lambda: 10, lambda _: None))
    assert "\n" not in error.value.message
    return error.value.message


def counted(engine: Any) -> list[int]:
    """The rows of each call of an engine's `_compute` from now on."""
    rows: list[int] = []
    compute = engine._rows._compute

    def counting(tensors: Any, wanted: Any) -> Any:
        rows.append(len(next(iter(tensors.values()))))
        return compute(tensors, wanted)

    engine._rows._compute = counting
    return rows
