"""Embeddings as OpenAI's and text-embeddings-inference's clients ask for them.

`/v1/embeddings`: OpenAI's contract, base64 included (the openai SDK's default); `/embed`: TEI's.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from deployments.engines import EmbedEngine, Text
from deployments.errors import BadRequest
from deployments.protocols.app import Served, json_response, post, read_json
from deployments.protocols.described import json_body

TokenIds = Annotated[list[StrictInt], Field(min_length=1)]
FORMS = "give a text, a list of texts, a list of token ids, or a list of lists of token ids"


def _in_one_sentence(value: Any, parse: ValidatorFunctionWrapHandler) -> Any:
    """One complaint for the four forms, instead of one for each."""
    try:
        return parse(value)
    except ValidationError:
        raise ValueError(FORMS) from None


Inputs = Annotated[
    StrictStr | list[StrictStr] | TokenIds | list[TokenIds], WrapValidator(_in_one_sentence), Field(description=FORMS)
]


class EmbeddingsRequest(BaseModel):
    """OpenAI's request; unknown keys are ignored, as clients of several servers send their own."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: StrictInt | None = Field(None, gt=0)
    user: str | None = None
    prompt_name: str | None = None
    """One of the model's prompts."""
    input_type: Literal["query", "document", "search_query", "search_document"] | None = None
    """Cohere's and vLLM's way to say which prompt: the query's or the document's."""
    truncate: Literal["end", "error"] | None = None
    """What becomes of an input over the model's limit; by default as the catalog says."""


class EmbedRequest(BaseModel):
    """text-embeddings-inference's `/embed`."""

    model_config = ConfigDict(extra="ignore")

    inputs: Inputs
    normalize: bool = True
    truncate: bool | None = None
    prompt_name: str | None = None
    dimensions: StrictInt | None = Field(None, gt=0)


def router(served: Served | None) -> APIRouter:
    """The routes; `served` is None for documentation only."""
    api = APIRouter(tags=["embeddings"])

    @post(api, "/v1/embeddings", served, openapi_extra=json_body(EmbeddingsRequest), summary="OpenAI embeddings")
    async def embeddings(request: Request) -> Response:
        assert served
        asked = await read_json(request, EmbeddingsRequest)
        texts = as_list(asked.input, served.settings.limits.max_inputs)
        prompt = asked.prompt_name or (asked.input_type.removeprefix("search_") if asked.input_type else None)
        async with served.engine(request) as engine:
            done = await engine.embed(
                await decoded(engine, texts), prompt=prompt, truncate=asked.truncate, dimensions=asked.dimensions
            )
        encode = to_base64 if asked.encoding_format == "base64" else list
        return json_response(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": i, "embedding": vector}
                    for i, vector in enumerate(encode(done.vectors))
                ],
                "model": asked.model or served.identity.name,
                "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
            }
        )

    @post(api, "/embed", served, openapi_extra=json_body(EmbedRequest), summary="text-embeddings-inference embeddings")
    async def embed(request: Request) -> Response:
        assert served
        asked = await read_json(request, EmbedRequest)
        texts = as_list(asked.inputs, served.settings.limits.max_inputs, "inputs")
        truncate = None if asked.truncate is None else ("end" if asked.truncate else "error")
        async with served.engine(request) as engine:
            done = await engine.embed(
                await decoded(engine, texts),
                prompt=asked.prompt_name,
                truncate=truncate,
                dimensions=asked.dimensions,
                normalize=asked.normalize,
            )
        return json_response(list(done.vectors))

    return api


def as_list(given: str | list[str] | list[int] | list[list[int]], limit: int, param: str = "input") -> list[Text]:
    """The inputs of a request, one entry each. Raises `BadRequest` for none, an empty one, or too many."""
    single = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    inputs: Sequence[Text] = [given] if single else given  # type: ignore[list-item,assignment]  # told apart just now
    if not inputs:
        raise BadRequest(f"{param} is an empty list; give at least one text", param=param)
    if len(inputs) > limit:
        raise BadRequest(f"{param} has {len(inputs)} entries; at most {limit} in one request", param=param)
    for index, one in enumerate(inputs):
        if not one:
            raise BadRequest(f"{param}[{index}] is empty", param=f"{param}[{index}]" if len(inputs) > 1 else param)
    return list(inputs)


async def decoded(engine: EmbedEngine, texts: list[Text]) -> list[Text]:
    """Token ids turned into what the engine takes; texts as they are."""
    if all(isinstance(text, str) for text in texts):
        return texts
    return await run_in_threadpool(lambda: [t if isinstance(t, str) else engine.decode_ids(t) for t in texts])


def to_base64(vectors: npt.NDArray[np.float32]) -> list[str]:
    """Each vector as base64 of its little-endian float32 bytes, as OpenAI does."""
    return [base64.b64encode(vector.tobytes()).decode("ascii") for vector in vectors.astype("<f4", copy=False)]
