"""All routes of the embedded catalog at once, the latency of each kept apart."""

import asyncio
import json
import time
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side
from benchmarks.serving import served

SECONDS_ALONE, SECONDS = 4.0, 20.0
SENTENCE = "The ship crossed an iron sea."


def requests(folder: Path) -> dict[str, load.Request]:
    """One for each route."""
    documents = [f"{SENTENCE} {number}" for number in range(20)]
    audio = (folder / "clip.wav").read_bytes()
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n%b\r\n--b--\r\n' % audio
    bodies: dict[str, dict[str, object]] = {
        "/embeddings/v1/embeddings": {"input": [SENTENCE] * 4},
        "/reranker/v1/rerank": {"query": "sea", "documents": documents},
        "/tts/v1/audio/speech": {"input": SENTENCE, "response_format": "wav"},
        "/llm/v1/completions": {"prompt": "What is this?", "max_tokens": 32},
    }
    found = {path.split("/")[1]: load.Request(path, json.dumps(body).encode()) for path, body in bodies.items()}
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    return found | {"whisper": load.Request("/whisper/v1/audio/transcriptions", form, kind)}


def prepare(folder: Path) -> None:
    """Two seconds of speech."""
    from tests.sounds import audio_file, spoken

    (folder / "clip.wav").write_bytes(audio_file(spoken(SENTENCE), 16_000, "wav"))


async def ask(port: int, request: load.Request, seconds: float) -> list[float]:
    """Times to whole answers of one client that asks again and again."""
    took_s: list[float] = []
    until_s = time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < until_s:
        await load.post(port, request)
        took_s.append(time.perf_counter() - began_s)
    return took_s


def measure(server: Server) -> Figures:
    """Each route alone, then all at once, one client each."""
    asked = requests(server.folder)

    async def together() -> list[list[float]]:
        return await asyncio.gather(*(ask(server.http, request, SECONDS) for request in asked.values()))

    for request in asked.values():
        load.run(load.post(server.http, request))
    alone = {name: load.run(ask(server.http, request, SECONDS_ALONE)) for name, request in asked.items()}
    mixed = dict(zip(asked, load.run(together()), strict=True))
    found: Figures = {}
    for name in asked:
        found[f"{name}, alone"] = _times(alone[name])
        found[f"{name}, all at once"] = _times(mixed[name])
    return found


def _times(took_s: list[float]) -> dict[str, float]:
    ordered = sorted(took_s)
    return {"p50 ms": ordered[len(ordered) // 2] * 1000, "p95 ms": ordered[int(len(ordered) * 0.95)] * 1000}


SCENARIO = Scenario(
    name="mix",
    about=(
        "The embedded catalog: four texts embedded, 20 documents reranked, a sentence spoken, the same sentence "
        "transcribed, 32 tokens generated; one client for each, alone and then all at once on the same two cores."
    ),
    sides=(Side(OURS, partial(served, catalog="embedded"), measure),),
    prepare=prepare,
)
