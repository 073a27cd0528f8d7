"""Transcription and speech as OpenAI's clients ask for them.

`/v1/audio/transcriptions`, `/v1/audio/translations`, `/v1/audio/speech`: OpenAI's audio API, its
streams included; `/v1/audio/voices`, `/v1/audio/models`: as Open WebUI reads them.
"""

import base64
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, StrictStr
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from deployments import audio, encoding
from deployments.encoding import KINDS, SPEEDS, Encoder
from deployments.engines import PCM, Segment, SpeakEngine, TranscribeOptions
from deployments.errors import BadRequest, ServeAppError
from deployments.protocols import transcripts
from deployments.protocols.app import (
    ClientBody,
    HeldStream,
    Served,
    as_list,
    event,
    json_response,
    post,
    preceded,
    read_fields,
    read_json,
)
from deployments.protocols.described import form_body, json_body
from deployments.protocols.dialects import envelope
from deployments.protocols.transcripts import Granularity, Transcript

MAX_FIELDS = 64


class TranscriptionForm(ClientBody):
    """OpenAI's form beside its `file`."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    response_format: transcripts.Format = "json"
    temperature: float | None = Field(None, ge=0, le=1)
    """0, or nothing: 0 first, then higher ones where the text looks wrong."""
    granularities: Annotated[list[Granularity], BeforeValidator(as_list)] = Field(
        [], validation_alias=AliasChoices("timestamp_granularities[]", "timestamp_granularities")
    )
    """`word`, `segment`; shown in `verbose_json`."""
    stream: bool = False
    hotwords: str | None = None
    """Words to expect."""
    vad_filter: bool | None = None
    """Whether stretches without speech are left out; by default as the catalog says."""

    def options(self, translate: bool) -> TranscribeOptions:
        """The same as an engine takes it."""
        return TranscribeOptions(
            language=None if self.language == "auto" else self.language,
            translate=translate,
            prompt=self.prompt,
            hotwords=self.hotwords,
            temperature=self.temperature,
            words="word" in self.granularities,
            vad=self.vad_filter,
        )


class CustomVoice(BaseModel):
    """OpenAI's form of a voice that somebody added."""

    id: StrictStr


class SpeechRequest(ClientBody):
    """OpenAI's request."""

    model: str | None = None
    input: StrictStr
    voice: StrictStr | CustomVoice | None = None
    response_format: encoding.Format = "mp3"
    speed: float = Field(1.0, ge=SPEEDS[0], le=SPEEDS[1])
    stream_format: Literal["audio", "sse"] = "audio"
    language: str | None = None
    """The language of `input`, for a voice that speaks several."""

    @property
    def voice_id(self) -> str | None:
        """The voice's name, if one was given."""
        return (self.voice.id if isinstance(self.voice, CustomVoice) else self.voice) or None


class VoiceForm(ClientBody):
    """The name of a new voice, beside its `sample`."""

    name: str


def transcribe_router(served: Served | None) -> APIRouter:
    """The routes of a model that transcribes; `served` is None for documentation only."""
    api = APIRouter(tags=["audio"])

    async def answer(request: Request, translate: bool) -> Response:
        assert served
        async with contextlib.AsyncExitStack() as held:
            form = await held.enter_async_context(request.form(max_files=1, max_fields=MAX_FIELDS))
            asked = read_fields(form, TranscriptionForm)
            if asked.stream and asked.response_format in ("srt", "vtt"):
                raise BadRequest("a stream has text only; ask for json or text, or without stream", param="stream")
            upload = _file(form, "file")
            limit_s = served.settings.limits.max_audio
            duration_s = await run_in_threadpool(audio.measure, upload.file, limit_s)
            engine = await held.enter_async_context(served.engine(request))
            segments: AsyncGenerator[Segment] = await held.enter_async_context(
                contextlib.aclosing(engine.transcribe(audio.decode(upload.file, limit_s), asked.options(translate)))
            )
            if asked.stream:
                first = await anext(segments, None)  # what is wrong from the start is said with its status
                return HeldStream(held.pop_all(), _events(first, segments, duration_s), "text/event-stream")
            found = [segment async for segment in segments]
        granularities = asked.granularities or ["segment"]
        transcript = Transcript(found, duration_s, translate, asked.language, granularities)
        return transcripts.RENDER[asked.response_format](transcript)

    described = form_body(TranscriptionForm, "file")

    @post(api, "/v1/audio/transcriptions", served, openapi_extra=described, summary="OpenAI transcription")
    async def transcriptions(request: Request) -> Response:
        return await answer(request, translate=False)

    @post(api, "/v1/audio/translations", served, openapi_extra=described, summary="OpenAI translation into English")
    async def translations(request: Request) -> Response:
        return await answer(request, translate=True)

    return api


def speak_router(served: Served | None) -> APIRouter:
    """The routes of a model that speaks; `served` is None for documentation only."""
    api = APIRouter(tags=["audio"])

    @post(api, "/v1/audio/speech", served, openapi_extra=json_body(SpeechRequest), summary="OpenAI speech")
    async def speech(request: Request) -> Response:
        assert served
        asked = await read_json(request, SpeechRequest)
        check_text(asked.input, served)
        async with contextlib.AsyncExitStack() as held:
            engine: SpeakEngine = await held.enter_async_context(served.engine(request))
            pieces = engine.speak(asked.input, voice=asked.voice_id, language=asked.language or None)
            await held.enter_async_context(contextlib.aclosing(pieces))
            encoder = Encoder(asked.response_format, engine.sample_rate_hz, asked.speed)
            encoded = _encoded(pieces, encoder)
            first = await anext(encoded)
            if asked.stream_format == "sse":
                return HeldStream(held.pop_all(), _speech_events(first, encoded), "text/event-stream")
            return HeldStream(held.pop_all(), preceded(first, encoded), KINDS[asked.response_format].media_type)
        raise AssertionError  # the block above returns or raises

    @api.get("/v1/audio/voices", summary="The voices there are, as Open WebUI reads them")
    async def voices(request: Request) -> Response:
        assert served
        async with served.engine(request) as engine:
            found = await run_in_threadpool(engine.voices)
        return json_response({"voices": [voice._asdict() for voice in found]})

    @api.post("/v1/audio/voices", openapi_extra=form_body(VoiceForm, "sample"), summary="Add a voice by a sample of it")
    async def add_voice(request: Request) -> Response:
        assert served
        async with request.form(max_files=1, max_fields=MAX_FIELDS) as form, served.engine(request) as engine:
            name = read_fields(form, VoiceForm).name
            pcm = await run_in_threadpool(audio.read_sample, _file(form, "sample").file, engine.sample_rate_hz)
            voice = await engine.add_voice(name, pcm, engine.sample_rate_hz)
        return json_response(voice._asdict())

    @api.delete("/v1/audio/voices/{voice}", summary="Forget an added voice")
    async def delete_voice(request: Request, voice: str) -> Response:
        assert served
        async with served.engine(request) as engine:
            await engine.delete_voice(voice)
        return json_response({"id": voice, "deleted": True})

    @api.get("/v1/audio/models", summary="The models that speak, as Open WebUI reads them")
    async def speaking_models() -> Response:
        assert served
        names = (served.identity.name, *served.settings.aliases)
        return json_response({"models": [{"id": name, "name": name} for name in names]})

    return api


def check_text(text: str, served: Served) -> None:
    """Raise `BadRequest` for a text that cannot be spoken, or is too long."""
    limit = served.settings.limits.max_characters
    if not text.strip():
        raise BadRequest("input is empty", param="input")
    if len(text) > limit:
        raise BadRequest(
            f"input has {len(text)} characters; at most {limit} in one request (limits.max_characters)", param="input"
        )


def _file(form: FormData, name: str) -> UploadFile:
    found = form.get(name)
    if isinstance(found, UploadFile):
        return found
    sent = ", ".join(f"{key!r}" for key in form) or "no field"
    raise BadRequest(
        f"there is no file {name!r}; send one as multipart/form-data, by that name (here: {sent})", param=name
    )


async def _events(first: Segment | None, segments: AsyncGenerator[Segment], duration_s: float) -> AsyncGenerator[bytes]:
    """OpenAI's transcript events, each segment as it is found."""
    text = ""
    try:
        segment = first
        while segment is not None:
            delta = segment.text if text else segment.text.lstrip()
            text += delta
            yield event({"type": "transcript.text.delta", "delta": delta})
            segment = await anext(segments, None)
        yield event({"type": "transcript.text.done", "text": text, "usage": transcripts.usage(duration_s)})
    except ServeAppError as error:
        yield event({"type": "error", **envelope(error)})


async def _speech_events(first: bytes, encoded: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """OpenAI's speech events: base64 of the same bytes that a plain stream has."""
    try:
        async for piece in preceded(first, encoded):
            yield event({"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode("ascii")})
        yield event({"type": "speech.audio.done"})
    except ServeAppError as error:
        yield event({"type": "error", **envelope(error)})


async def _encoded(pieces: AsyncIterator[PCM], encoder: Encoder) -> AsyncGenerator[bytes]:
    """The encoded audio as it is ready; at least one piece, the last of which ends the file."""
    async for piece in pieces:
        if out := await run_in_threadpool(encoder.add, piece):
            yield out
    yield await run_in_threadpool(encoder.finish)
