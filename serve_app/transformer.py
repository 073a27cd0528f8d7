"""A model's transformer in replicas of its own: all requests for the model come here, and go on to the model's.

    gateway → TransformerReplica → ModelReplica

As in the model's own process the transformer stands around the model's app (`deployments/protocols/transformed.py`);
only that this app is the way to another replica. Knows nothing of what the model does.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from ray.serve.handle import DeploymentHandle
from starlette._utils import get_route_path
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.asgi import Answer, BodyBytes, Head, run_stream, run_unary
from deployments.engines import LoadContext
from deployments.engines._transformer import Transformer
from deployments.errors import ServeAppError
from deployments.protocols.app import ModelStatus
from deployments.protocols.dialects import response
from deployments.protocols.transformed import Transformed
from deployments.replica import others_answer, reserved
from deployments.settings import ModelSettings, TransformerSettings
from deployments.transformer_life import TransformerLife
from serve_app.carry import Carrier, pack

log = logging.getLogger("serve_app")
READINESS = re.compile(r"/v1/models/.+|/v2/.+/ready")
"""What a GET asks to know whether the model is ready, which it is not without its transformer."""


class TransformerReplica:
    """The Ray Serve deployment: the transformer of `model`, to whose replicas `handle` leads. Called as theirs are."""

    def __init__(self, model: str, handle: "DeploymentHandle[Any]") -> None:
        self._cpus, self._gpus = reserved()
        self.name = model
        self.settings = ModelSettings(source="", transformer=TransformerSettings())
        self._carrier = Carrier(model, handle)
        self._life = TransformerLife(model, self._context)
        self._begun = False
        self._app: ASGIApp = Transformed(self._ask_model, self)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Have the transformer as `user_config` says: dumped `ModelSettings` by name. Returns when a model's does.

        Settings that are not valid leave the old ones in force; with none before, requests are refused.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self.settings = ModelSettings.model_validate(user_config["models"][self.name])
        except (ValidationError, KeyError):
            log.exception("these settings of the transformer of %s are not valid", self.name)
        self._life.become(self.settings)
        if not self._begun and await others_answer():
            await self._life.settled()
        self._begun = True

    def transformer(self, request: Request) -> AbstractAsyncContextManager[Transformer | None]:
        """The loaded transformer, held for one request."""
        return self._life.held(request)

    async def unary(self, head: Head, body: BodyBytes) -> Answer:
        """One request, answered whole."""
        return await run_unary(self._app, head, body)

    async def stream(self, head: Head, body: BodyBytes) -> AsyncIterator[Answer | bytes]:
        """One request, answered as it comes."""
        async for piece in run_stream(self._app, head, body):
            yield piece

    async def report(self) -> list[ModelStatus]:
        """What the model is doing now, with its transformer around it."""
        return [self._life.status(one) for one in await self._carrier.statuses() if one.name == self.name]

    async def check_health(self) -> None:
        """Ray Serve's health check: a transformer that could not be loaded is healthy, one that broke is not."""
        if not self._life.alive():
            raise RuntimeError(f"the transformer of {self.name} can go on no more")

    async def close(self) -> None:
        """Give up what it holds."""
        await self._life.close()

    async def __del__(self) -> None:
        await self.close()

    async def _ask_model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI app: the model's, wherever it runs. What cannot be carried is answered, as the model would."""
        path = get_route_path(scope)
        about = (scope["method"], path, scope["root_path"], scope["query_string"], scope["headers"])
        head = Head(*about, scope["client"], scope["serve_app.timeout_s"], self.name)
        try:
            if scope["method"] == "GET" and READINESS.fullmatch(path):
                self._life.check()
            parcel = await pack(await Request(scope, receive).body())
            await self._carrier.carry(head, parcel, send)
        except ServeAppError as error:
            await response(error, path)(scope, receive, send)

    def _context(self, progress: Callable[[str], None]) -> LoadContext:
        return LoadContext(
            name=self.name,
            cpus=self._cpus,
            gpus=self._gpus,
            max_queue=lambda: self.settings.limits.max_queue,
            progress=progress,
            loop=self._loop,
            aliases=lambda: self.settings.aliases,
        )
