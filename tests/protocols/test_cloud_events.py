"""V1 requests that are CloudEvents, made and read by the CloudEvents library as KServe's clients use it."""

from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent

from deployments.protocols import ROUTERS
from deployments.protocols.app import build_app
from deployments.protocols.predictions import spec
from tests.protocols.engines import Predict
from tests.protocols.fakes import Served

ATTRIBUTES = {"specversion": "1.0", "id": "7", "type": "org.example.asked", "source": "tests"}
JSON = {"content-type": "application/json"}
STRUCTURED = {"content-type": "application/cloudevents+json"}


async def ask(headers: dict[str, str], body: bytes) -> httpx.Response:
    def doubled(got: Any) -> Any:
        return {"y": np.asarray(got["x"]) * 2}

    served: Any = Served(Predict(doubled, [spec("x", "FP32", -1)], named=False))
    app = build_app("m", [make(served) for make in ROUTERS["predict"]])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        return await client.post("/v1/models/m:predict", headers=headers, content=body)


@pytest.mark.parametrize("write", [http.to_binary_event, http.to_structured_event])
async def test_an_event_is_answered_with_one_of_the_same_form(write: Any) -> None:
    sent = write(CloudEvent(ATTRIBUTES | {"datacontenttype": "application/json"}, {"instances": [1, 2]}))
    answer = await ask(sent.headers, sent.body)
    assert answer.status_code == 200
    assert ("ce-id" in answer.headers) == (write is http.to_binary_event)
    event = http.from_http_event(http.HTTPMessage(dict(answer.headers), answer.content))
    assert event.get_type() == "io.kserve.inference.response"
    assert event.get_source() == "io.kserve.inference.m"
    assert event.get_id() != "7"
    assert event.get_data() == {"predictions": [2.0, 4.0]}


async def test_data_may_be_base64() -> None:
    body = orjson.dumps(ATTRIBUTES | {"data_base64": "eyJpbnN0YW5jZXMiOiBbMV19"})
    assert (await ask(STRUCTURED, body)).json()["data"] == {"predictions": [2.0]}


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        (JSON | {"ce-specversion": "1.0", "ce-id": "1"}, b"{}", "source"),
        (
            JSON | {f"ce-{name}": value for name, value in (ATTRIBUTES | {"specversion": "9"}).items()},
            b"{}",
            "specversion",
        ),
        (JSON | {f"ce-{name}": value for name, value in ATTRIBUTES.items()}, b'{"instances": 1}', "list"),
        (JSON | {f"ce-{name}": value for name, value in ATTRIBUTES.items()}, b"\xff", "Unrecognized request format"),
        (STRUCTURED, b"{}", "Cloud Event"),
        (STRUCTURED, orjson.dumps(ATTRIBUTES)[:-1] + b', "data": 123456789012345678901234567890}', "Cloud Event"),
        (STRUCTURED, orjson.dumps(ATTRIBUTES)[:-1] + b', "data": "\\ud800"}', "Cloud Event"),
        (STRUCTURED, b"[" * 100_000, "Cloud Event"),
        (STRUCTURED, b"[]", "Cloud Event"),
        (STRUCTURED, b"nope", "Cloud Event"),
        (STRUCTURED, orjson.dumps(ATTRIBUTES), "no data"),
        (STRUCTURED, orjson.dumps(ATTRIBUTES | {"data": 5}), "not a JSON object"),
    ],
)
async def test_what_is_wrong_with_an_event_gets_a_400(headers: dict[str, str], body: bytes, says: str) -> None:
    answer = await ask(headers, body)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]
