"""KServe's V1 predict protocol, for the tasks that have it: `{"instances": [...]}` in, `{"predictions": [...]}` out.

Contract: KServe V1 (`POST /v1/models/{model}:predict`); bytes are `{"b64": "..."}`, as TensorFlow Serving writes them.
"""

import base64
import binascii
import contextlib
import io
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from deployments import audio, encoding
from deployments.engines import SpeakEngine, TranscribeEngine, TranscribeOptions
from deployments.errors import BadRequest, ModelNotFound
from deployments.protocols.app import Served, explain, json_body, json_response, read_json
from deployments.protocols.audio import check_text

Predict = Callable[[Served, Any, Any], Awaitable[object]]
"""One instance, for a model and its engine, to its prediction."""


class PredictRequest(BaseModel):
    """V1's body; keys beside `instances` are ignored."""

    model_config = ConfigDict(extra="ignore")

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


async def transcribe(served: Served, engine: TranscribeEngine, given: Any) -> str:
    """Audio to its text."""
    instance = AudioInstance.model_validate(given)
    try:
        file = io.BytesIO(base64.b64decode(instance.b64, validate=True))
    except binascii.Error as error:
        raise BadRequest(f"b64 is not base64: {error}") from error
    limit_s = served.settings.limits.max_audio
    await run_in_threadpool(audio.measure, file, limit_s)
    options = TranscribeOptions(instance.language, instance.translate, instance.prompt)
    async with contextlib.aclosing(engine.transcribe(audio.decode(file, limit_s), options)) as segments:
        return "".join([segment.text async for segment in segments]).strip()


async def speak(served: Served, engine: SpeakEngine, given: Any) -> dict[str, str]:
    """A text to a WAV file."""
    instance = TextInstance.model_validate({"text": given} if isinstance(given, str) else given)
    check_text(instance.text, served)
    async with contextlib.aclosing(
        engine.speak(instance.text, voice=instance.voice, language=instance.language)
    ) as pieces:
        found = [piece async for piece in pieces]
    wav = await run_in_threadpool(encoding.whole_wav, found, engine.sample_rate_hz)
    return {"b64": base64.b64encode(wav).decode("ascii")}


def transcribe_router(served: Served | None) -> APIRouter:
    """`:predict` of a model that transcribes."""
    return _router(served, transcribe)


def speak_router(served: Served | None) -> APIRouter:
    """`:predict` of a model that speaks."""
    return _router(served, speak)


def _router(served: Served | None, predict: Predict) -> APIRouter:
    api = APIRouter(tags=["model"])

    @api.post("/v1/models/{model:path}:predict", openapi_extra=json_body(PredictRequest), summary="KServe V1 predict")
    async def predict_v1(request: Request, model: str) -> Response:
        assert served
        if model not in (served.identity.name, *served.settings.aliases):
            raise ModelNotFound.named(model, [served.identity.name])
        instances = (await read_json(request, PredictRequest)).instances
        limit = served.settings.limits.max_inputs
        if not 1 <= len(instances) <= limit:
            raise BadRequest(f"instances has {len(instances)} entries; 1 to {limit} in one request", param="instances")
        async with served.engine(request) as engine:
            predictions = [await _one(predict, served, engine, i, one) for i, one in enumerate(instances)]
        return json_response({"predictions": predictions})

    return api


async def _one(predict: Predict, served: Served, engine: Any, index: int, instance: Any) -> object:
    """One prediction; a refusal names its instance."""
    try:
        return await predict(served, engine, instance)
    except ValidationError as error:
        raise BadRequest(f"instances[{index}]: {explain(error).message}", param="instances") from None
    except BadRequest as error:
        raise BadRequest(f"instances[{index}]: {error.message}", param="instances") from error
