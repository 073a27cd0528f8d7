"""Text generation as OpenAI's clients ask for it: an engine's own app as it is, or chat and completions of our own.

An engine with an app of its own (vLLM's) answers every path here itself, what is not listed included.
For the others `/v1/chat/completions` and `/v1/completions` follow OpenAI's contract.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StrictStr
from starlette.responses import Response

from deployments.engines import Generated, GenerateEngine, Message
from deployments.errors import ServeAppError
from deployments.protocols.app import (
    ClientBody,
    HeldStream,
    Served,
    event,
    json_response,
    post,
    preceded,
    read_json,
)
from deployments.protocols.described import json_body
from deployments.protocols.dialects import envelope
from deployments.protocols.hosted import Hosted, check_limits
from deployments.protocols.v2_generate import GenerateParameters

OF_AN_APP = (
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
)
"""Endpoints at the root that only an engine's own app has; under the model's prefix it has all of its own."""
GENERATING = ("/v1/responses", "/v1/messages")
"""Those of them that generate."""


class StreamOptions(ClientBody):
    include_usage: bool = False


class Sampling(GenerateParameters):
    """What chat and completion requests have in common."""

    model: str | None = None
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(ClientBody):
    """A message; this engine reads text only."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: StrictStr | list[TextPart] | None = None

    def plain(self) -> Message:
        """The message with its text in one string."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return Message("system" if self.role == "developer" else self.role, text)


class ChatRequest(Sampling):
    """OpenAI's `/v1/chat/completions`, for text."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, gt=0)


class CompletionRequest(Sampling):
    """OpenAI's `/v1/completions`."""

    prompt: StrictStr | list[StrictStr] = Field(min_length=1)
    max_tokens: int | None = Field(16, gt=0)


def router(served: Served | None) -> APIRouter:
    """The routes; `served` is None for documentation only."""
    api = APIRouter(tags=["generate"])

    async def answer(request: Request, shape: type[ChatRequest] | type[CompletionRequest]) -> Response:
        assert served
        async with contextlib.AsyncExitStack() as held:
            engine: GenerateEngine = await held.enter_async_context(served.engine(request))
            if engine.app is not None:
                return Hosted(served, request, generates=True)
            asked = await read_json(request, shape)
            check_limits(await request.body(), served.settings.limits)
            work = _Work(asked, asked.model or served.identity.name, engine)
            if not asked.stream:
                return json_response(await work.whole())
            await held.enter_async_context(contextlib.aclosing(work.pieces))
            begun = preceded(await anext(work.pieces), work.pieces)
            return HeldStream(held.pop_all(), work.events(begun), "text/event-stream")
        raise AssertionError  # the block above returns or raises

    @post(api, "/v1/chat/completions", served, openapi_extra=json_body(ChatRequest), summary="OpenAI chat")
    async def chat(request: Request) -> Response:
        return await answer(request, ChatRequest)

    @post(api, "/v1/completions", served, openapi_extra=json_body(CompletionRequest), summary="OpenAI completions")
    async def completions(request: Request) -> Response:
        return await answer(request, CompletionRequest)

    async def hosted(request: Request) -> Response:
        assert served
        return Hosted(served, request, generates=request.url.path.endswith(GENERATING))

    for path in OF_AN_APP:
        post(api, path, served, summary=f"{path}, as vLLM answers it")(hosted)
    return api


class _Work:
    """One request's prompts and choices, computed together, in OpenAI's shapes."""

    def __init__(self, asked: ChatRequest | CompletionRequest, model: str, engine: GenerateEngine) -> None:
        self._chat = isinstance(asked, ChatRequest)
        self._asked, self._model, self._engine = asked, model, engine
        self._id = f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self.pieces = _together([self._generate(prompt, i) for i, prompt in enumerate(self._prompts())])

    def _prompts(self) -> list[str | Sequence[Message]]:
        """A prompt for each choice: the choices of each prompt follow one another."""
        asked = self._asked
        if isinstance(asked, ChatRequest):
            given: list[str | Sequence[Message]] = [[message.plain() for message in asked.messages]]
        else:
            given = [asked.prompt] if isinstance(asked.prompt, str) else list(asked.prompt)
        return [prompt for prompt in given for _ in range(asked.n)]

    def _generate(self, prompt: str | Sequence[Message], choice: int) -> AsyncGenerator[Generated]:
        options = self._asked.options()
        if isinstance(self._asked, ChatRequest) and self._asked.max_completion_tokens:
            options = replace(options, max_tokens=self._asked.max_completion_tokens)
        if options.seed is not None:
            options = replace(options, seed=options.seed + choice % self._asked.n)
        return self._engine.generate(prompt, options)

    async def whole(self) -> dict[str, Any]:
        """The answer in one."""
        texts: dict[int, str] = {}
        last: dict[int, Generated] = {}
        async with contextlib.aclosing(self.pieces):
            async for choice, piece in self.pieces:
                texts[choice] = texts.get(choice, "") + piece.text
                last[choice] = piece
        choices = [self._choice(i, texts[i], last[i].finish_reason) for i in sorted(texts)]
        kind = "chat.completion" if self._chat else "text_completion"
        return self._envelope(kind) | {"choices": choices, "usage": self._usage(last)}

    async def events(self, pieces: AsyncIterator[tuple[int, Generated]]) -> AsyncGenerator[bytes]:
        """The answer as server-sent events."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        last: dict[int, Generated] = {}
        try:
            async for choice, piece in pieces:
                if self._chat and choice not in last:
                    yield self._event(kind, [_delta(choice, {"role": "assistant", "content": ""}, None)])
                last[choice] = piece
                if piece.text or piece.finish_reason:
                    yield self._event(kind, [self._part(choice, piece)])
            if self._asked.stream_options.include_usage:
                yield self._event(kind, [], usage=self._usage(last))
        except ServeAppError as error:
            yield event(envelope(error))
        yield b"data: [DONE]\n\n"

    def _part(self, choice: int, piece: Generated) -> dict[str, Any]:
        if self._chat:
            return _delta(choice, {"content": piece.text} if piece.text else {}, piece.finish_reason)
        return self._choice(choice, piece.text, piece.finish_reason)

    def _choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
        return {"index": index, **said, "logprobs": None, "finish_reason": finish_reason}

    def _usage(self, last: dict[int, Generated]) -> dict[str, int]:
        prompt = sum(piece.prompt_tokens for i, piece in last.items() if i % self._asked.n == 0)
        completion = sum(piece.completion_tokens for piece in last.values())
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _event(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return event(self._envelope(kind) | {"choices": choices, **more})


def _delta(index: int, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


async def _together(generations: list[AsyncGenerator[Generated]]) -> AsyncGenerator[tuple[int, Generated]]:
    """The pieces of several generations, each with its index, as they come. The first error ends them all."""
    queue: asyncio.Queue[tuple[int, Generated | Exception | None]] = asyncio.Queue()

    async def run(index: int, pieces: AsyncGenerator[Generated]) -> None:
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    queue.put_nowait((index, piece))
        except Exception as error:
            queue.put_nowait((index, error))
        else:
            queue.put_nowait((index, None))

    tasks = [asyncio.create_task(run(index, pieces)) for index, pieces in enumerate(generations)]
    try:
        left = len(tasks)
        while left:
            index, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield index, piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
