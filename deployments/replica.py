"""The replica: a Ray Serve deployment that answers carried requests with the apps of what it hosts, one model or many.

Nothing raises out of `reconfigure()`, because Ray Serve would stop the replica and fail the whole
application. Knows nothing of what models do.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve.schema import ReplicaState

from deployments.asgi import Answer, BodyBytes, Head, run_stream, run_unary
from deployments.cache import Budget, ModelCache
from deployments.engines._ahead import import_ahead
from deployments.model import Model
from deployments.protocols.app import ModelStatus
from deployments.settings import ModelIdentity

log = logging.getLogger(__name__)


def reserved() -> tuple[float, float]:
    """The CPUs and GPUs that this replica reserves."""
    found = ray.get_runtime_context().get_assigned_resources()
    return float(found.get("CPU", 0)), float(found.get("GPU", 0))


async def others_answer() -> bool:
    """Whether other replicas of this one's deployment take requests now."""
    try:
        this = serve.get_replica_context()
        status = await asyncio.to_thread(serve.status)
        found = status.applications[this.app_name].deployments[this.deployment]
    except Exception:  # whatever Ray Serve has: without an answer this replica begins at once, as the first one does
        log.warning("it is not known whether there are other replicas", exc_info=True)
        return False
    return bool(found.replica_states.get(ReplicaState.RUNNING, 0))


class ModelReplica:
    """The replica of one model that is always loaded, or with `on_demand` of many, each loaded when it is asked for.

    `identities` are dumped `ModelIdentity`s; the settings come by `reconfigure()`.
    """

    def __init__(self, identities: Sequence[dict[str, Any]], on_demand: bool = False) -> None:
        self._cache = ModelCache() if on_demand else None
        made = [Model(ModelIdentity.model_validate(one), *reserved(), self._cache) for one in identities]
        self._models = {model.name: model for model in made}
        if on_demand:
            import_ahead(model.identity.engine for model in made)
        self._begun = False

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Have the models as `user_config` says: dumped `ModelSettings` by name, and a `Budget`.

        Returns at once, but for the first time where other replicas answer: Ray Serve sends a replica no requests
        before, and they need not wait here for a model that is loaded there.
        """
        if self._cache:
            try:
                self._cache.budget = Budget.model_validate(user_config.get("budget", {}))
            except ValidationError:
                log.exception("this budget is not valid; the old one stays in force")
        for name, settings in user_config["models"].items():
            if name in self._models:
                self._models[name].configure(settings)
        if not self._begun and await others_answer():
            await asyncio.gather(*(model.settled() for model in self._models.values()))
        self._begun = True

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
