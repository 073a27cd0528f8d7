"""Explanations in KServe's V1 (`:explain`) and, as MLServer's explainers answer them, in V2 (`/explain`).

Contract: KServe V1 (`POST /v1/models/{model}:explain`: `{"predictions": [...], "explanations": [...]}`). V2's body is
infer's, and its answer has the BYTES output `explanation`, a JSON document, as MLServer's Alibi-Explain runtime has it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from deployments.errors import BadRequest, EngineError, NotImplementedHere
from deployments.explainers import Explainer, Explanation, Question
from deployments.protocols import v1, v2
from deployments.protocols.app import Served, check_name, off_loop, post
from deployments.protocols.described import json_body
from deployments.protocols.open_inference import InferRequest
from deployments.protocols.predictions import Asked, Prediction
from deployments.protocols.rows import tensors_to_rows
from deployments.specs import Array, object_array
from deployments.tensors import show

EXPLANATION = "explanation"
"""V2's output with the whole explanation; those of an explainer's own are given where they are asked for."""


def no_explainer(model: str) -> NotImplementedHere:
    """The refusal of a model without one, in KServe's words, and what to do about it."""
    return NotImplementedHere(
        f"Model with name {model} has no explainer. Declare one in the catalog: `explainer: {{}}` for SHAP, of a model "
        "of numbers, or `explainer: {class: module:Name}` for a class of your own."
    )


def router(prediction: Prediction[Any, Any], served: Served | None) -> APIRouter:
    """The routes; `served` is None for documentation only."""
    api = APIRouter(tags=["model"])

    @post(
        api,
        "/v1/models/{model:path}:explain",
        served,
        openapi_extra=json_body(v1.PredictRequest),
        summary="KServe V1 explain",
    )
    async def explain(request: Request) -> Response:
        model = request.path_params["model"]
        found = check_name(served, model)
        with found.times.request(explained=True) as marks:
            async with found.explained(request) as (engine, explainer):
                given = await v1.read_request(request, found)
                asked = Asked(found, model, prediction.specs(engine), given.parameters)
                items = await off_loop(given.size, lambda: prediction.of_instances(asked, given.instances))
                marks.predicting()
                made = await answer(prediction, asked, engine, explainer, items, lambda: given.instances)
            marks.writing()
            return v1.write_answer(model, orjson.Fragment(written(made.v1)), given)

    body = json_body(v2.InferBody)

    @post(api, f"{v2.MODEL}/explain", served, openapi_extra=body, summary="Explain tensors")
    @post(api, f"{v2.MODEL}/versions/{{version}}/explain", served, openapi_extra=body, summary="Explain, a version")
    async def explain_tensors(request: Request) -> Response:
        model, version = request.path_params["model"], request.path_params.get("version", "")
        found = check_name(served, model, version)
        with found.times.request(explained=True) as marks:
            async with found.explained(request) as (engine, explainer):
                given = await v2.read_request(request, found, model, version)
                tensors = v2.fit_all(given.inputs, prediction.specs(engine))
                asked = Asked(found, model, prediction.specs(engine), given.parameters, given.inputs[0].name)
                items = prediction.of_tensors(asked, tensors)
                marks.predicting()
                made = await answer(prediction, asked, engine, explainer, items, lambda: instances_of(tensors))
            marks.writing()
            response = v2.answer(asked, outputs(made, given))
            return v2.write_response(request, response, given)

    return api


async def answer(
    prediction: Prediction[Any, Any],
    asked: Asked,
    engine: Any,
    explainer: Explainer,
    items: list[Any],
    instances: Callable[[], Sequence[Any]],
) -> Explanation:
    """What the explainer says of a request, beside what the model predicts, which finds what is wrong with it."""

    async def predict(more: Sequence[Any]) -> Sequence[Any]:
        found = prediction.of_instances(asked, list(more))
        return as_list(prediction.predictions(await prediction.work(asked, engine, found)))

    predicted = prediction.predictions(await prediction.work(asked, engine, items))
    tensors = prediction.named_tensors(items)
    return await explainer.explain(Question(tensors, instances, predicted, predict, asked.parameters))


def outputs(made: Explanation, given: InferRequest) -> dict[str, Array]:
    """V2's outputs: the whole explanation, or those that were asked for. Raises `BadRequest`."""
    wanted = [one.name for one in given.outputs] or [EXPLANATION]
    if unknown := [name for name in wanted if name != EXPLANATION and name not in made.tensors]:
        have = ", ".join([EXPLANATION, *made.tensors])
        raise BadRequest(f"unknown output {show(unknown[0])}; an explanation has {have}", param=unknown[0])
    whole = {EXPLANATION: object_array([written(made.v2)])} if EXPLANATION in wanted else {}
    return {name: whole[name] if name == EXPLANATION else made.tensors[name] for name in wanted}


def instances_of(tensors: Mapping[str, Array]) -> Sequence[Any]:
    """V2's tensors as V1's instances. Raises `BadRequest` for tensors that have no rows in common."""
    try:
        return as_list(tensors_to_rows(tensors))
    except EngineError:
        raise BadRequest("these tensors have different numbers of rows; ask for the explanation by V1") from None


def as_list(values: Sequence[Any] | Array) -> Sequence[Any]:
    """Predictions, or instances, as a list."""
    found: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return found


def written(document: Any) -> bytes:
    """An explainer's document as JSON. Raises `EngineError` for what JSON has no form for."""
    try:
        return orjson.dumps(document, _plain, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise EngineError(f"the explainer's answer is no JSON: {error}") from error


def _plain(value: Any) -> Any:
    """Arrays that do not lie in order, and others that numpy has, in JSON's types."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"it has a {type(value).__name__}")
