"""A class of the user's around a model: what it sees, what becomes of what it returns, and whose fault an error is."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from deployments.asgi import Answer, Head, run_stream, run_unary
from deployments.errors import ModelFailed
from deployments.model import Model
from deployments.protocols import open_inference_pb2 as pb
from deployments.protocols.app import ModelStatus
from deployments.protocols.v2 import PROTOBUF
from deployments.settings import ModelIdentity
from serve_app import transformer
from serve_app.transformer import TransformerReplica

IDENTITY = """
from deployments.errors import BadRequest

class Model:
    def predict(self, tensors, parameters):
        if parameters.get("refuse"):
            raise BadRequest("refused by the model")
        return tensors
"""
TRANSFORMER = """
import asyncio
import time

import numpy

from deployments.errors import BadRequest


class Transformer:
    def __init__(self, add=0):
        self.add, self.seen = add, []

    def preprocess(self, payload, headers):
        if payload.get("say") == "bad":
            raise BadRequest("no such thing", param="say")
        if payload.get("say") == "list":
            return []
        if payload.get("say") == "object":
            return {"instances": [object()]}
        if payload.get("say") == "array":
            return {"instances": numpy.array([[7.0]])}
        if "inputs" in payload:
            return payload
        if payload.get("say") == "slow":
            time.sleep(0.2)
        instances = [[one + self.add for one in row] for row in payload["rows"]]
        return {"instances": instances, "parameters": payload.get("parameters", {})}

    async def postprocess(self, result, headers):
        await asyncio.sleep(0)
        if "outputs" in result:
            for one in result["outputs"]:
                one["data"] = [value * 2 for value in one["data"]]
            return result
        return {"rows": result["predictions"], "for": headers.get("x-for")}
"""
ONLY_AFTER = """
class Transformer:
    def postprocess(self, result):
        return {"n": len(result["predictions"])}
"""

Make = Callable[..., Awaitable[Model]]


class Near:
    """A handle to a model, which here is in the same process."""

    def __init__(self, model: Model, method_name: str = "", **_how: Any) -> None:
        self._model, self._method = model, method_name

    def options(self, method_name: str, **how: Any) -> "Near":
        return Near(self._model, method_name, **how)

    def remote(self, *asked: Any) -> Any:
        if self._method == "stream":
            return Pieces(run_stream(self._model.streaming_app, *asked))
        return asyncio.ensure_future(self._report() if self._method == "report" else run_unary(self._model.app, *asked))

    async def _report(self) -> list[ModelStatus]:
        return [self._model.status()]


class Pieces(AsyncIterator[Any]):
    """A stream that can be cancelled, as Ray's can."""

    def __init__(self, pieces: AsyncIterator[Any]) -> None:
        self._pieces, self.cancelled = pieces, False

    async def __anext__(self) -> Any:
        return await anext(self._pieces)

    def cancel(self) -> None:
        self.cancelled = True


class Replica(TransformerReplica):
    """Closed by hand, for here no Ray Serve awaits its `__del__`."""

    def __del__(self) -> None:  # type: ignore[override]
        """Nothing."""


class Apart:
    """The model of `inner`, asked by way of a transformer's replica."""

    def __init__(self, inner: Model) -> None:
        self.replica = Replica("m", Near(inner))
        self.app = self.replica._app

    async def configure(self, settings: dict[str, Any]) -> None:
        await self.replica.reconfigure({"models": {"m": settings}})
        async with asyncio.timeout(10):
            while self.replica._life._life.state == "loading":
                await asyncio.sleep(0.005)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """A model `m` that answers what it is asked, with this transformer, once it is loaded or has failed."""
    made: list[Model] = []

    async def make(code: str = TRANSFORMER, **settings: Any) -> Model:
        (tmp_path / "model.py").write_text(IDENTITY)
        (tmp_path / "transformer.py").write_text(code)
        model = Model(ModelIdentity(name="m", engine="python"), cpus=1, gpus=0)
        made.append(model)
        model.configure({"source": f"file://{tmp_path}", "transformer": settings})
        await settle(model)
        return model

    yield make
    for model in made:
        await model.close()


async def no_others() -> bool:
    return False


@pytest.fixture(params=["in the model's process", "in a replica of its own"])
async def make_either(
    request: pytest.FixtureRequest, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """The same, with the transformer in either place."""
    monkeypatch.setattr(transformer, "reserved", lambda: (1.0, 0.0))
    monkeypatch.setattr(transformer, "others_answer", no_others)
    made: list[Apart] = []

    async def either(code: str = TRANSFORMER, **settings: Any) -> Any:
        if request.param == "in the model's process":
            return await make(code, **settings)
        inner = await make(code, **settings)
        inner.configure({"source": f"file://{tmp_path}"})
        made.append(Apart(inner))
        await made[-1].configure({"source": f"file://{tmp_path}", "transformer": settings})
        return made[-1]

    yield either
    for one in made:
        await one.replica.close()


async def settle(model: Model) -> None:
    async with asyncio.timeout(10):
        while model.status().state == "loading" or model.status().progress:
            await asyncio.sleep(0.005)


async def ask(model: Model, path: str, body: Any, **headers: str) -> Answer:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return await run_unary(model.app, Head("POST", path, "", b"", pairs, None, 5.0), content)


async def v1(model: Model, body: Any, **headers: str) -> tuple[int, Any]:
    answer = await ask(model, "/v1/models/m:predict", body, **headers)
    return answer.status, orjson.loads(answer.body)


async def test_what_a_client_sends_goes_through_it_and_so_does_the_answer(make_either: Make) -> None:
    model = await make_either(arguments={"add": 1})
    assert await v1(model, {"rows": [[1.0], [2.0]]}, x_for="me") == (200, {"rows": [[2.0], [3.0]], "for": "me"})
    assert await v1(model, {"say": "array"}) == (200, {"rows": [[7.0]], "for": None})


async def test_one_of_the_methods_will_do_and_headers_may_be_left_out(make_either: Make) -> None:
    assert await v1(await make_either(ONLY_AFTER), {"instances": [[1], [2], [3]]}) == (200, {"n": 3})


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"say": "bad"}, 400, "no such thing"),
        ({"nothing": 1}, 500, "transformer:Transformer.preprocess failed: KeyError: 'rows' (transformer.py, line 27)"),
        ({"say": "list"}, 500, "transformer:Transformer.preprocess returned a list; it returns a dict"),
        ({"say": "object"}, 500, "transformer:Transformer.preprocess returned what cannot be sent: "),
        ({"rows": [[1]], "parameters": {"refuse": True}}, 400, "refused by the model"),
        ({"rows": 1}, 500, "transformer:Transformer.preprocess failed: TypeError"),
        (b"{", 400, "Unrecognized request format"),
        (b"[]", 400, "Unrecognized request format"),
    ],
)
async def test_errors_are_whose_they_are(make_either: Make, body: Any, status: int, says: str) -> None:
    answer = await v1(await make_either(), body)
    assert answer[0] == status, answer
    assert answer[1]["error"].startswith(says)


def tensor(*data: float, **parameters: Any) -> dict[str, Any]:
    given = {"name": "x", "shape": [len(data)], "datatype": "FP32", "data": list(data)}
    return given | ({"parameters": parameters} if parameters else {})


async def test_v2_is_a_dict_whatever_it_came_as(make_either: Make) -> None:
    model = await make_either()
    plain = await ask(model, "/v2/models/m/infer", {"id": "7", "inputs": [tensor(1, 2)]})
    assert orjson.loads(plain.body)["outputs"] == [tensor(2, 4)]
    assert orjson.loads(plain.body)["id"] == "7"

    head = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    json = orjson.dumps({"inputs": [head], "parameters": {"binary_data_output": True}})
    data = np.array([1, 2], np.float32).tobytes()
    answer = await ask(
        model, "/v2/models/m/versions/1/infer", json + data, inference_header_content_length=str(len(json))
    )
    length = int(dict(answer.headers)[b"inference-header-content-length"])
    assert np.frombuffer(answer.body[length:], np.float32).tolist() == [2, 4]

    wanted = {"inputs": [tensor(1, 2)], "outputs": [{"name": "x", "parameters": {"binary_data": True}}]}
    answer = await ask(model, "/v2/models/m/infer", wanted)
    assert np.frombuffer(answer.body[-8:], np.float32).tolist() == [2, 4]

    message = pb.ModelInferRequest(model_name="m", id="9")
    message.inputs.add(name="x", datatype="FP32", shape=[2])
    message.raw_input_contents.append(data)
    answer = await ask(model, "/v2/models/m/infer", message.SerializeToString(), content_type=PROTOBUF)
    found = pb.ModelInferResponse.FromString(answer.body)
    assert (found.id, np.frombuffer(found.raw_output_contents[0], np.float32).tolist()) == ("9", [2, 4])


async def test_events_are_opened_and_made_again(make_either: Make) -> None:
    event = {"ce_specversion": "1.0", "ce_id": "1", "ce_type": "t", "ce_source": "s"}
    answer = await ask(await make_either(), "/v1/models/m:predict", {"rows": [[1.0]]}, **event)
    assert orjson.loads(answer.body) == {"rows": [[1.0]], "for": None}
    assert dict(answer.headers)[b"ce-type"] == b"io.kserve.inference.response"


async def test_other_paths_pass_it_by(make_either: Make) -> None:
    model = await make_either()
    listed = await run_unary(model.app, Head("GET", "/v1/models/m", "", b"", [], None, 5.0), b"")
    assert (listed.status, orjson.loads(listed.body)["name"]) == (200, "m")


async def test_methods_that_are_no_coroutines_run_beside_each_other(make_either: Make) -> None:
    model = await make_either(threads=4)
    began_s = time.monotonic()
    answers = await asyncio.gather(*(v1(model, {"say": "slow", "rows": [[1.0]]}) for _ in range(4)))
    assert [status for status, _ in answers] == [200] * 4
    assert time.monotonic() - began_s < 0.6


@pytest.mark.parametrize(
    ("code", "settings", "why"),
    [
        ("class Transformer: pass", {}, "transformer:Transformer has neither preprocess nor postprocess"),
        ("import nothing_like_it", {}, "No module named 'nothing_like_it'"),
        (TRANSFORMER, {"class": "transformer:Nope"}, "has no class 'Nope'"),
        (TRANSFORMER, {"arguments": {"subtract": 1}}, "cannot be made with the arguments"),
        (TRANSFORMER, {"source": "file:///nowhere"}, "nothing at /nowhere"),
    ],
)
async def test_one_that_cannot_load_is_the_models_failure(
    make: Make, code: str, settings: dict[str, Any], why: str
) -> None:
    model = await make(code, **settings)
    status = model.status()
    assert (status.state, "its transformer: " in str(status.failure), why in str(status.failure)) == (
        "failed",
        True,
        True,
    )
    with pytest.raises(ModelFailed):
        model.check()
    answer = await v1(model, {"rows": [[1]]})
    assert (answer[0], why in answer[1]["error"]) == (503, True)


async def test_a_changed_one_takes_over_and_a_broken_one_does_not(make: Make, tmp_path: Path) -> None:
    model = await make(arguments={"add": 1})
    settings = {"source": f"file://{tmp_path}"}
    model.configure(settings | {"transformer": {"arguments": {"add": 2}}})
    await until(lambda: v1(model, {"rows": [[1.0]]}), (200, {"rows": [[3.0]], "for": None}))
    model.configure(settings | {"transformer": {"arguments": {"add": 3}, "class": "transformer:Nope"}})
    async with asyncio.timeout(10):
        while "no class 'Nope'" not in (model.status().failure or ""):
            await asyncio.sleep(0.005)
    assert model.status().state == "ready"
    assert await v1(model, {"rows": [[1.0]]}) == (200, {"rows": [[3.0]], "for": None})
    held = model._around.loaded()
    model.configure(settings)
    assert await v1(model, {"instances": [[1.0]]}) == (200, {"predictions": [[1.0]]})
    async with asyncio.timeout(10):
        while model._around._life.state != "unloaded" or (held and hasattr(held, "_model")):
            await asyncio.sleep(0.005)
    model.configure(settings | {"transformer": {}})
    await until(lambda: v1(model, {"rows": [[1.0]]}), (200, {"rows": [[1.0]], "for": None}))


async def until(asked: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    async with asyncio.timeout(10):
        while await asked() != wanted:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("inputs", [5, True, 1.5, "x", {"a": 1}, None])
async def test_inputs_that_are_no_list_are_the_clients_fault(make_either: Make, inputs: object) -> None:
    answer = await ask(
        await make_either(**{"class": "transformer:Transformer"}), "/v2/models/m/infer", {"inputs": inputs}
    )
    assert answer.status == 400
    assert "inputs" in orjson.loads(answer.body)["error"]


async def test_streams_say_that_they_do_not_go_through_it(make_either: Make) -> None:
    message = pb.ModelInferRequest(model_name="m").SerializeToString()
    answer = await ask(
        await make_either(**{"class": "transformer:Transformer"}),
        "/v2/models/m/infer_stream",
        message,
        content_type=PROTOBUF,
    )
    assert answer.status == 501
    assert "transformer" in orjson.loads(answer.body)["error"]
