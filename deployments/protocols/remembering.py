"""A model's app that remembers which of its endpoints a path led to, so that no request is matched twice.

Starlette matches patterns one after the other, behind three layers of middleware: a fifth of a small model's answer.
"""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import ServeAppError
from deployments.protocols.app import REFUSALS, Endpoint, as_ours
from deployments.protocols.dialects import response

log = logging.getLogger(__name__)
MOST = 1024
"""So many paths are remembered; aliases, versions and prefixes make several of one model."""


class Remembering:
    """Answers POSTs to endpoints that read requests themselves (`post`), at once where the path is known.

    The rest is left to `app`.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._known: dict[tuple[str, str], tuple[Endpoint, Mapping[str, Any]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        key = (scope["root_path"], scope["path"])
        found = self._known.get(key) or self._match(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, parameters = found
        request = Request({**scope, "path_params": parameters, "app": self._app}, receive, send)
        begun = False

        async def begin(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            answer = await endpoint(request)
            self._remember(key, found)
            await answer(scope, receive, begin)
        except REFUSALS as error:
            if begun:
                raise
            await response(as_ours(request, error, self._app), scope["path"])(scope, receive, send)
        except Exception:
            log.exception("%s failed", scope["path"])
            if begun:
                raise
            await response(ServeAppError("internal error"), scope["path"])(scope, receive, send)

    def _remember(self, key: tuple[str, str], found: tuple[Endpoint, Mapping[str, Any]]) -> None:
        if key in self._known:
            return
        if len(self._known) >= MOST:  # of an engine's own app, which may have as many as it likes
            self._known.clear()
        self._known[key] = found

    def _match(self, scope: Scope) -> tuple[Endpoint, Mapping[str, Any]] | None:
        """The endpoint of the first route that takes the request, where it is one that reads requests itself."""
        for route in self._app.routes:
            match, more = route.matches(scope)
            if match is Match.FULL:
                return (route.endpoint, more["path_params"]) if type(route) is Route else None
        return None
