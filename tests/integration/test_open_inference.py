"""KServe's V1 and V2 of the running application, by Triton's own clients, beside each task's own dialect."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.utils import InferenceServerException

from deployments import encoding
from tests.engines.llama_checkpoint import LINES
from tests.integration.applications import Application
from tests.integration.inferences import made, texts
from tests.sounds import spoken, tone

PROMPT = next(iter(LINES))
WAV_HEAD_BYTES = 44
TEXTS = ["seven ships", "an iron sea", "seven ships"]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 40}


@dataclass(frozen=True)
class Case:
    """The same question to a model in three dialects; each answer is made comparable to `own`'s."""

    model: str
    own: Callable[[str, bytes], Any]
    """By the application's address and a sound."""
    instances: Callable[[bytes], list[Any]]
    tensors: Callable[[bytes], dict[str, list[str | bytes]]]
    output: str
    parameters: dict[str, Any] | None = None
    prediction: Callable[[list[Any]], Any] = list
    comparable: Callable[[Any], Any] = list


def post(url: str, **body: Any) -> Any:
    answer = httpx.post(url, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def embedded(url: str, _sound: bytes) -> Any:
    return [one["embedding"] for one in post(f"{url}/v1/embeddings", model="embeddings", input=TEXTS)["data"]]


def ranked(url: str, _sound: bytes) -> Any:
    found = post(f"{url}/v1/rerank", model="reranker", query="what sails?", documents=TEXTS)["results"]
    return [one["relevance_score"] for one in sorted(found, key=lambda one: one["index"])]


def heard(url: str, sound: bytes) -> Any:
    files = {"file": ("a.wav", sound)}
    answer = httpx.post(f"{url}/v1/audio/transcriptions", files=files, data={"model": "whisper"}, timeout=60)
    return [answer.json()["text"]]


def said(url: str, _sound: bytes) -> Any:
    body = {"model": "tts", "input": "seven ships", "response_format": "wav"}
    return [httpx.post(f"{url}/v1/audio/speech", json=body, timeout=60).content]


def continued(url: str, _sound: bytes) -> Any:
    return [post(f"{url}/v1/completions", model="llm", prompt=PROMPT, **GREEDY)["choices"][0]["text"]]


CASES = [
    Case("embeddings", embedded, lambda _: TEXTS, lambda _: {"input": [*TEXTS]}, "embeddings"),
    Case(
        "reranker",
        ranked,
        lambda _: [{"query": "what sails?", "documents": TEXTS}],
        lambda _: {"query": ["what sails?"], "documents": [*TEXTS]},
        "scores",
        prediction=lambda found: found[0],
    ),
    Case(
        "whisper",
        heard,
        lambda sound: [{"b64": base64.b64encode(sound).decode()}],
        lambda sound: {"audio": [sound]},
        "text",
    ),
    Case(
        "tts",
        said,
        lambda _: ["seven ships"],
        lambda _: {"text": ["seven ships"]},
        "audio",
        prediction=lambda found: [base64.b64decode(one["b64"]) for one in found],
        comparable=lambda found: [one[WAV_HEAD_BYTES:] for one in found],  # a stream's head does not know its length
    ),
    Case("llm", continued, lambda _: [PROMPT], lambda _: {"text_input": [PROMPT]}, "text_output", GREEDY),
]


@pytest.fixture(scope="module")
def sound() -> bytes:
    return encoding.whole_wav([spoken("The door is open.")], 16_000)


def compare(got: Any, expected: Any) -> None:
    if isinstance(expected[0], str):
        got = [one if isinstance(one, str) else one.decode() for one in got]
    if isinstance(expected[0], str | bytes):
        assert got == expected
    else:
        np.testing.assert_allclose(np.asarray(got, np.float64), expected, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_every_task_answers_the_same_in_every_protocol(
    url: str, application: Application, triton: Any, sound: bytes, case: Case
) -> None:
    expected = case.comparable(case.own(url, sound))
    hosts = f"127.0.0.1:{application.port}"
    alias = {"Host": f"{case.model}-predictor.ns.svc.cluster.local"}
    body = {"instances": case.instances(sound), "parameters": case.parameters}
    for base, headers in ((url, {}), (f"{url}/{case.model}", {}), (url, alias)):
        answer = httpx.post(f"{base}/v1/models/{case.model}:predict", json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        compare(case.comparable(case.prediction(answer.json()["predictions"])), expected)
    for base, headers in ((hosts, {}), (f"{hosts}/{case.model}", {}), (hosts, alias)):
        with over_http.InferenceServerClient(base) as client:
            inputs = made(over_http, case.tensors(sound))
            result = client.infer(case.model, inputs, headers=headers, parameters=case.parameters)
            compare(case.comparable(result.as_numpy(case.output)), expected)
    inputs = made(over_grpc, case.tensors(sound))
    result = triton.infer(case.model, inputs, parameters=case.parameters)
    compare(case.comparable(result.as_numpy(case.output)), expected)


def test_audio_in_plain_json_is_base64(url: str, sound: bytes) -> None:
    encoded = base64.b64encode(sound).decode()
    given = {"name": "audio", "shape": [1], "datatype": "BYTES", "data": [encoded]}
    body = {"inputs": [given | {"parameters": {"content_type": "base64"}}]}
    answer = post(f"{url}/v2/models/whisper/infer", **body)
    assert answer["outputs"][0]["data"] == heard(url, sound)


V1_BODY: dict[str, Any] = {"instances": ["x"]}
V2_BODY: dict[str, Any] = {"inputs": [{"name": "input", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/v1/models/nope:predict", V1_BODY, 404, "Model with name nope does not exist."),
        ("POST", "/v2/models/nope/infer", V2_BODY, 404, "Model with name nope does not exist."),
        ("POST", "/v2/models/embeddings/versions/9/infer", V2_BODY, 404, "Its version here is 1."),
        ("POST", "/cross/v2/models/embeddings/infer", V2_BODY, 404, "Model with name embeddings does not exist."),
        ("POST", "/v1/models/broken:predict", V1_BODY, 503, "Model with name broken is not ready."),
        ("POST", "/v2/models/broken/infer", V2_BODY, 503, "Model with name broken is not ready."),
        ("POST", "/v1/models/embeddings:explain", V1_BODY, 501, "no explainer"),
        ("GET", "/v1/models/embeddings:predict", None, 405, "POST"),
        ("GET", "/v2/models/embeddings/infer", None, 405, "POST"),
        ("PUT", "/v2/models/embeddings/infer", V2_BODY, 405, "POST"),
        ("POST", "/v1/models/embeddings:predict", {}, 400, 'Expected "instances" to be a list'),
        ("POST", "/v2/models/embeddings/infer", {}, 400, "no inputs"),
    ],
)
def test_refusals_in_kserves_words(url: str, method: str, path: str, body: Any, status: int, says: str) -> None:
    answer = httpx.request(method, url + path, json=body, timeout=60)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]
    assert (status == 503) == ("retry-after" in answer.headers)


@pytest.mark.usefixtures("application")  # which the clients ask that are found by their names
@pytest.mark.parametrize("form", ["triton", "triton_http"])
def test_what_a_client_asks_of_a_server(request: pytest.FixtureRequest, form: str) -> None:
    client = request.getfixturevalue(form)
    asked = {"as_json": True} if form == "triton" else {}
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("embeddings")
    assert client.is_model_ready("text-embedding-3-small", "1")
    assert not client.is_model_ready("broken")
    assert client.get_server_metadata(**asked)["name"] == "serve-app"
    metadata = client.get_model_metadata("embeddings", **asked)
    assert (metadata["name"], metadata["versions"]) == ("embeddings", ["1"])
    assert [int(length) for length in metadata["outputs"][0]["shape"]] == [-1, 384]
    config = client.get_model_config("embeddings", **asked)
    config = config["config"] if form == "triton" else config
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert config["output"][0]["data_type"] == "TYPE_FP32"


@pytest.mark.usefixtures("application")  # which the clients ask that are found by their names
@pytest.mark.parametrize("form", ["triton", "triton_http"])
def test_statistics_count_what_was_asked(request: pytest.FixtureRequest, form: str) -> None:
    client = request.getfixturevalue(form)
    module = over_grpc if form == "triton" else over_http

    def counts() -> tuple[int, int]:
        asked = {"as_json": True} if form == "triton" else {}
        (stats,) = client.get_inference_statistics("cross", **asked)["model_stats"]
        success, fail = (stats["inference_stats"][kind].get("count", 0) for kind in ("success", "fail"))
        return int(success), int(fail)

    before = counts()
    client.infer("cross", made(module, {"query": ["x"], "documents": ["y"]}))
    with pytest.raises(InferenceServerException):
        client.infer("cross", texts(module, "x", name="query"))
    assert counts() == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_compression_both_ways(triton: Any, triton_http: Any, packed: str) -> None:
    many = ["a few words"] * 64
    plain = triton_http.infer("embeddings", texts(over_http, *many)).as_numpy("embeddings")
    http = {"request_compression_algorithm": packed, "response_compression_algorithm": packed}
    result = triton_http.infer("embeddings", texts(over_http, *many), **http)
    np.testing.assert_allclose(result.as_numpy("embeddings"), plain, atol=1e-5)
    result = triton.infer("embeddings", texts(over_grpc, *many), compression_algorithm=packed)
    np.testing.assert_allclose(result.as_numpy("embeddings"), plain, atol=1e-5)


def test_ids_parameters_outputs_and_forms_of_data(triton: Any, triton_http: Any) -> None:
    wanted = [over_http.InferRequestedOutput("embeddings", binary_data=False)]
    inputs = made(over_http, {"input": ["x"]}, binary_data=False)
    result = triton_http.infer("embeddings", inputs, "1", wanted, "7", parameters={"dimensions": 8})
    assert result.get_response()["id"] == "7"
    assert len(result.get_output("embeddings")["data"]) == 8
    binary = triton_http.infer("embeddings", texts(over_http, "x"), parameters={"dimensions": 8})
    assert binary.get_output("embeddings")["parameters"] == {"binary_data_size": 32}
    outputs = [over_grpc.InferRequestedOutput("embeddings")]
    options: dict[str, Any] = {"request_id": "8", "parameters": {"dimensions": 8}}
    result = triton.infer("embeddings", texts(over_grpc, "x"), "1", outputs, **options)
    assert result.get_response().id == "8"
    np.testing.assert_allclose(result.as_numpy("embeddings"), binary.as_numpy("embeddings"), atol=1e-5)


async def test_the_asynchronous_clients(application: Application, grpc_url: str) -> None:
    async with over_grpc_aio.InferenceServerClient(grpc_url) as client:
        first = await client.infer("embeddings", texts(over_grpc, "x"))
    async with over_http_aio.InferenceServerClient(f"127.0.0.1:{application.port}") as http:
        second = await http.infer("embeddings", texts(over_http, "x"))
    np.testing.assert_allclose(first.as_numpy("embeddings"), second.as_numpy("embeddings"), atol=1e-5)


def test_large_messages(triton: Any, triton_http: Any) -> None:
    wav = encoding.whole_wav([tone(10 * 60)], 16_000)
    cut = wav[:-2_000_000]
    assert len(cut) > 25_000_000
    for client, form in ((triton, over_grpc), (triton_http, over_http)):
        with pytest.raises(InferenceServerException, match="truncated: it should last 600"):
            client.infer("whisper", made(form, {"audio": [cut]}))
        with pytest.raises(InferenceServerException, match="1000000"):
            client.infer("embeddings", texts(form, "x" * (30 << 20)))
    many = ["a few words"] * 2048
    assert triton.infer("embeddings", texts(over_grpc, *many)).as_numpy("embeddings").shape == (2048, 384)
