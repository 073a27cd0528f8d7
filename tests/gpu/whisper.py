"""A Whisper as large as whisper-small, on faster-whisper.

Its weights are random, so what it writes is decided by rounding; compared are the encoder's numbers, and what the
decoder makes of them in one step: how likely each language is.
"""

import asyncio
import functools
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deployments.engines import LISTENING_RATE_HZ, PCM, TranscribeOptions
from tests.gpu.models import Arrays, Bound, Checked, Finding, Kind, within

CLIP_S = 30
ASKED = TranscribeOptions(language="en", temperature=0.01, vad=False)
"""One temperature and no search for speech: random weights fail every test that would lead to further tries."""


class Whisper(Checked):
    name = "whisper"
    engine = "faster_whisper"
    packages = ("faster_whisper", "ctranslate2")
    checkpoint = "whisper"
    memory_gib = 4
    unit = "s of audio/s"
    clients = 4
    bound: ClassVar[Bound] = "none"

    def make(self, folder: Path) -> None:
        from tests.engines.whisper_checkpoint import make_tiny_whisper, make_whisper

        if self.tiny:
            make_tiny_whisper(folder)
            return
        sides = ("encoder", "decoder")
        sizes: dict[str, float] = {"d_model": 768}
        for name, size in {"layers": 12, "attention_heads": 12, "ffn_dim": 3072}.items():
            sizes |= {f"{side}_{name}": size for side in sides}
        make_whisper(folder, seed=11, **sizes)

    def options(self, kind: Kind, on_gpu: bool) -> dict[str, Any]:
        return {"compute_type": "float16" if on_gpu and kind != "precise" else "float32"}

    async def outputs(self, engine: Any) -> Arrays:
        """The encoder's numbers `[clips, frames, width]` and the probabilities of languages `[clips, languages]`."""
        heard = [_hear(engine._model, sound(seed)) for seed in range(2)]
        encoded, languages = (np.stack(one) for one in zip(*heard, strict=True))
        return {"encoded": encoded, "languages": languages}

    def judge(self, reference: Arrays, found: Arrays, kind: Kind) -> list[Finding]:
        most = 0.01 if kind == "precise" else 0.1
        scale = reference["encoded"].std()
        apart = float(np.abs(reference["encoded"][0] - reference["encoded"][1]).max() / scale)
        encoded = float(np.abs(found["encoded"] - reference["encoded"]).max() / scale)
        languages = np.abs(found["languages"] - reference["languages"]).max() / reference["languages"].max()
        return [
            within("largest difference of the encoder's numbers, of their standard deviation,", encoded, most),
            within("largest difference of a language's probability, of the largest,", float(languages), most),
            Finding(f"different sounds are {apart:.2g} apart", apart > most),
        ]

    async def ask(self, engine: Any, done: Callable[[float], None]) -> None:
        """A clip of 30 seconds."""
        heard_s = 0.0
        async with aclosing(engine.transcribe([sound(1)], ASKED)) as segments:
            async for segment in segments:
                done(segment.end_s - heard_s)
                heard_s = segment.end_s
        done(CLIP_S - heard_s)

    async def press(self, engine: Any, turn: int) -> int:
        count = 2 if self.tiny else 16
        await asyncio.gather(*(self.ask(engine, lambda _: None) for _ in range(count)))
        return count


@functools.cache
def sound(seed: int) -> PCM:
    """Tones and noise that come and go, for `CLIP_S`."""
    chance = np.random.default_rng(seed)
    at_s = np.arange(CLIP_S * LISTENING_RATE_HZ) / LISTENING_RATE_HZ
    tones = sum(np.sin(2 * np.pi * hz * at_s) for hz in chance.uniform(100, 2000, 5))
    loudness = np.repeat(chance.uniform(0, 0.1, CLIP_S), LISTENING_RATE_HZ)
    pcm: PCM = (loudness * (tones + chance.standard_normal(len(at_s)))).astype(np.float32)
    return pcm


def _hear(model: Any, pcm: PCM) -> tuple[Any, list[float]]:
    import ctranslate2

    features = model.feature_extractor(pcm)[None, :, : model.feature_extractor.nb_max_frames]
    view = ctranslate2.StorageView.from_array(np.ascontiguousarray(features, np.float32))
    encoded = model.model.encode(view, to_cpu=True)
    (languages,) = model.model.detect_language(encoded)
    return np.array(encoded).astype(np.float32), [likely for _, likely in sorted(languages)]
