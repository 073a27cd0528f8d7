"""An error as the caller's client reads it: OpenAI's envelope, or KServe's `{"error": "..."}`, as graphs have it too.

The path that was asked decides which. Knows nothing of where errors come from.
"""

import math
import re

import orjson
from starlette.responses import Response

from deployments.errors import ServeAppError

Headers = list[tuple[bytes, bytes]]

_KSERVE = re.compile(r"(/[^/]+)*?/(v1/models(/|$)|graphs/|v2(/(?!rerank$)|$))")
_TEI = re.compile(r"(/[^/]+)*?(?<!/v1)(?<!/v2)/(embed|rerank)$")
_OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 500: "server_error"}


def render(error: ServeAppError, path: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of `error` for a request to `path`, which may begin with a route prefix."""
    headers = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(math.ceil(error.retry_after_s)).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = orjson.dumps(_body(error, path))
    return error.status, [*headers, (b"content-length", str(len(body)).encode())], body


def response(error: ServeAppError, path: str) -> Response:
    """The same as a Starlette response."""
    status, headers, body = render(error, path)
    answer = Response(body, status)
    answer.raw_headers = headers
    return answer


def _body(error: ServeAppError, path: str) -> dict[str, object]:
    if "/openai/" not in path and _KSERVE.match(path):
        return {"error": error.message}
    if _TEI.match(path):
        return {"error": error.message, "error_type": "Validation" if error.status < 500 else "Backend"}
    return envelope(error)


def envelope(error: ServeAppError) -> dict[str, object]:
    """OpenAI's form of an error, which its streams have too."""
    kind = _OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
