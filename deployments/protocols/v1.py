"""KServe's V1 predict protocol, for the tasks that have it: `{"instances": [...]}` in, `{"predictions": [...]}` out.

Contract: KServe V1 (`POST /v1/models/{model}:predict`); bytes are `{"b64": "..."}`, as TensorFlow Serving writes them.
"""

import base64
import contextlib
import io
from collections.abc import Awaitable, Callable, Iterator
from typing import IO, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from deployments import audio, encoding
from deployments.engines import GenerateEngine, SpeakEngine, TranscribeEngine, TranscribeOptions
from deployments.errors import BadRequest
from deployments.protocols.app import ClientBody, Served, check_name, explain, json_body, json_response, read_json
from deployments.protocols.audio import check_text
from deployments.protocols.v2_generate import GenerateRequest, whole

MAX_PROMPTS = 64
"""Prompts in one V1 request."""

Prepare = Callable[[Served, str, Any], Awaitable[tuple[Any, float]]]
"""An instance as it is given to the model of that name, to what is predicted from, and its share of what one request
may ask for."""
Predict = Callable[[Any, Any], Awaitable[object]]
"""What was prepared, by a model's engine, to its prediction."""


class PredictRequest(ClientBody):
    """V1's body; keys beside `instances` are ignored."""

    instances: list[Any]


class AudioInstance(BaseModel):
    """Audio in any format, as base64, and how to transcribe it."""

    model_config = ConfigDict(extra="forbid")

    b64: StrictStr
    language: str | None = None
    prompt: str | None = None
    translate: bool = False


class TextInstance(BaseModel):
    """A text, and how to speak it. The text alone will do in its place."""

    model_config = ConfigDict(extra="forbid")

    text: StrictStr
    voice: str | None = None
    language: str | None = None


async def read_audio(
    served: Served, _model: str, given: Any
) -> tuple[tuple[IO[bytes], TranscribeOptions, float], float]:
    """An audio file, measured; its share is that of `limits.max_audio`."""
    if not isinstance(given, dict):
        raise BadRequest('an instance is {"b64": "<base64 of an audio file>"}')
    instance = AudioInstance.model_validate(given)
    try:
        file = io.BytesIO(base64.b64decode(instance.b64, validate=True))
    except ValueError as error:
        raise BadRequest(f"b64 is not base64: {error}") from error
    limit_s = served.settings.limits.max_audio
    duration_s = await run_in_threadpool(audio.measure, file, limit_s)
    options = TranscribeOptions(instance.language or None, instance.translate, instance.prompt)
    return (file, options, limit_s), duration_s / limit_s


async def transcribe(engine: TranscribeEngine, prepared: tuple[IO[bytes], TranscribeOptions, float]) -> str:
    """Audio to its text."""
    file, options, limit_s = prepared
    async with contextlib.aclosing(engine.transcribe(audio.decode(file, limit_s), options)) as segments:
        return "".join([segment.text async for segment in segments]).strip()


async def read_text(served: Served, _model: str, given: Any) -> tuple[TextInstance, float]:
    """A text; its share is that of `limits.max_characters`."""
    instance = TextInstance.model_validate({"text": given} if isinstance(given, str) else given)
    check_text(instance.text, served)
    return instance, len(instance.text) / served.settings.limits.max_characters


async def speak(engine: SpeakEngine, instance: TextInstance) -> dict[str, str]:
    """A text to a WAV file."""
    speech = engine.speak(instance.text, voice=instance.voice or None, language=instance.language or None)
    async with contextlib.aclosing(speech) as pieces:
        found = [piece async for piece in pieces]
    wav = await run_in_threadpool(encoding.whole_wav, found, engine.sample_rate_hz)
    return {"b64": base64.b64encode(wav).decode("ascii")}


async def read_prompt(_served: Served, model: str, given: Any) -> tuple[tuple[str, GenerateRequest], float]:
    """A prompt, alone or with parameters, with the model's name; its share is that of all that there may be."""
    instance = GenerateRequest.model_validate({"text_input": given} if isinstance(given, str) else given)
    return (model, instance), 1 / MAX_PROMPTS


async def generate(engine: GenerateEngine, prepared: tuple[str, GenerateRequest]) -> str:
    """A prompt to the text that continues it."""
    model, instance = prepared
    return await whole(engine, instance.text_input, instance.parameters.options(), model)


def generate_router(served: Served | None) -> APIRouter:
    """`:predict` of a model that generates text."""
    return _router(served, read_prompt, generate)


def transcribe_router(served: Served | None) -> APIRouter:
    """`:predict` of a model that transcribes."""
    return _router(served, read_audio, transcribe)


def speak_router(served: Served | None) -> APIRouter:
    """`:predict` of a model that speaks."""
    return _router(served, read_text, speak)


def _router(served: Served | None, prepare: Prepare, predict: Predict) -> APIRouter:
    api = APIRouter(tags=["model"])

    @api.post("/v1/models/{model:path}:predict", openapi_extra=json_body(PredictRequest), summary="KServe V1 predict")
    async def predict_v1(request: Request, model: str) -> Response:
        found = check_name(served, model)
        instances = (await read_json(request, PredictRequest)).instances
        limit = found.settings.limits.max_inputs
        if not 1 <= len(instances) <= limit:
            raise BadRequest(f"instances has {len(instances)} entries; 1 to {limit} in one request", param="instances")
        prepared, shares = [], 0.0
        for index, instance in enumerate(instances):
            with _naming(index):
                one, share = await prepare(found, model, instance)
                prepared.append(one)
                shares += share
                if shares > 1:
                    raise BadRequest("with those before it, it is more than one request may ask for (limits)")
        predictions = []
        async with found.engine(request) as engine:
            for index, one in enumerate(prepared):
                with _naming(index):
                    predictions.append(await predict(engine, one))
        return json_response({"predictions": predictions})

    return api


@contextlib.contextmanager
def _naming(index: int) -> Iterator[None]:
    """A refusal within the block names its instance."""
    try:
        yield
    except ValidationError as error:
        raise BadRequest(f"instances[{index}]: {explain(error).message}", param="instances") from None
    except BadRequest as error:
        raise BadRequest(f"instances[{index}]: {error.message}", param="instances") from error
