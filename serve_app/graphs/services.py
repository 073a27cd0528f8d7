"""Services elsewhere, which graphs ask over HTTP: bounded connections, times and sizes, and no redirects.

Only URLs of the catalog come here. Knows nothing of graphs' nodes.
"""

import httpx
from starlette.types import Send

from deployments.errors import BadAnswer
from serve_app.graphs.payload import Headers
from serve_app.graphs.run import Call

MAX_CONNECTIONS = 256
CONNECT_S = 5.0
GRACE_S = 1.0
DROPPED = frozenset({"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding", "upgrade"})
"""Headers of an answer that are about its way here."""


class Services:
    """One client for all of them, made at the first call."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def ask(self, call: Call, send: Send) -> None:
        """Have a call answered. Raises `BadAnswer` where the service cannot be reached or its answer breaks off."""
        client = self._client or httpx.AsyncClient(
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS // 4),
            trust_env=False,
        )
        self._client = client
        url, headers = call.step.service_url, [*call.headers, (b"accept-encoding", b"identity")]
        # The run's clock bounds an answer until it begins; this, the silence in the middle of one.
        limits = httpx.Timeout(call.timeout_s + GRACE_S, connect=CONNECT_S)
        try:
            async with client.stream("POST", url, headers=headers, content=call.body, timeout=limits) as answer:
                start = {"type": "http.response.start", "status": answer.status_code, "headers": _kept(answer)}
                await send(start)
                async for piece in answer.aiter_bytes():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise BadAnswer(f"{_shown(url)} did not answer: {type(error).__name__} {error}".strip()) from error
        await send({"type": "http.response.body", "body": b""})

    async def close(self) -> None:
        """Close the connections."""
        if self._client:
            await self._client.aclose()


def _kept(answer: httpx.Response) -> Headers:
    return [(name.lower(), value) for name, value in answer.headers.raw if name.lower().decode() not in DROPPED]


def _shown(url: str) -> str:
    """A URL without the name and password and the query that may be in it."""
    found = httpx.URL(url)
    return f"{found.scheme}://{found.host}{f':{found.port}' if found.port else ''}{found.path}"
