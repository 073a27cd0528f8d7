"""Transcription and speech through the application beside the libraries called directly, on the same cores.

Models are the tests' tiny checkpoints of random weights: the smaller the model's share, the more of
what the application adds is seen. Prints a table; asked for are at most 1.05 times the library's time for
10 minutes of audio, and at most 1.2 times the engine's time to its first chunk for speech. Then the most
memory that the gateway took for uploads that are large, many, or decode to hours. Run by `make bench`.
"""

import argparse
import asyncio
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import httpx
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.serving import Memory, served
from tests.engines.whisper_checkpoint import make_tiny_whisper
from tests.engines.xtts_checkpoint import BUILT_IN, make_tiny_xtts
from tests.sounds import audio_file, spoken

SENTENCE = "The ship crossed an iron sea while nobody counted the lamps."
MINUTES = 10
CATALOG = """
name: bench
models:
  - name: whisper
    engine: faster_whisper
    source: "file://{folder}/whisper"
    options: {{batch_size: 4}}
    resources: {{cpu: 0.2}}
  - name: xtts
    engine: xtts
    source: "file://{folder}/xtts"
    options: {{stream_chunk_tokens: 6}}
    resources: {{cpu: 0.2}}
"""


def prepare(folder: Path) -> None:
    """Checkpoints, ten minutes of speech, and a catalog, in that folder."""
    make_tiny_whisper(folder / "whisper")
    (folder / "xtts").mkdir()
    make_tiny_xtts(folder / "xtts")
    once = np.concatenate([spoken(SENTENCE), np.zeros(16_000, np.float32)])
    pcm = np.tile(once, MINUTES * 60 * 16_000 // len(once) + 1)[: MINUTES * 60 * 16_000]
    (folder / "speech.mp3").write_bytes(audio_file(pcm, 16_000, "mp3"))
    (folder / "catalog.yaml").write_text(CATALOG.format(folder=folder))


def direct(folder: Path, what: str) -> float:
    """Seconds that the library takes, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speech", "--direct", what, "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def transcribe_directly(folder: Path) -> float:
    """faster-whisper's own pipeline on the file, from its bytes to the last segment."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(folder / "whisper"), device="cpu", cpu_threads=2)
    data = (folder / "speech.mp3").read_bytes()
    began_s = time.perf_counter()
    segments, _ = BatchedInferencePipeline(model).transcribe(
        io.BytesIO(data), language="en", batch_size=4, without_timestamps=False
    )
    assert list(segments)
    return time.perf_counter() - began_s


def speak_directly(folder: Path) -> float:
    """Median time to the engine's first chunk, of ten sentences after one."""
    from deployments.engines import LoadContext
    from deployments.engines.xtts import Engine, Options

    async def first_s(engine: Engine) -> float:
        began_s = time.perf_counter()
        pieces = engine.speak(SENTENCE, voice=BUILT_IN)
        await anext(pieces)
        took_s = time.perf_counter() - began_s
        await pieces.aclose()
        return took_s

    async def several(engine: Engine) -> list[float]:
        return [await first_s(engine) for _ in range(11)][1:]

    engine = Engine()
    engine.load(folder / "xtts", Options(stream_chunk_tokens=6), LoadContext("bench", 0, 0, lambda: 1, lambda _: None))
    try:
        return statistics.median(asyncio.run(several(engine)))
    finally:
        engine.close()


def transcribe_served(url: str, folder: Path) -> float:
    """Seconds of the same file's transcription over HTTP."""
    data = (folder / "speech.mp3").read_bytes()
    began_s = time.perf_counter()
    answer = httpx.post(
        f"{url}/whisper/v1/audio/transcriptions", files={"file": data}, data={"language": "en"}, timeout=600
    )
    assert answer.status_code == 200, answer.text
    return time.perf_counter() - began_s


def speak_served(url: str) -> float:
    """Median time to the first byte of speech over HTTP, of ten sentences after one."""

    def first_s(client: httpx.Client) -> float:
        began_s = time.perf_counter()
        body = {"input": SENTENCE, "voice": BUILT_IN, "response_format": "wav"}
        with client.stream("POST", f"{url}/xtts/v1/audio/speech", json=body) as response:
            pieces = response.iter_raw()
            next(pieces)
            took_s = time.perf_counter() - began_s
            for _ in pieces:
                pass
        return took_s

    with httpx.Client(timeout=60) as client:
        return statistics.median([first_s(client) for _ in range(11)][1:])


async def upload(url: str, size: int, count: int, data: bytes | None = None) -> list[int]:
    """Statuses of `count` uploads at once, of `data` or of a WAV file of `size` bytes."""
    body = data or audio_file(np.zeros((size - 500) // 2 * 16_000 // 22_050, np.float32), 16_000)

    async def one(http: aiohttp.ClientSession) -> int:
        form = aiohttp.FormData()
        form.add_field("file", body, filename="a.wav")
        try:
            async with http.post(f"{url}/whisper/v1/audio/transcriptions", data=form) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return 413  # refused before it was sent to its end

    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        return await asyncio.gather(*(one(http) for _ in range(count)))


def show_memory(url: str, console: Console) -> None:
    """What uploads that are large, many, or decode to hours take of the gateway."""
    table = Table("Upload", "Answers", "Gateway before, MB", "Most, MB", "whisper's replica, most, MB")
    bomb = audio_file(np.zeros(8_000 * 3600 * 18, np.float32), 8_000, "flac")
    cases = {
        f"{len(bomb) / 2**20:.0f} MB of FLAC that decode to 18 hours, 4 GB": (0, 1, bomb),
        "300 MB": (300 << 20, 1, None),
        "32 at once of 25 MB": (25 << 20, 32, None),
    }
    for name, (size, count, data) in cases.items():
        with Memory(url, "gateway") as gateway, Memory(url, "whisper") as replica:
            statuses = asyncio.run(upload(url, size, count, data))
        answers = ", ".join(f"{statuses.count(status)} x {status}" for status in sorted(set(statuses)))
        table.add_row(name, answers, *(f"{mb:.0f}" for mb in (gateway.before_mb, gateway.peak_mb, replica.peak_mb)))
    console.print(table)


def show_times(url: str, folder: Path, rounds: int, console: Console) -> None:
    """Times side by side, with the ratio to the library and the ratio asked for."""
    ways: dict[str, Callable[[], float]] = {
        f"{MINUTES} min, faster-whisper": lambda: direct(folder, "transcribe"),
        f"{MINUTES} min, served": lambda: transcribe_served(url, folder),
        "first chunk, engine": lambda: direct(folder, "speak"),
        "first byte, served": lambda: speak_served(url),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in track(range(rounds), "measuring", console=console, transient=True):
        for way, run in ways.items():
            times[way].append(run())
    table = Table("Way", "Seconds by round", "Median", "Ratio", "Asked for, at most")
    medians = {way: statistics.median(found) for way, found in times.items()}
    beside = dict(zip(list(ways)[1::2], zip(list(ways)[::2], (1.05, 1.2), strict=True), strict=True))
    for way, found in times.items():
        ratio, asked = "", ""
        if way in beside:
            other, limit = beside[way]
            ratio, asked = f"{medians[way] / medians[other]:.2f}", f"{limit:.2f}"
        table.add_row(way, "  ".join(f"{s:.3f}" for s in found), f"{medians[way]:.3f}", ratio, asked)
    console.print(table)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--direct", choices=["transcribe", "speak"], help="only the library, and only its seconds")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.direct:
        print({"transcribe": transcribe_directly, "speak": speak_directly}[asked.direct](asked.folder))
        return
    console = Console()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        console.print("making checkpoints, starting the application")
        prepare(folder)
        with served(str(folder / "catalog.yaml")) as url:
            show_times(url, folder, asked.rounds, console)
            show_memory(url, console)


if __name__ == "__main__":
    main()
