"""A model's transformer in this process: loaded as the model's settings say, held for each request.

Whoever hosts it may be the model's process or one of its own. Knows nothing of Ray, of the model and of what is asked.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable

from fastapi import Request

from deployments import sources
from deployments.engines import LoadContext
from deployments.engines._ahead import await_imports
from deployments.engines._transformer import Transformer
from deployments.errors import LoadError
from deployments.life import Life
from deployments.protocols.app import ModelStatus
from deployments.settings import ModelSettings, TransformerSettings

LOADING_PATIENCE_S = 600.0
"""How long a request waits for what is loading, however long its answer may take then."""


class TransformerLife:
    """The transformer of the model `name`, or none where the settings have none.

    `context(progress)` makes what the class is loaded with.
    """

    def __init__(self, name: str, context: Callable[[Callable[[str], None]], LoadContext]) -> None:
        self._context = context
        self._life: Life[Transformer] = Life(name, self._load, lambda: True)
        self._wanted = False
        self._leaving: asyncio.Task[None] | None = None

    def become(self, settings: ModelSettings) -> None:
        """Have it as these say. Returns at once."""
        self._wanted = settings.transformer is not None
        if one := settings.transformer:
            self._life.want(one.model_copy(update={"source": one.source or settings.source}).model_dump(mode="json"))
        elif self._life.state != "unloaded":
            self._leaving = asyncio.create_task(self._life.unload())

    @contextlib.asynccontextmanager
    async def held(self, request: Request) -> AsyncIterator[Transformer | None]:
        """It, for one request, once it is loaded; None where there is none. Raises `ModelUnavailable`."""
        if not self._wanted:
            yield None
            return
        with await self._life.ready(min(request.scope["serve_app.timeout_s"], LOADING_PATIENCE_S)) as transformer:
            yield transformer

    def check(self) -> None:
        """Raise `ModelUnavailable` where there is one that is not loaded."""
        if self._wanted:
            self._life.check()

    def status(self, model: ModelStatus) -> ModelStatus:
        """What the model does with it around it: while nothing but it is missing, what it does itself."""
        if not self._wanted:
            return model
        life = self._life
        if model.state in ("ready", "unloaded") and life.state != "ready":
            model = dataclasses.replace(model, state=life.state, progress=life.progress)
        return dataclasses.replace(model, failure=model.failure or life.failure)

    async def settled(self) -> None:
        """Wait until it is loaded or could not be, if it is on its way."""
        await self._life.settled()

    def loaded(self) -> Transformer | None:
        """What answers now, if anything does."""
        return self._life.loaded()

    def alive(self) -> bool:
        """Whether it can go on, or never could."""
        transformer = self._life.loaded()
        return transformer is None or transformer.alive()

    async def close(self) -> None:
        """Stop loading, and close it."""
        await self._life.close()

    def _load(self, wanted: dict[str, object], progress: Callable[[str], None]) -> Transformer:
        """Fetch the class's files and make an instance. Blocks; raises `LoadError`."""
        await_imports()
        settings = TransformerSettings.model_validate(wanted)
        transformer = Transformer()
        try:
            path = sources.resolve(settings.source or "", progress)
            transformer.load(path, settings, self._context(progress))
        except LoadError as error:
            raise LoadError(f"its transformer: {error.message}") from error
        return transformer
