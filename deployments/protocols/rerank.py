"""Reranking as Jina's, Cohere's and text-embeddings-inference's clients ask for it.

`/v1/rerank` (Jina, Cohere v1, Open WebUI, Dify), `/v2/rerank` (Cohere v2), `/rerank` (TEI).
"""

import uuid
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.responses import Response

from deployments.errors import BadRequest
from deployments.protocols.app import Served, json_response, post, read_json
from deployments.protocols.described import json_body


class RerankRequest(BaseModel):
    """Jina's and Cohere's request; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    query: StrictStr
    documents: list[StrictStr | dict[str, Any]]
    top_n: StrictInt | None = Field(None, gt=0)
    return_documents: bool | None = Field(None, description="by default true on /v1/rerank, false on /v2/rerank")
    rank_fields: list[str] | None = None
    truncate: Literal["end", "error"] | None = Field(None, description="what becomes of a pair over the model's limit")


class TeiRerankRequest(BaseModel):
    """text-embeddings-inference's `/rerank`."""

    model_config = ConfigDict(extra="ignore")

    query: StrictStr
    texts: list[StrictStr]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None


def router(served: Served | None) -> APIRouter:
    """The routes; `served` is None for documentation only."""
    api = APIRouter(tags=["rerank"])

    async def answer(request: Request, return_documents: bool) -> Response:
        assert served
        asked = await read_json(request, RerankRequest)
        texts = [_text(one, asked.rank_fields, i) for i, one in enumerate(asked.documents)]
        check_pairs(asked.query, texts, served.settings.limits.max_inputs, "documents")
        async with served.engine(request) as engine:
            done = await engine.rerank(asked.query, texts, truncate=asked.truncate)
        best = np.argsort(-done.scores, kind="stable")[: asked.top_n]
        with_text = return_documents if asked.return_documents is None else asked.return_documents
        results: list[dict[str, Any]] = [{"index": int(i), "relevance_score": float(done.scores[i])} for i in best]
        if with_text:
            results = [one | {"document": _document(asked.documents[int(one["index"])])} for one in results]
        return json_response(
            {
                "id": f"rerank-{uuid.uuid4().hex}",
                "model": asked.model or served.identity.name,
                "results": results,
                "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
                "usage": {"prompt_tokens": done.tokens, "total_tokens": done.tokens},
            }
        )

    @post(api, "/v1/rerank", served, openapi_extra=json_body(RerankRequest), summary="Jina and Cohere v1 rerank")
    async def rerank_v1(request: Request) -> Response:
        return await answer(request, return_documents=True)

    @post(api, "/v2/rerank", served, openapi_extra=json_body(RerankRequest), summary="Cohere v2 rerank")
    async def rerank_v2(request: Request) -> Response:
        return await answer(request, return_documents=False)

    @post(api, "/rerank", served, openapi_extra=json_body(TeiRerankRequest), summary="text-embeddings-inference rerank")
    async def rerank_tei(request: Request) -> Response:
        assert served
        asked = await read_json(request, TeiRerankRequest)
        check_pairs(asked.query, asked.texts, served.settings.limits.max_inputs, "texts")
        truncate = None if asked.truncate is None else ("end" if asked.truncate else "error")
        async with served.engine(request) as engine:
            done = await engine.rerank(asked.query, asked.texts, truncate=truncate)
        scores = done.logits if asked.raw_scores else done.scores
        best = np.argsort(-done.scores, kind="stable")
        text = {int(i): {"text": asked.texts[int(i)]} if asked.return_text else {} for i in best}
        return json_response([{"index": int(i), "score": float(scores[i]), **text[int(i)]} for i in best])

    return api


def _text(document: str | dict[str, Any], fields: list[str] | None, index: int) -> str:
    """What is read of a document: itself, its `text`, or the fields that Cohere's `rank_fields` names."""
    if isinstance(document, str):
        return document
    found = [document.get(field) for field in fields or ["text"]]
    if not found or not all(isinstance(value, str) for value in found):
        raise BadRequest(f"documents[{index}] has no text under {', '.join(fields or ['text'])}", param="documents")
    return "\n".join(str(value) for value in found)


def _document(document: str | dict[str, Any]) -> dict[str, Any]:
    return {"text": document} if isinstance(document, str) else document


def check_pairs(query: str, texts: list[str], limit: int, param: str) -> None:
    """Raise `BadRequest` for what cannot be ranked: an empty query, no texts, or more than `limit`."""
    if not query.strip():
        raise BadRequest("query is empty", param="query")
    if not texts:
        raise BadRequest(f"{param} is an empty list; give at least one", param=param)
    if len(texts) > limit:
        raise BadRequest(f"{param} has {len(texts)} entries; at most {limit} in one request", param=param)
