"""What a server and its models say of themselves, in OpenAI's, KServe V1's and Open Inference's shapes.

The same functions answer for one model (in its replica) and for all of them (in the gateway).
Formats: OpenAI's models API; KServe V1; Open Inference Protocol (V2) REST.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from deployments.engines import Task
from deployments.errors import MethodNotAllowed
from deployments.protocols.app import ClientBody, ModelStatus, Served, check_name, json_response, read_json
from deployments.protocols.predictions import Prediction, Specs
from deployments.specs import TensorSpec

EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics", "model_repository", "generate"]
SERVER = {"name": "serve-app", "version": version("serve-app"), "extensions": EXTENSIONS}


class Listing(NamedTuple):
    """A model as lists show it; `note` is what people should know of its quality."""

    name: str
    aliases: Sequence[str]
    task: Task
    note: str
    adapters: Sequence[str] = ()


Listed = Callable[[], Awaitable[Sequence[Listing]]]
States = Callable[[], Awaitable[Sequence[ModelStatus]]]


def model_list(models: Sequence[Listing]) -> dict[str, object]:
    """`GET /v1/models` for these models: both dialects at once."""
    return {
        "object": "list",
        "data": [_card(id, model) for model in models for id in (model.name, *model.aliases, *model.adapters)],
        "models": [name for model in models for name in (model.name, *model.adapters)],
    }


def _card(id: str, model: Listing) -> dict[str, object]:
    card = {"id": id, "object": "model", "created": 0, "owned_by": "serve-app", "root": model.name, "task": model.task}
    card |= {"parent": model.name} if id in model.adapters else {}
    return card | ({"description": model.note} if model.note else {})


POSTED = ("/infer", "/explain", "/generate", "/generate_stream")
"""What a path to a model may end with to have something done, and not to be told something."""
SETTLED = ("ready", "failed", "unloaded")
ANSWERING = ("ready", "unloaded")
"""The states of models that answer; the second is loaded when it is asked for."""


def health(models: Sequence[ModelStatus], came_up: Collection[str] = ()) -> Response:
    """`GET /v2/health/ready`: ready once every model has come up or failed once, and one can answer.

    A model that failed, or that loads again, does not take the server's readiness with it; its own
    readiness says why. `came_up` are the models that had come up, or failed, before.
    """
    settled = all(model.state in SETTLED or model.name in came_up for model in models)
    ready = settled and any(model.state in ANSWERING for model in models)
    listed = [
        {"name": m.name, "state": m.state, **({"progress": m.progress} if m.progress else {})}
        | ({"reason": m.failure} if m.failure else {})
        for m in models
    ]
    return json_response({"ready": ready, "models": listed}, 200 if ready else 503)


def server_router(listed: Listed, states: States, came_up: set[str]) -> APIRouter:
    """The routes about a server and all its models, be they many (the gateway) or one (a replica).

    `listed()` gives their names, aliases and tasks, `states()` what each is doing; `came_up` collects
    those that came up or failed once.
    """
    api = APIRouter(tags=["server"])

    @api.get("/", summary="Liveness, as KServe answers it")
    async def alive() -> Response:
        return json_response({"status": "alive"})

    @api.get("/v1/models", summary="List of models (OpenAI and KServe V1)")
    async def list_models() -> Response:
        return json_response(model_list(await listed()))

    @api.get("/v2", summary="Server metadata")
    async def server() -> Response:
        return json_response(SERVER)

    @api.get("/v2/models", summary="Names of the models")
    async def names() -> Response:
        return json_response({"models": model_list(await listed())["models"]})

    @api.post("/v2/repository/index", summary="Every model and whether it is loaded, as Triton lists them")
    async def index(request: Request) -> Response:
        only_ready = (await read_json(request, IndexRequest)).ready if await request.body() else False
        rows = [index_row(state) for state in await states()]
        return json_response([row for row in rows if row["state"] == "READY" or not only_ready])

    @api.get("/v2/models/stats", summary="Statistics of every model, as Triton tells them")
    async def stats() -> Response:
        return json_response({"model_stats": [state.stats for state in await states() if state.stats]})

    @api.get("/v2/health/live", summary="Liveness")
    async def live() -> Response:
        return json_response({"live": True})

    @api.get("/v2/health/ready", summary="Readiness, with every model's state")
    async def ready() -> Response:
        found = await states()
        came_up.update(state.name for state in found if state.state in SETTLED)
        return health(found, came_up)

    return api


def router(prediction: Prediction[Any, Any], served: Served) -> APIRouter:
    """The routes about one model."""
    api = APIRouter(tags=["model"])

    @api.get("/v1/models/{model:path}", summary="One model (OpenAI and KServe V1)")
    async def one_model(model: str) -> Response:
        if model.endswith((":predict", ":explain")):
            raise MethodNotAllowed(f"GET is not allowed on /v1/models/{model}; it takes POST")
        found = check_name(served, model)
        found.check()
        status = found.status()
        listing = Listing(status.name, found.settings.aliases, status.task, found.settings.note, status.adapters)
        return json_response({"name": _named(model, status), "ready": True, **_card(model, listing)})

    @api.get("/v2/models/{model:path}/ready", summary="Model readiness")
    @api.get("/v2/models/{model:path}/versions/{version}/ready", summary="Readiness of a version")
    async def model_ready(model: str, version: str = "") -> Response:
        found = check_name(served, model, version)
        found.check()
        status = found.status()
        update = {"reason": f"the newest settings are not in force: {status.failure}"} if status.failure else {}
        return json_response({"name": _named(model, status), "ready": True, **update})

    @api.post("/v2/repository/models/{model:path}/load", summary="Load a model, and wait for it")
    async def load(request: Request, model: str) -> Response:
        async with check_name(served, model).engine(request):
            return json_response({"name": model, "load": True})

    @api.post("/v2/repository/models/{model:path}/unload", summary="Unload a model that is loaded on demand")
    async def unload(request: Request, model: str) -> Response:
        await check_name(served, model).release(request)
        return json_response({"name": model, "unload": True})

    @api.get("/v2/models/{model:path}/config", summary="Model configuration, as Triton tells it")
    @api.get("/v2/models/{model:path}/versions/{version}/config", summary="Configuration of a version")
    async def model_config(request: Request, model: str, version: str = "") -> Response:
        found = check_name(served, model, version)
        specs = await specs_of(request, found, prediction)
        return json_response(config_of(_named(model, found.status()), found, specs))

    @api.get("/v2/models/{model:path}/stats", summary="Model statistics, as Triton tells them")
    @api.get("/v2/models/{model:path}/versions/{version}/stats", summary="Statistics of a version")
    async def model_stats(model: str, version: str = "") -> Response:
        found = check_name(served, model, version)
        return json_response({"model_stats": [stats_of(found)]})

    @api.get("/v2/models/{model:path}", summary="Model metadata")
    @api.get("/v2/models/{model:path}/versions/{version}", summary="Metadata of a version")
    async def metadata(request: Request, model: str, version: str = "") -> Response:
        if model.endswith(POSTED):
            raise MethodNotAllowed(f"GET is not allowed on /v2/models/{model}; it takes POST")
        found = check_name(served, model, version)
        specs = await specs_of(request, found, prediction)
        status = found.status()
        described = {"name": _named(model, status), "versions": [found.settings.version]}
        tensors = {
            "inputs": [one.model_dump() for one in specs.inputs],
            "outputs": [one.model_dump() for one in specs.outputs],
        }
        return json_response(described | {"platform": f"serve-app-{status.engine}"} | tensors)

    return api


class IndexRequest(ClientBody):
    """Triton's body of a repository index."""

    ready: bool = False
    """Whether only those that are loaded are listed."""


INDEX_STATES = {"ready": "READY", "loading": "LOADING"}


def index_row(state: ModelStatus) -> dict[str, str]:
    """One model of the repository index; what is neither loaded nor loading is `UNAVAILABLE`, with the reason."""
    reason = state.failure or ("unloaded" if state.state == "unloaded" else state.progress)
    shown = INDEX_STATES.get(state.state, "UNAVAILABLE")
    return {"name": state.name, "version": state.version, "state": shown, "reason": reason}


async def specs_of(request: Request, served: Served, prediction: Prediction[Any, Any]) -> Specs:
    """The tensors of a model, which is waited for, or loaded, where only then they are known."""
    engine = served.loaded()
    if engine is not None or not prediction.of_engine:
        return prediction.specs(engine)
    async with served.engine(request) as loaded:
        return prediction.specs(loaded)


def config_of(name: str, served: Served, specs: Specs) -> dict[str, object]:
    """What Triton's model configuration extension says; `max_batch_size` 0 means that shapes are whole as they are."""

    def described(tensors: Sequence[TensorSpec]) -> list[dict[str, object]]:
        kinds = {"BYTES": "STRING"}
        return [
            {"name": one.name, "data_type": f"TYPE_{kinds.get(one.datatype, one.datatype)}", "dims": one.shape}
            for one in tensors
        ]

    return {
        "name": name,
        "platform": f"serve-app-{served.status().engine}",
        "backend": "serve-app",
        "max_batch_size": 0,
        "input": described(specs.inputs),
        "output": described(specs.outputs),
    }


def stats_of(served: Served) -> dict[str, object]:
    """What Triton's statistics extension says, of this replica since it started; times in nanoseconds."""
    times = served.times

    def told(count: int, seconds: float) -> dict[str, int]:
        return {"count": count, "ns": int(seconds * 1e9)}

    around_s = times.done_s - times.predict_s
    return {
        "name": served.identity.name,
        "version": served.settings.version,
        "last_inference": int(times.last_s * 1000),
        "inference_count": times.done,
        "execution_count": times.done,
        "inference_stats": {
            "success": told(times.done, times.done_s),
            "fail": told(times.failed, times.failed_s),
            "queue": told(times.done, 0.0),
            "compute_input": told(times.done, around_s),
            "compute_infer": told(times.done, times.predict_s),
            "compute_output": told(times.done, 0.0),
        },
        "batch_stats": [],
    }


def _named(asked: str, status: ModelStatus) -> str:
    """What a model calls itself when asked by that name: aliases are other words for it, adapters are not."""
    return asked if asked in status.adapters else status.name
