"""The replica of one model: a Ray Serve deployment that answers carried requests with the model's app.

Nothing raises out of `reconfigure()`, because Ray Serve would stop the replica and fail the whole
application. Knows nothing of other models, nor of what models do.
"""

from collections.abc import AsyncIterator
from typing import Any

import ray

from deployments.asgi import Answer, BodyBytes, Head, run_stream, run_unary
from deployments.model import Model
from deployments.protocols.app import ModelStatus
from deployments.settings import ModelIdentity


class ModelReplica:
    """One model's replica. `identity` is a dumped `ModelIdentity`; the settings come by `reconfigure()`."""

    def __init__(self, identity: dict[str, Any]) -> None:
        reserved = ray.get_runtime_context().get_assigned_resources()
        shares = float(reserved.get("CPU", 0)), float(reserved.get("GPU", 0))
        self._model = Model(ModelIdentity.model_validate(identity), *shares)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Have the model as `user_config` (a dumped `ModelSettings`) says. Returns at once, raises nothing."""
        self._model.configure(user_config)

    async def unary(self, head: Head, body: BodyBytes) -> Answer:
        """One request, answered whole."""
        return await run_unary(self._model.app, head, body)

    async def stream(self, head: Head, body: BodyBytes) -> AsyncIterator[Answer | bytes]:
        """One request, answered as it comes."""
        async for piece in run_stream(self._model.streaming_app, head, body):
            yield piece

    async def report(self) -> ModelStatus:
        """What the model is doing now, for the gateway."""
        return self._model.status()

    async def check_health(self) -> None:
        """Ray Serve's health check: a model that failed to load is healthy, one that can compute no more is not."""
        if not self._model.alive():
            raise RuntimeError(f"what computes for {self._model.identity.name} died")

    async def __del__(self) -> None:
        await self._model.close()
