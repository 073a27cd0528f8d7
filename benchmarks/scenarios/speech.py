"""The time to the first byte of speech beside coqui-tts called directly, with a tiny XTTS."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks import load
from benchmarks.libraries import called, no_server
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target
from benchmarks.serving import served

LIBRARY = "coqui-tts"
CASE = "a sentence of 11 words"
SENTENCE = "The ship crossed an iron sea while nobody counted the lamps."
TIMES = 20
CHUNK_TOKENS = 6
CATALOG = """
name: bench
models:
  - name: xtts
    engine: xtts
    source: "file://{folder}/xtts"
    options: {{stream_chunk_tokens: 6}}
    resources: {{cpu: 0.2}}
"""


def prepare(folder: Path) -> None:
    """A checkpoint of random weights and a catalog."""
    from tests.engines.xtts_checkpoint import make_tiny_xtts

    (folder / "xtts").mkdir()
    make_tiny_xtts(folder / "xtts")
    (folder / "catalog.yaml").write_text(CATALOG.format(folder=folder))


def measure(server: Server) -> Figures:
    """Median time to the first byte of a WAV over HTTP."""
    from tests.engines.xtts_checkpoint import BUILT_IN

    body = {"input": SENTENCE, "voice": BUILT_IN, "response_format": "wav"}
    url = f"http://127.0.0.1:{server.http}/xtts/v1/audio/speech"

    def first_s(client: httpx.Client) -> float:
        began_s = time.perf_counter()
        with client.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                raise RuntimeError(response.read().decode())
            pieces = response.iter_raw()
            next(pieces)
            took_s = time.perf_counter() - began_s
            for _ in pieces:
                pass
        return took_s

    with httpx.Client(timeout=60) as client:
        return timed(lambda: first_s(client))


def timed(first_s: Callable[[], float]) -> Figures:
    """The median of `TIMES` such times in seconds, after `SETTLE_S` of the same."""
    ends_s = time.monotonic() + load.SETTLE_S
    while time.monotonic() < ends_s:
        first_s()
    return {CASE: {"first ms": statistics.median([first_s() for _ in range(TIMES)]) * 1000}}


def speak(folder: Path) -> Figures:
    """Median time to the first chunk of coqui-tts's own `inference_stream`."""
    import torch
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    config.load_json(str(folder / "xtts" / "config.json"))
    model = Xtts.init_from_config(config)
    model.load_checkpoint(config, checkpoint_dir=str(folder / "xtts"), use_deepspeed=False)
    speaker = next(iter(model.speaker_manager.speakers.values()))

    def first_s() -> float:
        began_s = time.perf_counter()
        chunks = model.inference_stream(
            SENTENCE, "en", speaker["gpt_cond_latent"], speaker["speaker_embedding"], stream_chunk_size=CHUNK_TOKENS
        )
        next(chunks)
        took_s = time.perf_counter() - began_s
        for _ in chunks:
            pass
        return took_s

    with torch.inference_mode():
        return timed(first_s)


SCENARIO = Scenario(
    name="speech",
    about=(
        "The time to the first byte of a sentence's WAV from a tiny XTTS of random weights, beside the first chunk of "
        "coqui-tts's own `inference_stream` in a process of its own, chunks of the same length. Each side speaks it for "
        "8 s before it is timed: in its first seconds an application has its processes' start to end."
    ),
    sides=(
        Side(OURS, served, measure),
        Side(LIBRARY, no_server, lambda server: called("benchmarks.scenarios.speech", str(server.folder))),
    ),
    targets=(Target(CASE, "first ms", LIBRARY, most=1.2),),
    prepare=prepare,
)

if __name__ == "__main__":
    print(json.dumps(speak(Path(sys.argv[1]))))
