"""A model's replica that clients reach without the gateway: the ingress of its own application (layout `per-model`).

The same edge, the same resolution of paths and Hosts, the same answer as the gateway's own models give; the gateway's
calls come over a handle, as in the other layout. Knows nothing of the other models but their Hosts.
"""

import logging
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import ModelNotFound
from deployments.replica import ModelReplica
from deployments.settings import Frozen
from serve_app import environment
from serve_app.edge import Edge
from serve_app.gateway import OWN, answer_inline, head_of
from serve_app.resolve import Graphed, ModelEntry, Routes, Target, host_label
from serve_app.rpc import OpenInferenceMethods
from serve_app.uploads import Room

log = logging.getLogger("serve_app")


class DirectSettings(Frozen):
    """What `reconfigure()` can change, besides the model's own settings; limits in bytes."""

    model: ModelEntry
    hosts: dict[str, str]
    """Hosts that are other models' and graphs', on which this model is not to be found, and whose they are."""
    max_body: int
    max_reading: int


class DirectReplica(OpenInferenceMethods, ModelReplica):
    """The replica of one model, which answers HTTP and gRPC itself. `identities` is its dumped `ModelIdentity`."""

    def __init__(self, identities: Sequence[dict[str, Any]]) -> None:
        super().__init__(identities)
        (self._model,) = self._models.values()
        self._settings: DirectSettings | None = None
        self._room = Room(
            lambda: self._settings.max_body if self._settings else 0,
            lambda: self._settings.max_reading if self._settings else 0,
        )
        self.http_app = Edge(self.answer, environment.api_keys())

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take over limits, names and the model's settings. What is not valid leaves the old in force."""
        try:
            self._settings = DirectSettings.model_validate(user_config["direct"])
        except ValidationError:
            log.exception("these settings of %s's entrance are not valid; the old ones stay", self._model.name)
        else:
            self._routes = Routes([self._settings.model])
        await super().reconfigure(user_config)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self.http_app

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, answered by the model here."""
        target = self._target(scope)
        async with self._room.held(scope, receive) as body:
            await answer_inline(self._model, head_of(scope, target), body, send)

    def _target(self, scope: Scope) -> Target:
        """The request's path as the model knows it. Raises `ModelNotFound` on a Host that is another's."""
        settings = self._settings
        assert settings, "Ray Serve configures a replica before it asks it"
        host = dict(reversed(scope["headers"])).get(b"host", b"").decode("latin-1").lower()
        if whose := settings.hosts.get(host_label(host)):
            raise ModelNotFound.named(settings.model.name, [whose])
        found = self._routes.resolve(scope["path"], host, OWN)
        assert not isinstance(found, Graphed), "no graph is known here"
        return found if isinstance(found, Target) else Target(settings.model, found.root_path, found.path)
