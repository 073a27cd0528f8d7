"""A model's app that remembers which of its endpoints a path led to, so that no request is matched twice.

Starlette matches patterns one after the other, behind three layers of middleware: a fifth of a small model's answer.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from deployments.errors import ServeAppError
from deployments.protocols.app import REFUSALS, as_ours
from deployments.protocols.dialects import response

log = logging.getLogger(__name__)
MOST = 1024
"""So many paths are remembered; aliases, versions and prefixes make several of one model."""
Endpoint = Callable[[Request], Awaitable[Response]]


class Remembering:
    """Answers POSTs to endpoints that `post` added, at once where the path is known, and leaves the rest to `app`."""

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
        try:
            answer = await endpoint(request)
        except REFUSALS as error:
            answer = response(as_ours(request, error, self._app), scope["path"])
        except Exception:
            log.exception("%s failed", scope["path"])
            answer = response(ServeAppError("internal error"), scope["path"])
        else:
            if len(self._known) < MOST:
                self._known[key] = found
        await answer(scope, receive, send)

    def _match(self, scope: Scope) -> tuple[Endpoint, Mapping[str, Any]] | None:
        """The endpoint of the first route that takes the request, where it is one that reads requests itself."""
        for route in self._app.routes:
            match, more = route.matches(scope)
            if match is Match.FULL:
                return (route.endpoint, more["path_params"]) if type(route) is Route else None
        return None
