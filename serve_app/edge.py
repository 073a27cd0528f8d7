"""What stands before the ingress: a request id, API keys, a limit on headers, every error as an answer.

ASGI middleware around whichever application is the ingress. Knows nothing of models.
"""

import hmac
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.asgi import new_id
from deployments.errors import HeadersTooLarge, ServeAppError, Unauthenticated
from deployments.protocols.dialects import render
from serve_app.uploads import ClientGone, declared_bytes

log = logging.getLogger("serve_app")

MAX_HEADER_BYTES = 64 << 10
REQUEST_ID = b"x-request-id"
HOP_HEADERS = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""Ray Serve's own switches. It has read them by the time a request comes here; whatever a client switched off there,
the model's deadline holds, and nothing further on sees them."""


KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key")
"""Where OpenAI's, Anthropic's and Azure's SDKs put a key; over gRPC it is metadata of the same names."""
OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What a GET needs no key for: probes have none."""


class Edge:
    """Wraps an ASGI application: `app(scope, receive, send)` with its requests let in and its errors answered.

    Where there are `keys`, a request shows one of them, which goes no further.
    """

    def __init__(self, app: ASGIApp, keys: frozenset[bytes] = frozenset()) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                # Ray Serve puts the request's id on every answer; a second one would be folded into it.
                message["headers"] = [h for h in message.get("headers", ()) if h[0].lower() != REQUEST_ID]
            await send(message)

        request_id = "-"
        try:
            request_id = _admit_headers(scope)
            if self._keys:
                check_key(scope, self._keys)
            await self._app(scope, receive, watched)
        except ClientGone:
            log.info("request %s: the client went away", request_id)
        except ServeAppError as error:
            if started:
                raise
            await _answer(error, scope["path"], send)
        except Exception:
            log.exception("request %s failed", request_id)
            if started:
                raise
            await _answer(ServeAppError(f"internal error; request id {request_id}"), scope["path"], send)


def _admit_headers(scope: Scope) -> str:
    """Check the headers' size, drop those that are not the client's to send, and return the request's id."""
    given: list[tuple[bytes, bytes]] = scope["headers"]
    headers, request_id, size = [], None, 4 * len(given)
    for header in given:
        name, value = header
        size += len(name) + len(value)
        if name not in HOP_HEADERS:
            headers.append(header)
        if name == REQUEST_ID and request_id is None:
            request_id = value
    if size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"the request's headers are {size} bytes; at most {MAX_HEADER_BYTES}")
    if request_id is None:
        request_id = new_id().encode()
        headers.append((REQUEST_ID, request_id))
    scope["headers"] = headers
    return request_id.decode("latin-1")


def check_key(scope: Scope, keys: frozenset[bytes]) -> None:
    """Take the key out of a request's headers. Raises `Unauthenticated` unless it is one of `keys`."""
    shown = [value for name, value in scope["headers"] if name in KEY_HEADERS]
    scope["headers"] = [header for header in scope["headers"] if header[0] not in KEY_HEADERS]
    if scope["path"] in OPEN and scope["method"] in ("GET", "HEAD") and not _has_body(scope):
        return
    if not shown:
        raise Unauthenticated("an API key is needed: `Authorization: Bearer <key>`, or `X-Api-Key: <key>`")
    bare = [one[7:].strip() if one[:7].lower() == b"bearer " else one for one in shown]
    if not any(hmac.compare_digest(one, key) for one in bare for key in keys):
        raise Unauthenticated("this API key is not known here")


def _has_body(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"transfer-encoding" in names or declared_bytes(scope) > 0


async def _answer(error: ServeAppError, path: str, send: Send) -> None:
    status, headers, body = render(error, path)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
