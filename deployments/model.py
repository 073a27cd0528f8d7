"""One model in this process: its life (`deployments.life`) joined with its ASGI app.

Knows nothing of Ray and of other models; whoever hosts it says which share of the hardware it has.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import Request
from pydantic import ValidationError
from starlette.types import ASGIApp

from deployments import engines, explainers, heap, life, sources
from deployments.cache import ModelCache
from deployments.engines import Engine, LoadContext
from deployments.engines._ahead import await_imports
from deployments.engines._transformer import Transformer
from deployments.errors import BadRequest, LoadError, ModelFailed, ModelUnavailable
from deployments.explainers import Explainer
from deployments.gpu import free_bytes, used_bytes
from deployments.metrics import PredictTimes, TokenTimes
from deployments.protocols import KSERVE, OWN, PREDICTIONS, models
from deployments.protocols.app import ModelStatus, build_app
from deployments.protocols.explanations import no_explainer
from deployments.protocols.remembering import Remembering
from deployments.protocols.transformed import Transformed
from deployments.settings import ModelIdentity, ModelSettings
from deployments.transformer_life import LOADING_PATIENCE_S, TransformerLife

log = logging.getLogger(__name__)
SPARE_BYTES = 512 << 20


class Version(NamedTuple):
    """What is loaded: an engine, and what explains its answers, if anything does."""

    engine: Engine
    explainer: Explainer | None = None

    def alive(self) -> bool:
        """Whether both can still compute."""
        return self.engine.alive() and (self.explainer is None or self.explainer.alive())

    def close(self) -> None:
        """Stop computing, and give the memory back."""
        try:
            if self.explainer:
                self.explainer.close()
        finally:
            self.engine.close()


class _Ready:
    """`async with` the engine of a version that is there, held. A generator would take longer than some models do."""

    def __init__(self, held: life.Version[Version]) -> None:
        self._held = held

    async def __aenter__(self) -> Engine:
        return self._held.__enter__().engine

    async def __aexit__(self, *_: object) -> None:
        self._held.__exit__()


class Model:
    """A model that loads, answers through `app`, and says what it is doing.

    `cpus` and `gpus` are what its host has reserved for it. The settings come by `configure()`. One with a
    `cache` is loaded when a request asks for it; without, always.
    """

    def __init__(self, identity: ModelIdentity, cpus: float, gpus: float, cache: ModelCache | None = None) -> None:
        self.identity = identity
        self.name = identity.name
        self.file_bytes = 0
        self._cache = cache
        self._wanted: dict[str, Any] = {}
        self._why_not: ModelFailed | None = None
        self.settings = ModelSettings(source="")
        self._engine_class = engines.find(identity.engine)
        self._cpus, self._gpus = cpus, gpus
        self._footprint_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: life.Life[Version] = life.Life(
            identity.name, self._load, self._fits_beside, heap.tidy if cache is None else lambda: None
        )
        self._around = TransformerLife(identity.name, self._context)
        self.times = PredictTimes(identity.name)
        task = self._engine_class.task
        routers = [
            *(make(self) for make in KSERVE[task]),
            models.server_router(self._listed, self._states, set()),
            models.router(PREDICTIONS[task], self),
            *(make(self) for make in OWN[task]),
        ]
        self.app: ASGIApp = Transformed(Remembering(build_app(f"{identity.name} ({task})", routers)), self)
        """What answers every request for this model."""
        self.streaming_app = TokenTimes(identity.name).measured(self.app) if task == "generate" else self.app
        """The same, for requests that are answered as streams."""

    def configure(self, user_config: dict[str, Any]) -> None:
        """Have the model as `user_config` (a dumped `ModelSettings`) says. Returns at once, raises nothing."""
        self._loop = asyncio.get_running_loop()
        try:
            self.settings = ModelSettings.model_validate(user_config)
        except ValidationError:
            self._wanted = user_config  # which will fail to load, with the reason, and leave what answers
        else:
            explainer = self.settings.explainer
            self._wanted = {"source": self.settings.source, "options": self.settings.options}
            self._wanted |= {"explainer": explainer.model_dump()} if explainer else {}
            self._around.become(self.settings)
        self._why_not = None
        if self._cache is None or self._cache.holds(self):
            self.load()

    def load(self) -> None:
        """Begin to load what was configured."""
        self._life.want(self._wanted)

    async def settled(self) -> None:
        """Wait until it is loaded or could not be, if it is on its way."""
        await self._life.settled()
        await self._around.settled()

    async def unload(self) -> None:
        """Give the memory back once no request uses it."""
        await self._life.unload()

    async def measure(self) -> None:
        """Learn the size of its files, where they are on this machine."""
        if not self.file_bytes:
            self.file_bytes = await asyncio.to_thread(sources.local_bytes, self.settings.source)

    def failed(self) -> bool:
        """Whether it could not be loaded."""
        return self._life.state == "failed"

    async def release(self, request: Request) -> None:
        """Have it unloaded because a client says so, once no request uses it.

        Raises `BadRequest` for one that is always loaded, `ModelUnavailable` where that takes longer than the request.
        """
        if self._cache is None:
            raise BadRequest(f"{self.name} is always loaded; with `load: on-demand` in the catalog it can be unloaded")
        try:
            async with asyncio.timeout(request.scope["serve_app.timeout_s"]):
                await self._cache.drop(self)
        except TimeoutError:
            raise ModelUnavailable(f"{self.name} is in use; it is unloaded when it is not", retry_after_s=5) from None

    async def close(self) -> None:
        """Stop loading, and give the memory back."""
        await self._life.close()
        await self._around.close()

    def alive(self) -> bool:
        """Whether it can still compute, or never could: a model that failed to load is no reason for a new process."""
        version = self._life.loaded()
        return (version is None or version.alive()) and self._around.alive()

    async def revive(self) -> None:
        """Have it loaded anew where it shares its process with others, which are not to be ended for it."""
        log.error("%s: what computes for it died; it is loaded anew", self.name)
        await self.unload()
        if self._cache is None or self._cache.holds(self):
            self.load()

    def engine(self, request: Request) -> AbstractAsyncContextManager[Any]:
        """The loaded engine, held for one request."""
        ready = self._life.held() if self._cache is None else None
        if ready is None:
            return self._awaited(request)
        self._why_not = None
        return _Ready(ready)

    @contextlib.asynccontextmanager
    async def _awaited(self, request: Request) -> AsyncIterator[Any]:
        async with self._version(request) as version:
            yield version.engine

    @contextlib.asynccontextmanager
    async def explained(self, request: Request) -> AsyncIterator[tuple[Any, Explainer]]:
        """The loaded engine and its explainer, held for one request. Raises `NotImplementedHere` where it has none."""
        if self.settings.explainer is None:
            raise no_explainer(self.name)
        async with self._version(request) as version:
            if version.explainer is None:  # an older version answers
                raise no_explainer(self.name)
            yield version.engine, version.explainer

    @contextlib.asynccontextmanager
    async def _version(self, request: Request) -> AsyncIterator[Version]:
        give_up_s = time.monotonic() + min(request.scope["serve_app.timeout_s"], LOADING_PATIENCE_S)
        async with self._cache.hold(self, give_up_s - time.monotonic()) if self._cache else contextlib.nullcontext():
            try:
                ready = await self._life.ready(give_up_s - time.monotonic())
            except ModelFailed as error:
                self._why_not = error
                raise
            self._why_not = None
            with ready as version:
                yield version

    def transformer(self, request: Request) -> AbstractAsyncContextManager[Transformer | None]:
        """The loaded transformer, held for one request; None where the settings have none."""
        return self._around.held(request)

    def check(self) -> None:
        """Raise `ModelUnavailable` unless a version answers, or will be loaded for the next request."""
        self._around.check()
        if self._cache is None or self._life.state != "unloaded":
            self._life.check()
        elif self._why_not:
            raise self._why_not

    def status(self) -> ModelStatus:
        """What it is doing now; of its transformer, while that is what it waits for."""
        state = "failed" if self._why_not and self._life.state == "unloaded" else self._life.state
        status = ModelStatus(
            name=self.identity.name,
            task=self._engine_class.task,
            engine=self.identity.engine,
            state=state,
            progress=self._life.progress,
            failure=self._life.failure or (self._why_not.message if self._why_not else None),
            pid=os.getpid(),
            adapters=self.adapters(),
            version=self.settings.version,
            stats=models.stats_of(self),
        )
        return self._around.status(status)

    def loaded(self) -> Engine | None:
        """The engine, if one answers now."""
        version = self._life.loaded()
        return version.engine if version else None

    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that the engine has, if it has such."""
        return tuple(getattr(self.loaded(), "adapters", tuple)())

    async def _listed(self) -> list[models.Listing]:
        task, note = self._engine_class.task, self.settings.note
        return [models.Listing(self.identity.name, self.settings.aliases, task, note, self.adapters())]

    async def _states(self) -> list[ModelStatus]:
        return [self.status()]

    def _load(self, wanted: dict[str, Any], progress: Callable[[str], None]) -> Version:
        """Fetch the files, and load an engine and its explainer on them. Blocks; what it raises is the reason."""
        await_imports()
        try:
            settings = ModelSettings.model_validate(wanted)
            options = self._engine_class.options_type.model_validate(settings.options)
        except ValidationError as error:
            raise LoadError(f"these settings are not valid: {_first(error)}") from error
        path = sources.resolve(settings.source, progress)
        if self._cache:
            self.file_bytes = sources.size_bytes(path)
        context = self._context(progress)
        before, began_s = used_bytes(self._gpus), time.monotonic()
        engine = self._engine_class()
        engine.load(path, options, context)
        version = Version(engine, self._explainer(settings, engine, path, context))
        self._footprint_bytes = max(0, used_bytes(self._gpus) - before)
        self.times.loaded(time.monotonic() - began_s)
        return version

    def _explainer(self, settings: ModelSettings, engine: Engine, path: Path, context: LoadContext) -> Explainer | None:
        if settings.explainer is None:
            return None
        try:
            return explainers.load(settings.explainer, engine, path, context)
        except BaseException:
            engine.close()
            raise

    def _context(self, progress: Callable[[str], None]) -> LoadContext:
        return LoadContext(
            name=self.identity.name,
            cpus=self._cpus,
            gpus=self._gpus,
            max_queue=lambda: self.settings.limits.max_queue,
            progress=progress,
            loop=self._loop,
            aliases=lambda: self.settings.aliases,
        )

    def _fits_beside(self) -> bool:
        """Whether what the last version took, and some to spare, is free."""
        return free_bytes(self._gpus, self._footprint_bytes) > self._footprint_bytes + SPARE_BYTES


def _first(error: ValidationError) -> str:
    one = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
