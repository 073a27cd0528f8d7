"""What uploads that are large, many, or decode to hours take of the gateway's memory."""

import asyncio

import aiohttp
import numpy as np

from benchmarks import load
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side
from benchmarks.scenarios.transcription import prepare
from benchmarks.serving import Memory, served


async def upload(port: int, body: bytes, count: int) -> list[int]:
    """Statuses of so many uploads of that body at once."""

    async def one(http: aiohttp.ClientSession) -> int:
        form = aiohttp.FormData()
        form.add_field("file", body, filename="a.wav")
        try:
            async with http.post(f"http://127.0.0.1:{port}/whisper/v1/audio/transcriptions", data=form) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return 413  # refused before it was sent to its end

    timeout = aiohttp.ClientTimeout(total=200)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        return await asyncio.gather(*(one(http) for _ in range(count)))


def measure(server: Server) -> Figures:
    """The gateway's memory before and at its most, and the answers that were 200, for each kind of upload."""
    from tests.sounds import audio_file

    def wav(size: int) -> bytes:
        return audio_file(np.zeros((size - 500) // 2 * 16_000 // 22_050, np.float32), 16_000)

    bomb = audio_file(np.zeros(8_000 * 3600 * 18, np.float32), 8_000, "flac")
    cases = {
        "FLAC that decodes to 18 hours": (bomb, 1),
        "one of 300 MB": (wav(300 << 20), 1),
        "32 at once of 25 MB": (wav(25 << 20), 32),
    }
    found: Figures = {}
    for name, (body, count) in cases.items():
        with Memory(server, "gateway") as gateway:
            statuses = load.run(upload(server.http, body, count))
        taken = {"gateway before MB": gateway.before_mb, "gateway at most MB": gateway.peak_mb}
        answered = float(statuses.count(200))
        found[name] = {**taken, "answered 200": answered, "refused": count - answered}
    return found


SCENARIO = Scenario(
    name="uploads",
    about="Audio uploads that are large, many, or decode to hours: what memory of its own the gateway takes meanwhile.",
    sides=(Side(OURS, served, measure),),
    prepare=prepare,
    rounds=1,
)
