"""Bodies large, chunked, too large, and abandoned."""

import asyncio
import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.applications import Application

MIB = 1 << 20
PATH = "/embeddings/v1/embeddings"


def padded(size: int) -> bytes:
    """A valid embeddings request of exactly `size` bytes."""
    body = json.dumps({"input": "seven ships", "dimensions": 2, "user": ""}).encode()
    return body.replace(b'"user": ""', b'"user": "%s"' % (b"x" * (size - len(body))))


def small_vector(url: str) -> list[float]:
    return list(httpx.post(f"{url}/embeddings/v1/embeddings", content=padded(100)).json()["data"][0]["embedding"])


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 4 * MIB, 5 * MIB, 30 * MIB, 200 * MIB])
@pytest.mark.parametrize("path", ["/embeddings/v1/embeddings", "/v1/embeddings"])
def test_a_body_is_carried_whole(url: str, size: int, path: str) -> None:
    body = padded(size) if path != "/v1/embeddings" else padded(size - 21).replace(b"{", b'{"model":"embeddings",', 1)
    assert len(body) == size
    answer = httpx.post(url + path, content=body, timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["embedding"] == pytest.approx(small_vector(url))


def test_a_chunked_upload(url: str) -> None:
    body = padded(10 * MIB)

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(body), 100_000):
            yield body[at : at + 100_000]

    answer = httpx.post(f"{url}/embeddings/v1/embeddings", content=chunks(), timeout=120)
    assert answer.json()["data"][0]["embedding"] == pytest.approx(small_vector(url))


def test_curl_with_expect_100_continue(url: str, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(padded(8 * MIB))
    done = subprocess.run(
        ["curl", "-sv", "-H", "Expect: 100-continue", "--data-binary", f"@{tmp_path}/body", url + PATH],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert b"100 Continue" in done.stderr
    assert json.loads(done.stdout)["data"]


def test_an_answer_larger_than_a_grpc_message(url: str) -> None:
    asked = {"input": [f"number {i}" for i in range(1200)]}
    answer = httpx.post(f"{url}/embeddings/v1/embeddings", json=asked, timeout=120)
    assert len(answer.content) > 4 * MIB
    assert len(answer.json()["data"]) == 1200


@pytest.mark.parametrize("path", [b"/v1/embeddings", b"/v2/repository/index", b"/graphs/kinds", b"/iris/v1/x"])
def test_a_declared_body_over_the_limit_is_refused_before_it_is_sent(application: Application, path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 300000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", application.port), timeout=10) as peer:
        peer.sendall(head + b"{")
        answer = peer.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_chunked_body_over_the_limit_is_refused_before_its_end(application: Application) -> None:
    head = b"POST /embeddings/v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", application.port), timeout=30) as peer:
        peer.sendall(head)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 2000 and not answer:
                peer.sendall(chunk)
                sent += 1
                if sent >= 256:
                    peer.settimeout(0.01)
                    with contextlib.suppress(TimeoutError):
                        answer = peer.recv(65536)
                    peer.settimeout(30)
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 2000


async def test_a_client_that_hangs_up_frees_the_engine(url: str) -> None:
    heavy = {"input": ["lamp " * 200] * 2000, "truncate": "end"}
    path = f"{url}/reranker/v1/rerank"
    asked = {"query": "x", "documents": heavy["input"]}
    async with httpx.AsyncClient(timeout=httpx.Timeout(5, read=1)) as client:
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                await client.post(path, json=asked)
        # Were the 6,000 documents still computed, this would wait minutes.
        async with asyncio.timeout(20):
            answer = await client.post(path, json={"query": "x", "documents": ["a"]}, timeout=60)
    assert answer.status_code == 200
