"""Transcription by a tiny Whisper beside faster-whisper called directly."""

import io
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from benchmarks.libraries import called, no_server
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target
from benchmarks.serving import served

LIBRARY = "faster-whisper"
SENTENCE = "The ship crossed an iron sea while nobody counted the lamps."
FILES = {"one file of 10 minutes": ("long.mp3", 1), "16 clips of 10 s at once": ("clip.mp3", 16)}
CATALOG = """
name: bench
models:
  - name: whisper
    engine: faster_whisper
    source: "file://{folder}/whisper"
    options: {{batch_size: 4}}
    resources: {{cpu: 0.2}}
"""


def prepare(folder: Path) -> None:
    """A checkpoint of random weights, ten minutes and ten seconds of speech, and a catalog."""
    from tests.engines.whisper_checkpoint import make_tiny_whisper
    from tests.sounds import audio_file, spoken

    make_tiny_whisper(folder / "whisper")
    once = np.concatenate([spoken(SENTENCE), np.zeros(16_000, np.float32)])
    for name, seconds in (("long.mp3", 600), ("clip.mp3", 10)):
        pcm = np.resize(once, seconds * 16_000)
        (folder / name).write_bytes(audio_file(pcm, 16_000, "mp3"))
    (folder / "catalog.yaml").write_text(CATALOG.format(folder=folder))


def measure(server: Server) -> Figures:
    """Seconds until all of each case's transcriptions have come, asked over HTTP at once."""
    url = f"http://127.0.0.1:{server.http}/whisper/v1/audio/transcriptions"
    with httpx.Client(timeout=300) as client, ThreadPoolExecutor(16) as pool:

        def ask(data: bytes) -> None:
            answer = client.post(url, files={"file": data}, data={"language": "en"})
            if answer.status_code != 200:
                raise RuntimeError(answer.text)

        ask((server.folder / "clip.mp3").read_bytes())
        found: Figures = {}
        for case, (name, count) in FILES.items():
            data = (server.folder / name).read_bytes()
            began_s = time.perf_counter()
            list(pool.map(ask, [data] * count))
            found[case] = {"whole s": time.perf_counter() - began_s}
        return found


def transcribe(folder: Path) -> Figures:
    """The library's own calls, file after file, from bytes to the last segment: its batches for what is longer than
    one window, else its plain call, which tries other temperatures where a text looks wrong.
    """
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(folder / "whisper"), device="cpu", cpu_threads=2)
    pipeline = BatchedInferencePipeline(model)

    def hear(data: bytes) -> None:
        file = io.BytesIO(data)
        if data == clip:
            segments, _ = model.transcribe(file, language="en", vad_filter=True)
        else:
            segments, _ = pipeline.transcribe(file, language="en", batch_size=4, without_timestamps=False)
        assert list(segments)

    clip = (folder / "clip.mp3").read_bytes()
    hear(clip)
    found: Figures = {}
    for case, (name, count) in FILES.items():
        data = (folder / name).read_bytes()
        began_s = time.perf_counter()
        for _ in range(count):
            hear(data)
        found[case] = {"whole s": time.perf_counter() - began_s}
    return found


SCENARIO = Scenario(
    name="transcription",
    about=(
        "A file of ten minutes, and 16 clips of ten seconds at once, to a tiny Whisper of random weights: the smaller "
        "the model's share, the more of what the application adds is seen. Beside it faster-whisper in a process of its "
        "own, which takes the clips one after the other: `BatchedInferencePipeline` for the long file, `WhisperModel` "
        "for the clips, as our engine does."
    ),
    sides=(
        Side(OURS, served, measure),
        Side(LIBRARY, no_server, lambda server: called("benchmarks.scenarios.transcription", str(server.folder))),
    ),
    targets=(Target("one file of 10 minutes", "whole s", LIBRARY, most=1.05),),
    prepare=prepare,
)

if __name__ == "__main__":
    print(json.dumps(transcribe(Path(sys.argv[1]))))
