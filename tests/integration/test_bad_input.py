"""Bad input gets a clear 4xx in the caller's dialect, and nothing else is disturbed."""

import contextlib
import json
import re
import socket
from typing import Any

import httpx
import pytest

from tests.integration.applications import Application

E = "/embeddings/v1/embeddings"
R = "/cross/v1/rerank"


def post(url: str, path: str, content: bytes | str, **headers: str) -> httpx.Response:
    return httpx.post(url + path, content=content, headers=headers, timeout=60)


@pytest.fixture(autouse=True)
def _still_answers(url: str) -> Any:
    yield
    assert post(url, E, '{"input": "x"}').status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (E, "not json", "Invalid JSON"),
        (E, "", "Invalid JSON"),
        (E, "[]", "valid dictionary|object"),
        (E, "{}", "input"),
        (E, '{"input": 3}', "give a text, a list of texts"),
        (E, '{"input": NaN}', "give a text"),
        (E, '{"input": null}', "give a text"),
        (E, '{"input": ""}', "input.*is empty"),
        (E, '{"input": []}', "empty list"),
        (E, '{"input": [[]]}', "give a text"),
        (E, '{"input": ["a", 1]}', "give a text"),
        (E, '{"input": [1, "a"]}', "give a text"),
        (E, '{"input": [1.5]}', "give a text"),
        (E, '{"input": [true]}', "give a text"),
        (E, '{"input": "x", "encoding_format": "int4"}', "'float' or 'base64'"),
        (E, '{"input": "x", "dimensions": 0}', "dimensions"),
        (E, '{"input": "x", "dimensions": 385}', "1 to 384"),
        (E, '{"input": "x", "dimensions": NaN}', "dimensions"),
        (E, '{"input": "x", "dimensions": "8"}', "dimensions"),
        (E, '{"input": "x", "prompt_name": "nope"}', "unknown prompt"),
        (E, '{"input": "\\ud800"}', "Invalid JSON|surrogate"),
        (E, json.dumps({"input": "lamp " * 300}), "302 tokens; this model reads at most 256"),
        (E, json.dumps({"input": ["x"] * 100_000}), "100000 entries; at most 2048"),
        ("/ids/v1/embeddings", '{"input": [-1]}', "token id -1"),
        ("/ids/v1/embeddings", '{"input": [99999999999999999999]}', "token id|give a text"),
        (R, "{}", "query"),
        (R, '{"query": "", "documents": ["a"]}', "query is empty"),
        (R, '{"query": "x", "documents": []}', "empty list"),
        (R, '{"query": "x", "documents": "a"}', "documents"),
        (R, '{"query": "x", "documents": [{"title": "a"}]}', "no text under text"),
        (R, '{"query": "x", "documents": ["a"], "top_n": 0}', "top_n"),
        (R, json.dumps({"query": "x", "documents": ["a"] * 100_000}), "at most 2048"),
        ("/v1/embeddings", '{"model": "reranker", "input": "x"}', "does rerank"),
        ("/v1/embeddings", '{"input": "x"}', "name one of them as `model`: embeddings, ids, broken"),
    ],
)
def test_a_400_that_says_what_is_wrong(url: str, path: str, body: str, says: str) -> None:
    answer = post(url, path, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert re.search(says, error["message"]), error["message"]


def test_invalid_utf8(url: str) -> None:
    assert post(url, E, b'{"input": "\xff\xfe"}').status_code == 400


def test_json_under_any_content_type(url: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"):
        assert post(url, E, '{"input": "x"}', **{"content-type": kind}).status_code == 200


def test_a_multipart_body_without_a_file(url: str) -> None:
    answer = httpx.post(f"{url}/v1/embeddings", files={"model": (None, "embeddings")}, timeout=60)
    assert answer.status_code == 400
    assert "Invalid JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/nope", 404, "Models are under /embeddings/"),
        ("GET", "/embeddings/nope", 404, "/v1/embeddings"),
        ("GET", E, 405, "takes POST"),
        ("DELETE", "/v1/models", 405, "takes GET"),
        ("POST", "/v1/embeddings/", 404, "nothing at"),
        ("GET", "/v1/models/nope", 404, "Model with name nope does not exist"),
        ("GET", "/v2/models/nope", 404, "Model with name nope does not exist"),
        ("GET", "/embeddings/v2/models/cross", 404, "Model with name cross does not exist"),
        ("GET", "/../../etc/passwd", 404, "nothing at"),
        ("GET", "/embeddings/static-offline-docs/%2e%2e/%2e%2e/core.py", 404, "nothing at"),
    ],
)
def test_unknown_paths_methods_and_models(url: str, method: str, path: str, status: int, says: str) -> None:
    answer = httpx.request(method, url + path)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert says in (error if isinstance(error, str) else error["message"])
    assert isinstance(error, str) == ("/v2" in path or path == "/v1/models/nope" or path == "/v1/models")


def test_an_unknown_model_lists_the_known_ones(url: str) -> None:
    answer = post(url, "/v1/embeddings", '{"model": "gpt-5", "input": "x"}')
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "embeddings, ids, broken" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["cross-predictor", "cross-predictor.ai-ml.svc.cluster.local:80"])
def test_a_host_alias_restricts(url: str, host: str) -> None:
    ask = {"query": "x", "documents": ["a", "b"]}
    assert httpx.post(f"{url}/v1/rerank", json=ask, headers={"host": host}).json()["model"] == "cross"
    assert httpx.get(f"{url}/v1/models", headers={"host": host}).json()["models"] == ["cross"]
    for path, body in (("/v1/rerank", ask | {"model": "reranker"}), ("/reranker/v1/rerank", ask)):
        assert httpx.post(url + path, json=body, headers={"host": host}).status_code == 404


def raw(application: Application, request: bytes, timeout_s: float = 10) -> bytes:
    """What a socket gets back for these very bytes."""
    with socket.create_connection(("127.0.0.1", application.port), timeout=timeout_s) as peer:
        peer.sendall(request)
        answer = b""
        with contextlib.suppress(TimeoutError):  # a connection that is kept open ends here
            while piece := peer.recv(65536):
                answer += piece
        return answer


def test_a_header_bomb(application: Application) -> None:
    bomb = b"".join(b"h%d: %s\r\n" % (i, b"x" * 1000) for i in range(500))
    answer = raw(application, b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + bomb + b"\r\n", timeout_s=3)
    assert answer.split(b" ")[1] in (b"400", b"431"), answer[:200]


@pytest.mark.parametrize("length", [b"-1", b"abc", b"99999999999999999999"])
def test_a_length_that_is_none(application: Application, length: bytes) -> None:
    head = b"POST " + E.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
    answer = raw(application, head + length + b"\r\n\r\n{}", timeout_s=3)
    assert answer.split(b" ")[1] in (b"400", b"413"), answer[:200]


def test_a_declared_length_beyond_the_body_disturbs_nobody(application: Application) -> None:
    head = b"POST " + E.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", application.port), timeout=10) as peer:
        peer.sendall(head + b'{"input": "x"}')
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(65536)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 499")


def test_two_lengths_that_disagree(application: Application) -> None:
    head = b"POST " + E.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}"
    assert raw(application, head, timeout_s=3).split(b" ")[1] == b"400"
