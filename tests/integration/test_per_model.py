"""Layout `per-model`: an application for each model, reached without the gateway and by it."""

import copy
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from rayservice.cli import app
from tests.engines.estimators import IRIS_ROWS, make_identity, make_iris
from tests.graphs.graphed import node, to
from tests.integration.applications import Application, running
from tests.integration.inferences import texts
from tests.integration.loads import enough, load

SMALL = {"resources": {"cpu": 0.1}}
APART = ["iris", "identity", "llm"]
"""The models that have applications of their own."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Small models, hosted in every way that there is, and a graph over three of them."""
    folder = tmp_path_factory.mktemp("models")
    make_iris(folder / "iris")
    make_identity(folder / "identity")
    (folder / "waits").mkdir()
    (folder / "waits" / "model.py").write_text(WAITS)
    around = {"class": "model:Transformer", **SMALL}
    iris = {"engine": "sklearn", "source": f"file://{folder}/iris"}
    return {
        "name": "apart",
        "layout": "per-model",
        "gateway": {"max_body": "1MiB"},
        "on_demand": {"resources": {"cpu": 0.1}},
        "models": [
            {"name": "iris", "aliases": ["flowers"], **iris, **SMALL},
            {"name": "identity", "engine": "python", "source": f"file://{folder}/identity", **SMALL},
            {"name": "llm", "engine": "transformers", "source": "package://deployments.embedded_llm", **SMALL},
            {
                "name": "waits",
                "engine": "python",
                "source": f"file://{folder}/waits",
                "transformer": around,
                **SMALL,
            },
            {"name": "inline-iris", **iris, "inline": True},
            {"name": "iris-at-times", **iris, "load": "on-demand"},
        ],
        "graphs": [
            {"name": "all", "nodes": {"root": node("Ensemble", *(to(f"{n}iris{m}") for n, m in ENDS))}},
        ],
    }


WAITS = """
import asyncio
from pathlib import Path


class Model:
    async def predict(self, tensors):
        (seconds,) = tensors["input-0"]
        try:
            Path(__file__).with_name("began").touch()
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            Path(__file__).with_name("cancelled").touch()
            raise
        return tensors


class Transformer:
    def preprocess(self, payload):
        return {"instances": [payload["seconds"]]}

    def postprocess(self, result):
        return {"slept": result["predictions"][0]}
"""
"""A model that notes when it is let go of, and the transformer around it, in replicas of its own."""

ENDS = [("", ""), ("inline-", ""), ("", "-at-times")]


@pytest.fixture(scope="module")
def apart(catalog: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")  # Ray's 30 are for balancers that poll
        with running(tmp_path_factory.mktemp("apart") / "catalog.yaml", catalog) as application:
            yield application


def prediction(url: str, host: str = "x") -> httpx.Response:
    return httpx.post(url, json={"instances": IRIS_ROWS}, headers={"Host": host}, timeout=60)


def processes(apart: Application) -> dict[str, set[int]]:
    return {name: {one.pid for one in apart.replicas(name)} for name in [*APART, "gateway", "on-demand"]}


def test_the_libraries_of_models_on_demand_are_there_before_one_is_asked_for(apart: Application) -> None:
    (replica,) = apart.replicas("on-demand")
    apart.until(lambda: any("/sklearn/" in one.path for one in replica.memory_maps()))
    index = httpx.post(f"{apart.url}/v2/repository/index", json={}).json()
    assert [one["state"] for one in index if one["name"] == "iris-at-times"] == ["UNAVAILABLE"]


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/iris/v1/models/iris:predict", "x"),
        ("/iris/v1/models/flowers:predict", "x"),
        ("/v1/models/iris:predict", "x"),
        ("/openai/v1/models/iris:predict", "iris-predictor"),
        ("/iris/v1/models/iris:predict", "iris-predictor.ml.svc.cluster.local:8000"),
        ("/v1/models/iris:predict", "iris-predictor.ml"),
        ("/inline-iris/v1/models/inline-iris:predict", "x"),
        ("/iris-at-times/v1/models/iris-at-times:predict", "x"),
        ("/v1/models/iris-at-times:predict", "iris-at-times-predictor"),
    ],
)
def test_every_model_answers_under_its_prefix_and_at_the_root(apart: Application, path: str, host: str) -> None:
    answer = prediction(apart.url + path, host)
    assert answer.json() == {"predictions": [0, 1, 2]}


def test_each_is_an_application_of_its_own(apart: Application) -> None:
    found = {one["name"]: one["route_prefix"] for one in apart.applications()}
    own = {name: f"/{name}" for name in APART}
    assert found == {**own, "gateway": "/", "on-demand": None, "waits-transformer": None}


@pytest.mark.parametrize("host", ["identity-predictor.ml", "all.ml", "inline-iris-predictor"])
def test_a_host_of_another_model_or_graph_has_not_this_one(apart: Application, host: str) -> None:
    answer = prediction(f"{apart.url}/iris/v1/models/iris:predict", host)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_what_is_wrong_is_told_as_by_the_gateway(apart: Application) -> None:
    unknown = httpx.get(f"{apart.url}/iris/nothing")
    other = prediction(f"{apart.url}/iris/v1/models/identity:predict")
    large = httpx.post(f"{apart.url}/identity/v1/models/identity:predict", content=b" " * (2 << 20))
    assert [one.status_code for one in (unknown, other, large)] == [404, 404, 413]
    assert "max_body" in large.json()["error"]


def test_a_graph_joins_models_wherever_they_are(apart: Application) -> None:
    answer = prediction(f"{apart.url}/graphs/all")
    assert [one["predictions"] for one in answer.json().values()] == [[0, 1, 2]] * 3


def test_a_stream_comes_directly(apart: Application) -> None:
    body = {"prompt": "What is this?", "stream": True, "max_tokens": 20}
    asked = [f"{apart.url}{path}/v1/completions" for path in ("/llm", "")]
    streams = [httpx.post(url, json=body, timeout=60) for url in asked]
    directly, carried = ([line.partition('"text":')[2] for line in one.text.splitlines()] for one in streams)
    assert directly == carried
    assert streams[0].text.endswith("data: [DONE]\n\n")


def test_grpc_needs_no_name_of_an_application(apart: Application) -> None:
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{apart.grpc_port}") as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("iris").platform
        for metadata in ({}, {"application": "identity"}):
            answer = client.infer("identity", texts(tritonclient.grpc, "a", "b"), headers=metadata)
            assert answer.as_numpy("input").tolist() == [b"a", b"b"]
        with pytest.raises(InferenceServerException, match="nope does not exist"):
            client.infer("nope", texts(tritonclient.grpc, "a"))
        with pytest.raises(InferenceServerException, match="max_body") as large:
            client.infer("identity", texts(tritonclient.grpc, "a" * (2 << 20)))
        assert large.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        rows = tritonclient.grpc.InferInput("x", [3, 4], "FP64").set_data_from_numpy(np.array(IRIS_ROWS))
        assert client.infer("iris-at-times", [rows]).get_response().outputs[0].shape == [3]


def test_a_transformers_replicas_go_with_its_model(apart: Application, catalog: dict[str, Any]) -> None:
    """It answers at every address, and a client that hangs up ends what the model does for it."""
    for path in ("/waits/v1/models/waits:predict", "/v1/models/waits:predict"):
        assert httpx.post(apart.url + path, json={"seconds": 0.01}).json() == {"slept": 0.01}
    assert apart.replicas("waits-transformer")
    assert apart.replicas("waits")
    folder = Path(catalog["models"][3]["source"].removeprefix("file://"))
    (folder / "began").unlink()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{apart.url}/waits/v1/models/waits:predict", json={"seconds": 120}, timeout=2)
    apart.until(lambda: (folder / "began").exists() and (folder / "cancelled").exists())


def asking(url: str) -> Callable[[httpx.Client, str], httpx.Response]:
    return lambda client, text: client.post(f"{url}/v1/models/identity:predict", json={"instances": [text]})


def test_changing_one_model_leaves_every_process_and_interrupts_none(
    apart: Application, catalog: dict[str, Any]
) -> None:
    before = processes(apart)
    changed, broken = copy.deepcopy(catalog), copy.deepcopy(catalog)
    changed["models"][1]["aliases"] = ["echo"]
    broken["models"][1]["source"] = "file:///nowhere"
    with load(asking(f"{apart.url}/identity")) as seen:
        enough(seen, 50)
        apart.deploy(changed)
        apart.until(lambda: prediction(f"{apart.url}/v1/models/echo:predict").status_code == 200)
        apart.deploy(broken)
        apart.until(lambda: "nowhere" in apart.state("identity").get("reason", ""))
        enough(seen, 100)
        apart.deploy(catalog)
        apart.until(lambda: "reason" not in apart.state("identity"))
        enough(seen, 50)
    assert set(seen) == {200}, seen
    assert processes(apart) == before


def test_adding_and_removing_a_model_leaves_every_process(apart: Application, catalog: dict[str, Any]) -> None:
    before = processes(apart)
    more = copy.deepcopy(catalog)
    more["models"].append({**catalog["models"][0], "name": "second", "aliases": []})
    with load(asking(f"{apart.url}/identity"), pause_s=0.05) as seen:
        for _ in range(2):  # a handle to what was there before leads to it again
            apart.deploy(more)
            apart.until(lambda: apart.state("second")["state"] == "ready")
            for path in ("/second/v1/models/second:predict", "/v1/models/second:predict"):
                assert prediction(apart.url + path).json() == {"predictions": [0, 1, 2]}
            apart.deploy(catalog)
            apart.until(lambda: prediction(f"{apart.url}/v1/models/second:predict").status_code == 404)
    assert set(seen) == {200}, seen
    assert processes(apart) == before


def test_gpus_become_cpus_where_asked_to(apart: Application, catalog: dict[str, Any]) -> None:
    """With as many CPUs as the models had before, so that no process is replaced."""
    before, this = processes(apart), apart.instance()
    with_gpus = copy.deepcopy(catalog)
    for model in with_gpus["models"]:
        if model["name"] in APART:
            model["resources"] = {"gpu": 0.1, "cpu": 1}
    apart.write(with_gpus)
    url = f"http://127.0.0.1:{this.dashboard_port}"
    arguments = ["deploy", str(apart.file), "--local", "--no-gpus", "--ray-url", url]
    said = CliRunner().invoke(app, arguments, env={"RAY_AUTH_TOKEN": this.token})
    assert said.exit_code == 0, said.output
    apart.until(lambda: {one["status"] for one in apart.applications()} == {"RUNNING"})
    found = {one["name"]: one["deployments"].get(one["name"]) for one in apart.applications()}
    for name in APART:
        assert (found[name]["required_resources"], found[name]["status"]) == ({"CPU": 0.1, "GPU": 0}, "HEALTHY")
    assert prediction(f"{apart.url}/v1/models/iris:predict", "iris-predictor").json() == {"predictions": [0, 1, 2]}
    assert processes(apart) == before


@pytest.mark.parametrize("victim", ["identity", "gateway"])
def test_no_request_is_lost_when_an_entrance_is_killed(apart: Application, victim: str) -> None:
    before = processes(apart)
    url = f"{apart.url}/identity" if victim == "identity" else apart.url
    with load(asking(url)) as seen:
        enough(seen, 100)
        os.kill(max(before[victim]), signal.SIGKILL)
        enough(seen, 200)
    assert set(seen) == {200}, seen
    after = processes(apart)
    assert after.pop(victim) != before.pop(victim)
    assert after == before
