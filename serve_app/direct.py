"""The direct carrier: a model's replica that is its own application's ingress, behind the same edge as the gateway."""

from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.replica import ModelReplica
from serve_app.edge import Edge


class DirectReplica(ModelReplica):
    """One model, reached at its application's route prefix without a hop. `max_body` is in bytes."""

    def __init__(self, identities: Sequence[dict[str, Any]], max_body: int, timeout_s: float) -> None:
        super().__init__(identities)
        (self._model,) = self._models.values()
        self._max_body, self._timeout_s = max_body, timeout_s

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Edge(self._answer, lambda: self._max_body)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._model.streaming_app({**scope, "serve_app.timeout_s": self._timeout_s}, receive, send)
