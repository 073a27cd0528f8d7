"""The start and the end of an ASGI app, by ASGI's lifespan protocol, around whatever requests it gets in between.

https://asgi.readthedocs.io/en/latest/specs/lifespan.html. Knows nothing of what the app does.
"""

import asyncio
import contextlib
import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from deployments.errors import LoadError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)
END_S = 10.0
"""How long an app may take to end."""


class Lifespan:
    """An ASGI app that is started and ended; one that knows no lifespan only gets its requests."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._told: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._said: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """A request, with what the app's start has put into its state."""
        await self._app({**scope, "state": {**scope.get("state", {}), **self._state}}, receive, send)

    async def start(self) -> None:
        """Raises `LoadError` with the app's reason if it says that it cannot start."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        self._running = asyncio.ensure_future(self._run(scope))
        answer = await self._ask("lifespan.startup")
        if answer and answer["type"] == "lifespan.startup.failed":
            lines = str(answer.get("message", "")).strip().splitlines()  # of a traceback, the last one says what it was
            raise LoadError(f"the app cannot start: {lines[-1] if lines else 'it does not say why'}")

    async def stop(self) -> None:
        """Have the app end, and end it if it does not within `END_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await self._ask("lifespan.shutdown")
        self._running.cancel()
        await asyncio.wait([self._running])

    async def _run(self, scope: "Scope") -> None:
        try:
            await self._app(scope, self._told.get, self._said.put)
        except (Exception, SystemExit):
            # As of an app that knows no lifespan; the one that says why it cannot start has said so before.
            log.debug("the app's lifespan ended", exc_info=True)

    async def _ask(self, message: str) -> MutableMapping[str, Any] | None:
        """What the app says to a message; None if it has ended without a word."""
        if self._running.done():
            return None
        self._told.put_nowait({"type": message})
        answer = asyncio.ensure_future(self._said.get())
        try:
            await asyncio.wait([answer, self._running], return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            answer.cancel()
