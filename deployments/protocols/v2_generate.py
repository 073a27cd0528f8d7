"""The Open Inference Protocol's generate extension: `/v2/models/{model}/generate` and `/generate_stream`.

Contract: KServe's generate extension (`text_input` and `parameters` in, `text_output` out; a stream is
server-sent events, each with a piece of the text).
"""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, Field, StrictStr
from starlette.responses import Response

from deployments.engines import Generated, GenerateEngine, GenerateOptions
from deployments.errors import ServeAppError
from deployments.protocols.app import (
    ClientBody,
    HeldStream,
    Served,
    as_list,
    check_name,
    event,
    json_response,
    post,
    preceded,
    read_json,
)
from deployments.protocols.described import json_body


class GenerateParameters(ClientBody):
    """What `parameters` may have; others are ignored."""

    max_tokens: int | None = Field(None, gt=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: Annotated[list[StrictStr], BeforeValidator(as_list)] = Field([])

    def options(self) -> GenerateOptions:
        """The same as an engine takes it."""
        stop = tuple(one for one in self.stop if one)
        return GenerateOptions(self.max_tokens, self.temperature, self.top_p, self.seed, stop)


class GenerateRequest(ClientBody):
    """The extension's body."""

    id: str | None = None
    text_input: StrictStr
    parameters: GenerateParameters = GenerateParameters()


def router(served: Served | None) -> APIRouter:
    """The routes; `served` is None for documentation only."""
    api = APIRouter(tags=["model"])

    described: dict[str, Any] = {"openapi_extra": json_body(GenerateRequest)}

    @post(api, "/v2/models/{model:path}/generate", served, summary="Open Inference generate", **described)
    async def generate(request: Request) -> Response:
        model = request.path_params["model"]
        found = check_name(served, model)
        asked = await read_json(request, GenerateRequest)
        async with found.engine(request) as engine:
            text = await whole(engine, asked.text_input, asked.parameters.options(), model)
        return json_response(_named(model, asked) | {"text_output": text})

    @post(
        api, "/v2/models/{model:path}/generate_stream", served, summary="Open Inference generate, streamed", **described
    )
    async def generate_stream(request: Request) -> Response:
        model = request.path_params["model"]
        found = check_name(served, model)
        asked = await read_json(request, GenerateRequest)
        async with contextlib.AsyncExitStack() as held:
            engine: GenerateEngine = await held.enter_async_context(found.engine(request))
            pieces = engine.generate(asked.text_input, of_adapter(engine, asked.parameters.options(), model))
            await held.enter_async_context(contextlib.aclosing(pieces))
            begun = preceded(await anext(pieces), pieces)
            return HeldStream(held.pop_all(), _events(_named(model, asked), begun), "text/event-stream")
        raise AssertionError  # the block above returns or raises

    return api


async def whole(engine: GenerateEngine, prompt: str, asked: GenerateOptions, model: str) -> str:
    """The text with which the model of that name continues a prompt, in one."""
    async with contextlib.aclosing(engine.generate(prompt, of_adapter(engine, asked, model))) as pieces:
        return "".join([piece.text async for piece in pieces])


def of_adapter(engine: GenerateEngine, asked: GenerateOptions, model: str) -> GenerateOptions:
    """The options with the adapter in them, where `model` names one."""
    return replace(asked, adapter=model) if model in engine.adapters() else asked


def _named(model: str, asked: GenerateRequest) -> dict[str, object]:
    named: dict[str, object] = {"model_name": model, "model_version": None}
    return named | ({"id": asked.id} if asked.id else {})


async def _events(named: dict[str, object], pieces: AsyncGenerator[Generated]) -> AsyncGenerator[bytes]:
    try:
        async for piece in pieces:
            yield event(named | {"text_output": piece.text})
    except ServeAppError as error:
        yield event({"error": error.message})
