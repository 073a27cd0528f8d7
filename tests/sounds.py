"""Sounds for tests: tones, and files of them in the formats that people send."""

import asyncio
import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import av
import numpy as np

from deployments import audio
from deployments.engines import PCM
from deployments.engines.espeak import Engine, Options
from tests.engines.loading import loaded

CONTAINERS = {
    "wav": ("wav", "pcm_s16le", 22_050, "mono"),
    "wav24": ("wav", "pcm_s24le", 44_100, "stereo"),
    "mp3": ("mp3", "libmp3lame", 44_100, "stereo"),
    "ogg": ("ogg", "libopus", 48_000, "mono"),
    "flac": ("flac", "flac", 8_000, "mono"),
    "m4a": ("ipod", "aac", 44_100, "stereo"),
    "aac": ("adts", "aac", 24_000, "mono"),
    "stereo-aac": ("adts", "aac", 24_000, "stereo"),
    "mp3-24": ("mp3", "libmp3lame", 24_000, "mono"),
    "mpegts": ("mpegts", "aac", 48_000, "stereo"),
    "webm": ("webm", "libopus", 48_000, "stereo"),
}


def tone(duration_s: float, rate_hz: int = 16_000, frequency_hz: float = 440.0) -> PCM:
    """A sine of amplitude 0.3."""
    t = np.arange(int(duration_s * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * frequency_hz * t)).astype(np.float32)


def spoken(text: str, rate_hz: int = 16_000) -> PCM:
    """The text, spoken by espeak-ng. Not to be called where an event loop runs."""

    async def collect() -> list[PCM]:
        async with contextlib.aclosing(engine.speak(text)) as pieces:
            return [piece async for piece in pieces]

    with loaded(Engine(), package_folder("espeakng_loader"), Options()) as engine:
        pcm = np.concatenate(asyncio.run(collect()))
        rate = engine.sample_rate_hz
    return audio.read_sample(io.BytesIO(audio_file(pcm, rate, "wav")), rate_hz)


def package_folder(name: str) -> Path:
    """Where an installed package is."""
    spec = importlib.util.find_spec(name)
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def audio_file(pcm: PCM, rate_hz: int, kind: str = "wav") -> bytes:
    """The samples as a file of one of `CONTAINERS`."""
    container_name, codec, out_rate, layout = CONTAINERS[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container_name) as container:
        stream: Any = container.add_stream(codec, rate=out_rate, layout=layout)
        for at in range(0, len(pcm), rate_hz):
            frame = av.AudioFrame.from_ndarray(pcm[None, at : at + rate_hz].copy(), format="flt", layout="mono")
            frame.sample_rate, frame.pts = rate_hz, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def decoded(data: bytes) -> tuple[float, int, PCM]:
    """Duration in s, sample rate, and samples of a file, read by PyAV alone."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        rate = stream.rate
        to_float = av.AudioResampler(format="flt", layout="mono", rate=rate)
        frames = [out for frame in container.decode(stream) for out in to_float.resample(frame)]
    pcm = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    return len(pcm) / rate, rate, pcm
