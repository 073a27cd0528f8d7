"""CloudEvents around V1's bodies: binary, with the event in headers, and structured, with the body in the event.

Contract: CloudEvents 1.0 over HTTP, and KServe's types and sources of responses. Knows nothing of predictions.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import orjson
from cloudevents.core.bindings import http
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.v1.event import CloudEvent
from starlette.responses import Response

from deployments.errors import BadRequest

Form = Literal["binary", "structured"]
RESPONSE = "io.kserve.inference.response"


def form_of(headers: Mapping[str, str]) -> Form | None:
    """How a request with these headers is an event, if it is one."""
    if headers.get("content-type", "").startswith("application/cloudevents+json"):
        return "structured"
    return "binary" if "ce-specversion" in headers else None


def open_event(headers: Mapping[str, str], body: bytes) -> bytes:
    """The data of the event that a request is. Raises `BadRequest` for what is missing or wrong in it."""
    binary = form_of(headers) == "binary"
    try:
        event = http.from_http_event(http.HTTPMessage(dict(headers), b"" if binary else body))
        data = body if binary else event.get_data()
        if data is None:
            raise BadRequest("Cloud Event Exceptions: the event has no data")
        if isinstance(data, bytes):
            return data
        return data.encode() if isinstance(data, str) else orjson.dumps(data)
    except (BaseCloudEventException, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadRequest(f"Cloud Event Exceptions: {error}") from None


def event_response(model: str, content: bytes, form: Form) -> Response:
    """An answer of that model as an event, in the form in which the request was one."""
    attributes = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "type": RESPONSE,
        "source": f"io.kserve.inference.{model}",
        "time": datetime.now(UTC),
        "datacontenttype": "application/json",
    }
    if form == "binary":
        message = http.to_binary_event(CloudEvent(attributes, content))
    else:
        message = http.to_structured_event(CloudEvent(attributes, orjson.loads(content)))
    return Response(message.body, headers=dict(message.headers))
