"""The replica of one model: a Ray Serve deployment that hosts an engine behind its protocols.

Joins a model's life (`deployments.life`) with its ASGI app. Nothing raises out of `reconfigure()`,
because Ray Serve would stop the replica and fail the whole application. Knows nothing of other models.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import ray
from fastapi import Request
from pydantic import ValidationError

from deployments import engines, sources
from deployments.asgi import Answer, BodyBytes, Head, run_stream, run_unary
from deployments.engines import Engine, LoadContext, Task
from deployments.errors import LoadError
from deployments.gpu import free_bytes, used_bytes
from deployments.life import Life
from deployments.protocols import ROUTERS, models
from deployments.protocols.app import ModelStatus, build_app
from deployments.settings import ModelIdentity, ModelSettings

SPARE_BYTES = 512 << 20
LOADING_PATIENCE_S = 600.0
"""How long a request waits for a model that is loading, however long its answer may take then."""


class ModelReplica:
    """One model's replica. `identity` is a dumped `ModelIdentity`; the settings come by `reconfigure()`."""

    def __init__(self, identity: dict[str, Any]) -> None:
        self.identity = ModelIdentity.model_validate(identity)
        self.settings = ModelSettings(source="")
        self._engine_class = engines.find(self.identity.engine)
        self._footprint_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        reserved = ray.get_runtime_context().get_assigned_resources()
        self._cpus, self._gpus = float(reserved.get("CPU", 0)), float(reserved.get("GPU", 0))
        self._life: Life[Engine] = Life(self.identity.name, self._load, self._fits_beside)
        task = self._engine_class.task
        self._app = build_app(
            f"{self.identity.name} ({task})",
            [
                models.server_router(self._listed, self._states, set()),
                models.router(self),
                *(make(self) for make in ROUTERS[task]),
            ],
        )

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Have the model as `user_config` (a dumped `ModelSettings`) says. Returns at once, raises nothing."""
        self._loop = asyncio.get_running_loop()
        try:
            self.settings = ModelSettings.model_validate(user_config)
        except ValidationError:
            self._life.want(user_config)  # which will fail to load, with the reason, and leave what answers
        else:
            self._life.want({"source": self.settings.source, "options": self.settings.options})

    async def unary(self, head: Head, body: BodyBytes) -> Answer:
        """One request, answered whole."""
        return await run_unary(self._app, head, body)

    async def stream(self, head: Head, body: BodyBytes) -> AsyncIterator[Answer | bytes]:
        """One request, answered as it comes."""
        async for piece in run_stream(self._app, head, body):
            yield piece

    async def check_health(self) -> None:
        """Ray Serve's health check: a model that failed to load is healthy, one that can compute no more is not."""
        engine = self._life.loaded()
        if engine is not None and not engine.alive():
            raise RuntimeError(f"what computes for {self.identity.name} died")

    async def __del__(self) -> None:
        await self._life.close()

    def engine(self, request: Request) -> AbstractAsyncContextManager[Any]:
        """The loaded engine, held for one request."""
        return self._life.use(min(request.scope["serve_app.timeout_s"], LOADING_PATIENCE_S))

    def check(self) -> None:
        """Raise `ModelUnavailable` unless a version answers."""
        self._life.check()

    def status(self) -> ModelStatus:
        """What this replica is doing now."""
        return ModelStatus(
            name=self.identity.name,
            task=self._engine_class.task,
            engine=self.identity.engine,
            state=self._life.state,
            progress=self._life.progress,
            failure=self._life.failure,
            pid=os.getpid(),
        )

    async def report(self) -> ModelStatus:
        """`status()`, for the gateway."""
        return self.status()

    def _listed(self) -> list[tuple[str, tuple[str, ...], Task, str]]:
        return [(self.identity.name, self.settings.aliases, self._engine_class.task, self.settings.note)]

    async def _states(self) -> list[ModelStatus]:
        return [self.status()]

    def dimensions(self) -> int | None:
        """Length of this model's vectors, if it makes vectors and is loaded."""
        return getattr(self._life.loaded(), "dimensions", None)

    def _load(self, wanted: dict[str, Any], progress: Callable[[str], None]) -> Engine:
        """Fetch the files and load an engine on them. Blocks; raises what `Life` turns into the reason."""
        try:
            settings = ModelSettings.model_validate(wanted)
            options = self._engine_class.options_type.model_validate(settings.options)
        except ValidationError as error:
            raise LoadError(f"these settings are not valid: {_first(error)}") from error
        path = sources.resolve(settings.source, progress)
        context = LoadContext(
            name=self.identity.name,
            cpus=self._cpus,
            gpus=self._gpus,
            max_queue=lambda: self.settings.limits.max_queue,
            progress=progress,
            loop=self._loop,
            aliases=lambda: self.settings.aliases,
        )
        before = used_bytes(self._gpus)
        engine = self._engine_class()
        engine.load(path, options, context)
        self._footprint_bytes = max(0, used_bytes(self._gpus) - before)
        return engine

    def _fits_beside(self) -> bool:
        """Whether what the last version took, and some to spare, is free."""
        return free_bytes(self._gpus, self._footprint_bytes) > self._footprint_bytes + SPARE_BYTES


def _first(error: ValidationError) -> str:
    one = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
