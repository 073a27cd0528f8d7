"""Classic models in replicas, inside the gateway, and many on demand in one replica, over HTTP."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engines.estimators import IRIS_ROWS, make_iris
from tests.integration.applications import Application
from tests.integration.conftest import MANY


def tensors(rows: list[list[float]]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": rows}]}


@pytest.mark.parametrize("model", ["iris", "inline-iris"])
def test_v1_and_v2_are_what_the_estimator_says(url: str, model: str, tmp_path: Path) -> None:
    estimator = make_iris(tmp_path)
    said = estimator.predict(IRIS_ROWS).tolist()
    assert httpx.post(f"{url}/v1/models/{model}:predict", json={"instances": IRIS_ROWS}).json()["predictions"] == said
    answer = httpx.post(f"{url}/{model}/v2/models/{model}/infer", json=tensors(IRIS_ROWS)).json()
    assert answer["outputs"][0] == {"name": "output-0", "datatype": "INT64", "shape": [3], "data": said}
    wanted = tensors(IRIS_ROWS) | {"outputs": [{"name": "predict_proba"}]}
    answer = httpx.post(f"{url}/v2/models/{model}/infer", json=wanted).json()
    assert answer["outputs"][0]["data"] == pytest.approx(estimator.predict_proba(IRIS_ROWS).reshape(-1), abs=1e-6)


@pytest.mark.parametrize("model", ["identity", "inline-identity"])
def test_a_class_of_ones_own(url: str, model: str) -> None:
    def predict(**parameters: Any) -> httpx.Response:
        return httpx.post(f"{url}/v2/models/{model}/infer", json=tensors([[1.5]]) | {"parameters": parameters})

    assert predict().json()["outputs"][0]["data"] == [1.5]
    refused = predict(fail="bad")
    assert (refused.status_code, refused.json()) == (400, {"error": "this will not do"})
    failed = predict(fail="badly")
    assert (failed.status_code, "as it was told" in failed.json()["error"]) == (500, True)
    assert httpx.get(f"{url}/{model}/any/path").text.endswith("/any/path")
    assert predict().status_code == 200


@pytest.mark.parametrize("model", ["iris", "inline-iris"])
def test_what_it_cannot_take_gets_a_400_that_says_why(url: str, model: str) -> None:
    for body, says in (
        ({"instances": [[1, 2, 3]]}, "[-1, 4]"),
        ({"instances": [["a", "b", "c", "d"]]}, "numbers"),
        ({"instances": [[1, 2, 3, None]]}, "NaN"),
        ({"instances": "x"}, "list"),
    ):
        answer = httpx.post(f"{url}/v1/models/{model}:predict", json=body)
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["error"]


def test_an_inline_model_that_cannot_load_takes_nothing_with_it(url: str) -> None:
    answer = httpx.post(f"{url}/v1/models/inline-broken:predict", json={"instances": [[1]]}, timeout=60)
    assert answer.status_code == 503
    assert "nothing" in answer.json()["error"]


def test_many_models_on_demand_all_answer_within_the_budget(url: str) -> None:
    def client(number: int) -> Counter[int]:
        chosen = random.Random(number)
        found: Counter[int] = Counter()
        with httpx.Client(base_url=url, timeout=120) as http:
            for _ in range(20):
                one = chosen.randrange(MANY)
                answer = http.post(f"/v1/models/many-{one}:predict", json={"instances": [[0.0]]})
                found[answer.status_code] += 1
                assert answer.json()["predictions"] == [one]
        return found

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(client, range(16)), Counter()) == {200: 320}
    for one in range(MANY):
        answer = httpx.post(f"{url}/v1/models/many-{one}:predict", json={"instances": [[0.0]]}, timeout=60)
        assert answer.json() == {"predictions": [one]}
    rows = httpx.post(f"{url}/v2/repository/index", json={"ready": True}).json()
    loaded = [row["name"] for row in rows if row["name"].startswith("many-")]
    assert sorted(loaded) == sorted(f"many-{one}" for one in range(MANY - 20, MANY))


def test_loading_and_unloading_by_name(url: str) -> None:
    def state() -> str:
        rows = httpx.post(f"{url}/v2/repository/index").json()
        return next(str(row["state"]) for row in rows if row["name"] == "many-3")

    assert httpx.post(f"{url}/v2/repository/models/many-3/load", timeout=60).json() == {"name": "many-3", "load": True}
    assert state() == "READY"
    unloaded = httpx.post(f"{url}/v2/repository/models/many-3/unload", timeout=60)
    assert unloaded.json() == {"name": "many-3", "unload": True}
    assert state() == "UNAVAILABLE"
    refused = httpx.post(f"{url}/v2/repository/models/iris/unload", timeout=60)
    assert (refused.status_code, "on-demand" in refused.json()["error"]) == (400, True)


def test_kserves_metrics_are_in_rays_endpoint(url: str, application: Application) -> None:
    httpx.post(f"{url}/v1/models/iris:predict", json={"instances": IRIS_ROWS})

    def exported() -> bool:
        text = httpx.get(application.instance().metrics_url, timeout=30).text
        names = (
            "request_predict_seconds_count",
            "kserve_inference_count_total",
            "kserve_model_load_duration_seconds_sum",
        )
        return all(f"ray_{name}{{" in text and 'model_name="iris"' in text for name in names)

    application.until(exported, 30)


def test_tritons_clients_list_load_and_unload(url: str, application: Application) -> None:
    import tritonclient.grpc
    import tritonclient.http

    with (
        tritonclient.http.InferenceServerClient(url.removeprefix("http://")) as over_http,
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{application.grpc_port}") as over_grpc,
    ):
        for client in (over_http, over_grpc):
            assert "many-7" in str(client.get_model_repository_index())
            client.load_model("many-7")
            assert client.is_model_ready("many-7")
            client.unload_model("many-7")
            assert "many-7" in str(client.get_inference_statistics())
            with pytest.raises(Exception, match="on-demand"):
                client.unload_model("iris")
