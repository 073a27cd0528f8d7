"""What the tasks of speech are in KServe's protocols: audio files to texts, and texts to audio files."""

import base64
import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import StrictStr
from starlette.concurrency import run_in_threadpool

from deployments import audio, encoding
from deployments.engines import SpeakEngine, TranscribeEngine
from deployments.engines import TranscribeOptions as EngineOptions
from deployments.errors import BadRequest
from deployments.protocols.app import ClientBody
from deployments.protocols.audio import check_text
from deployments.protocols.predictions import (
    Asked,
    Prediction,
    Specs,
    bytes_array,
    filled,
    read_instances,
    spec,
    texts_of,
)
from deployments.specs import Array


class TranscribeParameters(ClientBody):
    """How audio is to be transcribed."""

    language: str | None = None
    prompt: str | None = None
    translate: bool = False


class AudioInstance(TranscribeParameters, extra="forbid"):
    """Audio in any format, as base64, and how to transcribe it: `{"b64": "..."}`."""

    b64: StrictStr


class Hearing(NamedTuple):
    """An audio file, and how to transcribe it."""

    file: bytes
    how: TranscribeParameters


class Transcribe(Prediction[Hearing, str]):
    """Audio files to their texts."""

    def specs(self, _engine: Any) -> Specs:
        return Specs([spec("audio", "BYTES", -1)], [spec("text", "BYTES", -1)])

    def of_instances(self, asked: Asked, instances: list[Any]) -> list[Hearing]:
        found, defaults = [], asked.read(TranscribeParameters)
        for index, given in enumerate(read_instances(asked, instances, AudioInstance)):
            with asked.naming(index):
                found.append(Hearing(_decoded(given.b64), filled(given, defaults)))
        return found

    def of_tensors(self, asked: Asked, tensors: Mapping[str, Array]) -> list[Hearing]:
        how = asked.read(TranscribeParameters)
        return [Hearing(file, how) for file in tensors["audio"].reshape(-1).tolist()]

    async def work(self, asked: Asked, engine: TranscribeEngine, items: Sequence[Hearing]) -> Sequence[str]:
        limit_s = asked.served.settings.limits.max_audio
        files = [io.BytesIO(item.file) for item in items]
        lengths_s = []
        for index, file in enumerate(files):
            with asked.naming(index):
                lengths_s.append(await run_in_threadpool(audio.measure, file, limit_s))
        asked.check_shares(length_s / limit_s for length_s in lengths_s)
        found = []
        for index, (file, (_, how)) in enumerate(zip(files, items, strict=True)):
            options = EngineOptions(how.language or None, how.translate, how.prompt)
            with asked.naming(index):
                async with contextlib.aclosing(engine.transcribe(audio.decode(file, limit_s), options)) as segments:
                    found.append("".join([segment.text async for segment in segments]).strip())
        return found

    def tensors(self, results: Sequence[str]) -> dict[str, Array]:
        return {"text": bytes_array(results)}


class SpeakParameters(ClientBody):
    """How a text is to be spoken."""

    voice: str | None = None
    language: str | None = None


class TextInstance(SpeakParameters, extra="forbid"):
    """A text, and how to speak it. The text alone will do in its place."""

    text: StrictStr


class Speak(Prediction[TextInstance, bytes]):
    """Texts to WAV files."""

    def specs(self, _engine: Any) -> Specs:
        return Specs([spec("text", "BYTES", -1)], [spec("audio", "BYTES", -1)])

    def of_instances(self, asked: Asked, instances: list[Any]) -> list[TextInstance]:
        defaults = asked.read(SpeakParameters)
        return [filled(given, defaults) for given in read_instances(asked, instances, TextInstance, "text")]

    def of_tensors(self, asked: Asked, tensors: Mapping[str, Array]) -> list[TextInstance]:
        how = asked.read(SpeakParameters)
        return [TextInstance(text=text, **how.model_dump()) for text in texts_of(tensors["text"])]

    async def work(self, asked: Asked, engine: SpeakEngine, items: Sequence[TextInstance]) -> Sequence[bytes]:
        limit = asked.served.settings.limits.max_characters
        for index, item in enumerate(items):
            with asked.naming(index):
                check_text(item.text, asked.served)
        asked.check_shares(len(item.text) / limit for item in items)
        made = []
        for index, item in enumerate(items):
            with asked.naming(index):
                speech = engine.speak(item.text, voice=item.voice or None, language=item.language or None)
                async with contextlib.aclosing(speech) as pieces:
                    found = [piece async for piece in pieces]
            made.append(await run_in_threadpool(encoding.whole_wav, found, engine.sample_rate_hz))
        return made

    def predictions(self, results: Sequence[bytes]) -> Sequence[object]:
        return [{"b64": base64.b64encode(result).decode("ascii")} for result in results]

    def tensors(self, results: Sequence[bytes]) -> dict[str, Array]:
        return {"audio": bytes_array(results)}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise BadRequest(f"b64 is not base64: {error}") from error
