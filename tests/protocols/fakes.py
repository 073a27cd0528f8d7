"""The model that routes see, around an engine of a test's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from deployments.engines import Task
from deployments.explainers import Explainer
from deployments.metrics import PredictTimes
from deployments.protocols.app import ModelStatus
from deployments.protocols.explanations import no_explainer
from deployments.settings import ModelIdentity, ModelSettings

Held = TypeVar("Held")


class Served(Generic[Held]):
    """Model `m`, which is loaded; `held` counts who holds its engine now."""

    def __init__(self, engine: Held, task: Task = "predict", **settings: Any) -> None:
        self.identity = ModelIdentity(name="m", engine="fake")
        self.settings = ModelSettings.model_validate({"source": "", **settings})
        self.times = PredictTimes("m")
        self.held = 0
        self.explainer: Explainer | None = None
        self._engine, self._task = engine, task

    @asynccontextmanager
    async def engine(self, _request: object) -> AsyncIterator[Held]:
        self.held += 1
        try:
            yield self._engine
        finally:
            self.held -= 1

    @asynccontextmanager
    async def explained(self, request: object) -> AsyncIterator[tuple[Held, Explainer]]:
        if self.explainer is None:
            raise no_explainer("m")
        async with self.engine(request) as engine:
            yield engine, self.explainer

    def loaded(self) -> Held:
        return self._engine

    def status(self) -> ModelStatus:
        return ModelStatus("m", self._task, "fake", "ready", adapters=self.adapters())

    def check(self) -> None:
        pass

    async def release(self, _request: object) -> None:
        self.released = True

    def adapters(self) -> tuple[str, ...]:
        return tuple(getattr(self._engine, "adapters", tuple)())
