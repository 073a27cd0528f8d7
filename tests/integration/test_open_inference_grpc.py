"""Open Inference over gRPC: codes, streams, deadlines, health, reflection, by Triton's client."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from serve_app import instance
from tests.engines.llama_checkpoint import LINES
from tests.integration.applications import Application
from tests.integration.inferences import Stream, made, texts
from tests.integration.test_llm import running

PROMPT, LINE = next(iter(LINES.items()))
RANDOM: dict[str, Any] = {"temperature": 2.0, "max_tokens": 400}
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 40}


@pytest.mark.parametrize(
    ("model", "inputs", "more", "code", "says"),
    [
        ("nope", {"input": ["x"]}, {}, "NOT_FOUND", "Model with name nope does not exist."),
        ("", {"input": ["x"]}, {}, "NOT_FOUND", "does not exist"),
        ("embeddings/../../v1", {"input": ["x"]}, {}, "NOT_FOUND", "does not exist"),
        ("embeddings", {"input": ["x"]}, {"model_version": "9"}, "NOT_FOUND", "Its version here is 1."),
        ("embeddings", {"text": ["x"]}, {}, "INVALID_ARGUMENT", "unknown input 'text'; the model has input"),
        ("embeddings", {"input": [b"\xff"]}, {}, "INVALID_ARGUMENT", "UTF-8"),
        ("embeddings", {"input": ["x"]}, {"parameters": {"dimensions": -1}}, "INVALID_ARGUMENT", "dimensions"),
        ("cross", {"query": ["a", "b"], "documents": ["x"]}, {}, "INVALID_ARGUMENT", "'query'"),
        ("whisper", {"audio": ["no sound"]}, {}, "INVALID_ARGUMENT", "audio[0]: the file is not audio"),
        ("tts", {"text": ["x"]}, {"parameters": {"voice": "nobody"}}, "INVALID_ARGUMENT", "nobody"),
        ("broken", {"input": ["x"]}, {}, "UNAVAILABLE", "there is nothing at"),
    ],
)
def test_refusals_have_grpcs_codes(triton: Any, model: str, inputs: Any, more: Any, code: str, says: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        triton.infer(model, made(over_grpc, inputs), **more)
    assert refused.value.status() == f"StatusCode.{code}"
    assert says in refused.value.message()


def test_what_is_no_message_is_the_callers_mistake(grpc_url: str) -> None:
    with grpc.insecure_channel(grpc_url) as channel:
        for message in (b"\x0a\xff", b"\x0a\x0aembeddings\x2a\x01\xff"):
            with pytest.raises(grpc.RpcError, match="no ModelInferRequest") as refused:
                channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(message, timeout=60)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        answers = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(
            iter([b"\x0a\xff"]), timeout=60
        )
        assert b"no ModelInferRequest" in b"".join(answers)


def test_a_stream_of_text(grpc_url: str) -> None:
    stream = Stream(grpc_url)
    stream.ask("llm", PROMPT, "a", GREEDY, enable_empty_final_response=True)
    found = stream.rest()
    assert len(found) > 3
    assert "".join(text for _, text, _ in found) == LINE
    assert {id for id, _, _ in found} == {"a"}
    assert [last for _, _, last in found] == [False] * (len(found) - 1) + [True]
    stream.client.stop_stream()


def test_an_error_in_a_stream_ends_its_request_only(grpc_url: str) -> None:
    stream = Stream(grpc_url)
    stream.ask("nope", "x", "a", {})
    stream.ask("llm", "", "b", {"max_tokens": -1})
    stream.ask("broken", "x", "c", {})
    stream.ask("llm", PROMPT, "d", GREEDY, enable_empty_final_response=True)
    assert "Model with name nope does not exist" in stream.next()[1]
    assert "max_tokens" in stream.next()[1]
    assert "there is nothing at" in stream.next()[1]
    assert "".join(text for _, text, _ in stream.rest()) == LINE
    stream.client.stop_stream()


def failures(triton: Any, model: str) -> int:
    (stats,) = triton.get_inference_statistics(model).model_stats
    return int(stats.inference_stats.fail.count)


def test_a_stream_that_is_cancelled_ends_the_work(triton: Any, grpc_url: str, application: Application) -> None:
    before = failures(triton, "small-llm")
    stream = Stream(grpc_url)
    for at in range(100):
        stream.ask("small-llm", "once", str(at), RANDOM)
    assert stream.next()[0] == "0"
    stream.client.stop_stream(cancel_requests=True)
    application.until(lambda: failures(triton, "small-llm") == before + 1, 10)


def test_work_ends_with_its_deadline(triton: Any, application: Application) -> None:
    before = failures(triton, "small-llm")
    with pytest.raises(InferenceServerException) as late:
        triton.infer(
            "small-llm", texts(over_grpc, *["once"] * 64, name="text_input"), client_timeout=0.5, parameters=RANDOM
        )
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    application.until(lambda: failures(triton, "small-llm") == before + 1, 10)
    triton.infer("small-llm", texts(over_grpc, "x", name="text_input"), parameters=GREEDY, client_timeout=20)


def test_cancelled_calls_are_aborted_in_vllm(url: str, triton: Any, application: Application) -> None:
    before = failures(triton, "llm")
    inputs = texts(over_grpc, *["once"] * 64, name="text_input")
    for_all: dict[str, Any] = {"callback": lambda result, error: None, "parameters": RANDOM}
    calls = [triton.async_infer("llm", inputs, **for_all) for _ in range(3)]
    application.until(lambda: running(url) > 0, 30)
    for call in calls:
        call.cancel()
    application.until(lambda: failures(triton, "llm") > before and running(url) == 0, 10)


def test_health_by_grpcs_own_protocol(grpc_url: str) -> None:
    with grpc.insecure_channel(grpc_url) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def check(service: str) -> int:
            return int(health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)

        states = health_pb2.HealthCheckResponse
        assert check("") == check("inference.GRPCInferenceService") == check("embeddings") == states.SERVING
        assert check("broken") == states.NOT_SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            check("nope")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        told = health.List(health_pb2.HealthListRequest(), timeout=10).statuses
        assert {"", "embeddings", "broken", "many-0"} <= told.keys()
        assert {name: one.status for name, one in told.items()} == {name: check(name) for name in told}
        watch = health.Watch(health_pb2.HealthCheckRequest(service="embeddings"), timeout=30)
        assert next(watch).status == states.SERVING
        watch.cancel()


@pytest.mark.parametrize("key", ["x-request-id", "request_id"])
def test_a_calls_id_is_the_clients(grpc_url: str, key: str) -> None:
    with grpc.insecure_channel(grpc_url) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def told(metadata: list[tuple[str, str]]) -> list[str]:
            request = health_pb2.HealthCheckRequest()
            _, call = health.Check.with_call(request, timeout=10, metadata=metadata)
            return [value for name, value in call.trailing_metadata() if name == "request_id"]

        assert told([(key, "mine, too")]) == ["mine, too"]
        (made,) = told([])
        assert str(uuid.UUID(made)) == made


def test_calls_to_models_inside_the_gateway_go_past_rays_wrapper(triton: Any, application: Application) -> None:
    """Which writes each call that is refused into the gateway's log; Ray's metrics have the others too."""
    logs = instance.folder(application.port) / "ray/session_latest/logs/serve"

    def written() -> int:
        return sum(log.read_text().count("Request failed.\n") for log in logs.glob("replica_*_gateway_*.log"))

    def counted() -> float:
        lines = httpx.get(application.instance().metrics_url, timeout=30).text.splitlines()
        named = [line for line in lines if line.startswith("ray_serve_num_grpc_requests") and "ModelInfer" in line]
        return sum(float(line.split()[-1]) for line in named)

    def refuse(model: str) -> None:
        with pytest.raises(InferenceServerException):
            triton.infer(model, texts(over_grpc, "no number", name="input-0"))

    refuse("iris")
    application.until(lambda: written() > 0)
    before, sum_before = written(), counted()
    for model in ("inline-iris", "inline-iris", "inline-iris", "iris"):
        refuse(model)
    application.until(lambda: counted() >= sum_before + 4)
    assert written() == before + 1


def test_reflection_describes_the_service(grpc_url: str) -> None:
    with grpc.insecure_channel(grpc_url) as channel:
        found = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in found.get_services()
        file = found.FindFileContainingSymbol("inference.GRPCInferenceService")
        (service,) = file.service
        assert {"ModelInfer", "ModelStreamInfer", "RepositoryIndex"} <= {method.name for method in service.method}


def test_many_at_once_over_grpc(triton: Any) -> None:
    def one(text: str) -> Any:
        return triton.infer("embeddings", texts(over_grpc, text)).as_numpy("embeddings")[0]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(one, [f"text {at % 8}" for at in range(64)]))
    for at in range(8):
        np.testing.assert_allclose(found[at], found[at + 8], atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
