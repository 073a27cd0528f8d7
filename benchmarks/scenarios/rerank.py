"""Reranking of 100 documents by a cross-encoder beside Infinity, both on the same weights."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target
from benchmarks.scenarios.embeddings import infinity, sentences, weights
from benchmarks.serving import served

DOCUMENTS = 100
REQUESTS = {1: 8, 32: 48}
CATALOG = """
name: bench
models:
  - name: reranker
    engine: cross_encoder
    source: "file://{folder}/reranker"
    options: {{truncate: end}}
    resources: {{cpu: 0.4}}
"""


def prepare(folder: Path) -> None:
    """A cross-encoder of MiniLM's six layers under a random head: its cost is real, its scores mean nothing."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(weights(), num_labels=1)
    model.save_pretrained(folder / "reranker")
    AutoTokenizer.from_pretrained(weights()).save_pretrained(folder / "reranker")
    (folder / "catalog.yaml").write_text(CATALOG.format(folder=folder))


async def rate(port: int, path: str, clients: int) -> float:
    """Documents per second from so many clients."""
    body = {"model": "reranker", "query": "ships on an iron sea", "documents": sentences("short", DOCUMENTS)}
    request = load.Request(path, json.dumps(body).encode())
    left = REQUESTS[clients]

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await load.post(port, request)

    began_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return REQUESTS[clients] * DOCUMENTS / (time.perf_counter() - began_s)


def measure(path: str, server: Server) -> Figures:
    """Documents per second by the number of clients."""
    load.run(rate(server.http, path, 1))
    return {
        f"{clients} client{'s' if clients > 1 else ''}": {"documents/s": load.run(rate(server.http, path, clients))}
        for clients in REQUESTS
    }


@contextmanager
def infinity_rerank(folder: Path) -> Iterator[Server]:
    """Infinity's server with the cross-encoder."""
    with infinity(folder, folder / "reranker", "reranker") as server:
        yield server


SCENARIO = Scenario(
    name="rerank",
    about=(
        "A query and 100 documents of 4 to 8 words each to a cross-encoder of MiniLM's size, in float32 on the CPU, "
        "beside Infinity on the same weights."
    ),
    sides=(
        Side(OURS, served, partial(measure, "/reranker/v1/rerank")),
        Side("Infinity", infinity_rerank, partial(measure, "/rerank")),
    ),
    targets=(Target("32 clients", "documents/s", "Infinity", least=1.0),),
    prepare=prepare,
)
