"""The replica: a Ray Serve deployment that answers carried requests with the apps of what it hosts, one model or many.

Nothing raises out of `reconfigure()`, because Ray Serve would stop the replica and fail the whole
application. Knows nothing of what models do.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import ray
from pydantic import ValidationError

from deployments.asgi import Answer, BodyBytes, Head, run_stream, run_unary
from deployments.cache import Budget, ModelCache
from deployments.model import Model
from deployments.protocols.app import ModelStatus
from deployments.settings import ModelIdentity

log = logging.getLogger(__name__)


class ModelReplica:
    """The replica of one model that is always loaded, or with `on_demand` of many, each loaded when it is asked for.

    `identities` are dumped `ModelIdentity`s; the settings come by `reconfigure()`.
    """

    def __init__(self, identities: Sequence[dict[str, Any]], on_demand: bool = False) -> None:
        reserved = ray.get_runtime_context().get_assigned_resources()
        shares = float(reserved.get("CPU", 0)), float(reserved.get("GPU", 0))
        self._cache = ModelCache() if on_demand else None
        made = [Model(ModelIdentity.model_validate(one), *shares, self._cache) for one in identities]
        self._models = {model.name: model for model in made}

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Have the models as `user_config` says: dumped `ModelSettings` by name, and a `Budget`. Returns at once."""
        if self._cache:
            try:
                self._cache.budget = Budget.model_validate(user_config.get("budget", {}))
            except ValidationError:
                log.exception("this budget is not valid; the old one stays in force")
        for name, settings in user_config["models"].items():
            if name in self._models:
                self._models[name].configure(settings)

    async def unary(self, head: Head, body: BodyBytes) -> Answer:
        """One request, answered whole."""
        return await run_unary(self._models[head.model].app, head, body)

    async def stream(self, head: Head, body: BodyBytes) -> AsyncIterator[Answer | bytes]:
        """One request, answered as it comes."""
        async for piece in run_stream(self._models[head.model].streaming_app, head, body):
            yield piece

    async def report(self) -> list[ModelStatus]:
        """What the models are doing now, for the gateway."""
        return [model.status() for model in self._models.values()]

    async def check_health(self) -> None:
        """Ray Serve's health check: a model that failed to load is healthy, one that can compute no more is not."""
        for model in self._models.values():
            if not model.alive():
                if self._cache is None:
                    raise RuntimeError(f"what computes for {model.name} died")
                await model.revive()

    async def __del__(self) -> None:
        for model in self._models.values():
            await model.close()
