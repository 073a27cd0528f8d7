"""KServe's V1 predict protocol, for every task: `{"instances": [...]}` in, `{"predictions": [...]}` out.

Contract: KServe V1 (`POST /v1/models/{model}:predict`); bytes are `{"b64": "..."}`, as TensorFlow Serving writes them.
A request that is a CloudEvent is answered with one.
"""

from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from deployments.errors import BadRequest
from deployments.protocols import cloud_events
from deployments.protocols.app import (
    Served,
    check_name,
    json_response,
    off_loop,
    plain_body,
    post,
    read_object,
)
from deployments.protocols.described import json_body
from deployments.protocols.predictions import Asked, Prediction

PREDICT = "/v1/models/{model:path}:predict"


class PredictRequest(BaseModel):
    """V1's body, for the documentation; `inputs` is another word for `instances`, and other keys are ignored."""

    instances: list[Any]
    parameters: dict[str, Any] = {}


def router(prediction: Prediction[Any, Any], served: Served | None) -> APIRouter:
    """The routes; `served` is None for documentation only."""
    api = APIRouter(tags=["model"])

    @post(api, PREDICT, served, openapi_extra=json_body(PredictRequest), summary="KServe V1 predict")
    async def predict(request: Request) -> Response:
        model = request.path_params["model"]
        found = check_name(served, model)
        with found.times.request() as marks:
            given = await read_request(request, found)
            async with found.engine(request) as engine:
                asked = Asked(found, model, prediction.specs(engine), given.parameters)
                items = await off_loop(given.size, lambda: prediction.of_instances(asked, given.instances))
                marks.predicting()
                results = await prediction.work(asked, engine, items)
            marks.writing()
            return write_answer(model, {"predictions": prediction.predictions(results)}, given)

    return api


class Given(NamedTuple):
    """What a request has: instances and parameters, of a body of that size, which may have been a CloudEvent."""

    instances: list[Any]
    parameters: dict[str, Any]
    size: int
    event: cloud_events.Form | None


async def read_request(request: Request, served: Served) -> Given:
    """A request's body. Raises `BadRequest`."""
    body, event = await plain_body(request, served), cloud_events.form_of(request.headers)
    data = cloud_events.open_event(request.headers, body) if event else body
    limit = served.settings.limits.max_inputs
    return Given(*await off_loop(len(data), lambda: read_instances(data, limit)), len(data), event)


def write_answer(model: str, content: object, given: Given) -> Response:
    """The answer in the form in which its request came."""
    answer = json_response(content)
    return cloud_events.event_response(model, bytes(answer.body), given.event) if given.event else answer


def read_instances(body: bytes, limit: int) -> tuple[list[Any], dict[str, Any]]:
    """Instances and parameters of a body. Raises `BadRequest` in KServe's words."""
    given = read_object(body)
    key = "inputs" if "inputs" in given and "instances" not in given else "instances"
    instances, parameters = given.get(key), given.get("parameters")
    if not isinstance(instances, list):
        raise BadRequest(f'Expected "{key}" to be a list', param=key)
    if not 1 <= len(instances) <= limit:
        raise BadRequest(f"{key} has {len(instances)} entries; 1 to {limit} in one request", param=key)
    if not isinstance(parameters, dict | None):
        raise BadRequest('Expected "parameters" to be an object', param="parameters")
    return instances, parameters or {}
