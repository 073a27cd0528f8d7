"""A model that takes long to load: requests wait, then learn how far it is."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.integration.applications import Application


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """A hub that takes connections and answers only when the test is over."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            over.wait(60)

        def log_message(self, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()


def test_a_request_to_a_loading_model_waits_and_then_says_how_far_it_is(
    silent_hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", silent_hub)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    model = {"name": "slow", "engine": "bi_encoder", "source": "hf://org/model", "timeout": "2s"}
    application = Application(tmp_path / "slow.yaml", {"models": [model | {"resources": {"cpu": 0.1}}]})
    try:
        application.until(lambda: "slow: loading" in application.text(), 120)
        answer = httpx.post(f"{application.url}/v1/rerank", json={"query": "q", "documents": ["d"]}, timeout=30)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_loading"
        assert "looking for org/model" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) > 0
        application.until(lambda: "slow: failed" in application.text(), 60)
        assert f"{silent_hub} did not answer" in application.text()
    finally:
        application.stop()
