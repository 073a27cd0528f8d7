"""Inference graphs over HTTP: each kind of node, streams, the worked example, and a step's replica killed."""

import io
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from deployments import audio, encoding
from tests.engines.estimators import IRIS_ROWS
from tests.integration.applications import Application
from tests.sounds import spoken

LARGE, SMALL = [[7.0, 3.2, 4.7, 1.4]], [[5.1, 3.5, 1.4, 0.2], [5.1, 3.5, 1.4, 0.2]]
CLIENTS, SECONDS = 16, 10


def test_each_kind_of_node(url: str) -> None:
    large = httpx.post(f"{url}/graphs/joined", json={"instances": LARGE})
    assert large.status_code == 200, large.text
    found = large.json()
    assert found["inline-iris"] == found["iris"] == {"predictions": [1]}
    assert found["half"]["predictions"] in ([1], LARGE)
    halves = {
        str(httpx.post(f"{url}/graphs/joined", json={"instances": LARGE}).json()["half"]["predictions"])
        for _ in range(20)
    }
    assert len(halves) == 2
    neither = httpx.post(f"{url}/graphs/kinds", json={"instances": [[0, 0, 0, 0]]})
    cause = "None of the routes matched with the switch condition"
    assert (neither.status_code, neither.json()) == (404, {"error": "Failed to process request", "cause": cause})
    nested = httpx.post(f"{url}/graphs/joined", json={"instances": [[0, 0, 0, 0]]})
    assert (nested.status_code, nested.json()["cause"]) == (500, cause)


def test_the_host_alias_is_the_graph_whatever_the_path(url: str) -> None:
    headers = {"host": "kinds.ai-hub.svc.cluster.local", "x-graph-timings": "1"}
    for path in ("/", "/v1/models/other:predict", "/graphs/kinds"):
        answer = httpx.post(url + path, json={"instances": SMALL}, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"predictions": [0, 0]})
        assert answer.headers["server-timing"].startswith("iris;dur=")
    assert httpx.get(f"{url}/readyz", headers=headers).status_code == 200
    assert httpx.get(f"{url}/graphs/kinds/readyz").status_code == 200
    refused = httpx.get(url, headers=headers)
    assert (refused.status_code, "it takes POST" in refused.text) == (405, True)
    unknown = httpx.post(f"{url}/graphs/nope", json={})
    assert (unknown.status_code, "graphs: " in unknown.text) == (404, True)


def test_bad_input_to_a_step_is_its_models_answer(url: str) -> None:
    answer = httpx.post(f"{url}/graphs/strict", json={"instances": [["a", "b", "c", "d"]]})
    assert (answer.status_code, answer.headers["x-graph-step"]) == (400, "iris")
    assert "numbers" in answer.json()["error"]
    answer = httpx.post(f"{url}/graphs/strict", content=b"\xff" * (20 << 20), timeout=60)
    assert answer.status_code == 400


def test_the_last_step_streams(url: str) -> None:
    messages = [{"role": "user", "content": "How do I use a local model?"}]
    with httpx.stream("POST", f"{url}/graphs/talk", json={"messages": messages}, timeout=60) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events[-1] == "data: [DONE]"
    assert len(events) > 5
    missing = httpx.post(f"{url}/graphs/talk", json={})
    assert (missing.status_code, "${request.messages}" in missing.text) == (400, True)


def test_speech_in_speech_out(url: str) -> None:
    """The worked example: what is asked aloud is answered aloud, in one call."""
    question = encoding.whole_wav([spoken("How do I use a local model?")], 16_000)
    heard = httpx.post(
        f"{url}/graphs/voice-rag", files={"file": ("q.wav", question)}, headers={"x-graph-timings": "1"}, timeout=60
    )
    assert heard.status_code == 200, heard.text
    assert heard.headers["content-type"] == "audio/wav"
    steps = [one.partition(";")[0] for one in heard.headers["server-timing"].split(", ")]
    assert steps == ["hear", "embed", "search", "rerank", "answer", "speak"]
    said = audio.read_sample(io.BytesIO(heard.content), 16_000)
    by_hand = audio.read_sample(io.BytesIO(answered_by_hand(url, question)), 16_000)
    assert len(said) == pytest.approx(len(by_hand), rel=0.001)
    silent = httpx.post(f"{url}/graphs/voice-rag", files={"file": ("q.wav", b"no sound")}, timeout=60)
    assert (silent.status_code, silent.headers["x-graph-step"]) == (400, "hear")


def answered_by_hand(url: str, question: bytes) -> bytes:
    """The same by six calls."""

    def post(path: str, **body: Any) -> Any:
        return httpx.post(url + path, json=body, timeout=60).raise_for_status()

    form = {"file": ("q.wav", question)}
    heard = httpx.post(f"{url}/whisper/v1/audio/transcriptions", files=form, timeout=60).json()["text"]
    vector = post("/embeddings/v1/embeddings", input=heard).json()["data"][0]["embedding"]
    near = post("/v1/models/questions:predict", instances=[vector]).json()["predictions"][0]
    best = post("/reranker/v1/rerank", query=heard, documents=near).json()["results"][0]["document"]["text"]
    messages = [{"role": "user", "content": best}]
    answer = post("/small-llm/v1/chat/completions", messages=messages).json()["choices"][0]["message"]["content"]
    print(f"heard {heard!r}, took it for {best!r}, answered {answer!r}")
    speech: bytes = post("/tts/v1/audio/speech", input=answer, response_format="wav").content
    return speech


def test_while_a_steps_replica_is_killed_soft_steps_go_on_and_nothing_hangs(application: Application) -> None:
    """`iris` is soft in `joined`, and hard in `strict`, where it has time to come back, and in `hasty`, where not."""
    seen: dict[str, Counter[object]] = {"joined": Counter(), "strict": Counter(), "hasty": Counter()}
    stop = threading.Event()
    longest_s: list[float] = []

    def client(number: int) -> None:
        graph = tuple(seen)[number % 3]
        slowest_s = 0.0
        with httpx.Client(timeout=60) as http:
            while not stop.is_set():
                began_s = time.monotonic()
                answer = http.post(f"{application.url}/graphs/{graph}", json={"instances": LARGE})
                slowest_s = max(slowest_s, time.monotonic() - began_s)
                if answer.status_code == 200:
                    assert answer.json()["inline-iris"] == {"predictions": [1]}, answer.text
                    seen[graph]["predictions" in answer.json()["iris"]] += 1
                else:
                    assert answer.headers["x-graph-step"] == "iris", answer.text
                    seen[graph][answer.status_code] += 1
        longest_s.append(slowest_s)

    before = {process.pid for process in application.replicas("iris")}
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        time.sleep(SECONDS / 5)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        time.sleep(SECONDS * 4 / 5)
        stop.set()
        for one in clients:
            one.result()
    print(seen, max(longest_s))
    assert set(seen["joined"]) <= {True, False}, seen
    assert set(seen["strict"]) <= {True, False, 502, 503, 504}, seen
    assert {True, 504} <= set(seen["hasty"]) <= {True, False, 502, 503, 504}, seen
    assert all(counts[True] > 10 for counts in seen.values()), seen
    assert max(longest_s) < 30
    application.until(lambda: application.state("iris")["state"] == "ready")
    application.until(lambda: {process.pid for process in application.replicas("iris")} - before)
    assert httpx.post(f"{application.url}/graphs/strict", json={"instances": LARGE}).status_code == 200


def test_iris_says_what_it_said(url: str) -> None:
    answer = httpx.post(f"{url}/graphs/strict", json={"instances": IRIS_ROWS}).json()
    alone = httpx.post(f"{url}/v1/models/iris:predict", json={"instances": IRIS_ROWS}).json()
    assert answer["iris"] == alone


@pytest.mark.parametrize("name", ["flowers", "far-flowers"])
def test_a_transformer_around_a_model(url: str, triton: Any, name: str) -> None:
    """Iris with a class around it that takes millimetres and names what was found, there in a deployment of its own."""
    import tritonclient.grpc

    millimetres = [[one * 10 for one in row] for row in IRIS_ROWS]
    answer = httpx.post(f"{url}/v1/models/{name}:predict", json={"mm": millimetres}, headers={"x-garden": "ours"})
    assert answer.json() == {"predictions": ["setosa", "versicolor", "virginica"], "garden": "ours"}
    failed = httpx.post(f"{url}/v1/models/{name}:predict", json={"instances": []})
    assert (failed.status_code, "Flowers.preprocess failed: KeyError" in failed.json()["error"]) == (500, True)
    graph = httpx.post(f"{url}/graphs/garden", json={"mm": millimetres})
    assert graph.json() == {"flowers": {"predictions": ["setosa", "versicolor", "virginica"], "garden": None}}
    tensor = tritonclient.grpc.InferInput("mm", [3, 4], "FP64")
    tensor.set_data_from_numpy(np.array(millimetres))
    assert triton.infer(name, [tensor]).as_numpy("kind").tolist() == [b"setosa", b"versicolor", b"virginica"]
    assert triton.is_model_ready(name)
    assert httpx.get(f"{url}/{name}/v2/models/{name}").json()["inputs"][0]["name"] == "input-0"


def test_requests_survive_the_death_of_a_transformers_replica(application: Application) -> None:
    millimetres = [[one * 10 for one in row] for row in IRIS_ROWS]
    before = application.replicas("far-flowers-transformer")
    assert before

    def ask(number: int) -> int:
        if number == 40:
            os.kill(before[0].pid, signal.SIGKILL)
        url = f"{application.url}/v1/models/far-flowers:predict"
        return httpx.post(url, json={"mm": millimetres}, timeout=60).status_code

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert set(pool.map(ask, range(200))) == {200}


def test_graphs_are_documented_and_measured(application: Application) -> None:
    paths = httpx.get(f"{application.url}/openapi.json").json()["paths"]
    form = paths["/graphs/voice-rag"]["post"]["requestBody"]["content"]
    assert list(form) == ["multipart/form-data"]
    assert "Sequence of hear: whisper" in paths["/graphs/voice-rag"]["post"]["description"]
    body = paths["/graphs/joined"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "instances" in body["properties"]
    assert httpx.post(f"{application.url}/graphs/garden", json={"mm": [[1, 2, 3, 4]]}).status_code == 200
    metrics = f"http://127.0.0.1:{application.instance().metrics_port}/metrics"

    def counted() -> bool:
        lines = [one for one in httpx.get(metrics).text.splitlines() if 'graph_name="garden"' in one]
        names = {one.partition("{")[0] for one in lines if 'code="200"' in one}
        steps = [one for one in lines if 'step_name="flowers"' in one]
        return "ray_inference_graph_request_duration_seconds_count" in names and bool(steps)

    application.until(counted)
