"""The ingress of the application: an ASGI app that resolves each request and has it carried.

    edge (keys, ids, errors) → resolve (which model?) → carry (to its replica)

It answers itself only what is about all models at once: lists, health, docs.
"""

import asyncio
import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import Field
from python_multipart.multipart import parse_options_header
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments import heap
from deployments.asgi import BODY, Head, receive_of, scope_of
from deployments.errors import DeadlineExceeded, MethodNotAllowed, ModelNotFound
from deployments.model import Model
from deployments.protocols import ROUTERS, models
from deployments.protocols.app import ModelStatus, build_app, off_loop
from deployments.settings import Frozen, ModelIdentity
from deployments.within import within
from serve_app import environment
from serve_app.carry import GRACE_S, Carrier, pack
from serve_app.edge import Edge
from serve_app.graphs import documentation
from serve_app.graphs.endpoint import Graphs
from serve_app.graphs.spec import Graph
from serve_app.model import GATEWAY
from serve_app.multipart import field_of
from serve_app.resolve import API_ROUTES, Graphed, ModelEntry, Open, Own, Routes, Target
from serve_app.rpc import OpenInferenceMethods
from serve_app.uploads import Room

log = logging.getLogger("serve_app")
Found = TypeVar("Found")

OWN = frozenset({"/", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/v1/models", "/v2", "/v2/models"}) | {
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/repository/index",
    "/v2/models/stats",
}


YOUNG_OBJECTS = 5_000
"""How many objects more there are than at the last look before Python looks for garbage among them. Requests under way
are none: with its 700 it looked a hundred times a second at 32 clients, for 5 % of the gateway's CPU time."""


class GatewaySettings(Frozen):
    """What `reconfigure()` can change: the models' names and routes, those hosted here, and limits in bytes."""

    models: tuple[ModelEntry, ...]
    inline: dict[str, dict[str, Any]] = Field({})
    """Dumped `ModelSettings` of the models that the gateway itself hosts."""
    graphs: tuple[Graph, ...] = ()
    max_body: int
    max_reading: int


class Gateway(OpenInferenceMethods):
    """The Ray Serve deployment.

    `handles` lead to the replicas of the other deployments of this application, by name; those of other applications
    are in the settings. `inline` are the dumped `ModelIdentity`s of the models that are hosted here.
    """

    def __init__(self, handles: Mapping[str, "DeploymentHandle[Any]"], inline: Sequence[dict[str, Any]] = ()) -> None:
        gc.set_threshold(YOUNG_OBJECTS)
        self._carriers = {name: Carrier(name, handle) for name, handle in handles.items()}
        self._apart: set[str] = set()
        """The deployments that are applications of their own."""
        made = [Model(ModelIdentity.model_validate(one), cpus=1, gpus=0) for one in inline]
        self._inline = {model.name: model for model in made}
        self._settings = GatewaySettings(models=(), max_body=0, max_reading=0)
        self._routes = Routes(())
        self._graphs = Graphs(self._carry)
        self._room = Room(lambda: self._settings.max_body, lambda: self._settings.max_reading)
        self._own: ASGIApp = build_app("serve_app", [])
        self._adapters: dict[str, tuple[str, ...]] = {}
        self._learning: asyncio.Task[None] | None = None
        self._came_up: set[str] = set()
        self.http_app = Edge(self.answer, environment.api_keys())

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take over names, routes and limits. Settings that are not valid leave the old ones in force."""
        try:
            self._settings = GatewaySettings.model_validate(user_config)
        except ValueError:
            log.exception("these gateway settings are not valid; the old ones stay in force")
            return
        self._reach(self._settings.models)
        self._graphs.become(self._settings.graphs)
        self._route()
        for name, settings in self._settings.inline.items():
            if name in self._inline:
                self._inline[name].configure(settings)
        tasks = {model.task: None for model in self._settings.models}
        documented = [make(None) for make in dict.fromkeys(make for task in tasks for make in ROUTERS[task])]
        self._own = build_app(
            "serve_app",
            [
                models.server_router(self._listed, self._states, self._came_up),
                documentation.router(self._settings.graphs, API_ROUTES),
                *documented,
            ],
        )
        heap.tidy()

    def _reach(self, models: Sequence[ModelEntry]) -> None:
        """Have a way to each deployment of other applications, which may come later and be gone again."""
        apart = {model.deployment for model in models if model.apart}
        for name in self._apart - apart:
            del self._carriers[name]
        for name in apart - self._apart:
            self._carriers[name] = Carrier(name, DeploymentHandle(name, name))
        self._apart = apart

    def _route(self) -> None:
        self._routes = Routes(self._settings.models, self._adapters, [graph.name for graph in self._settings.graphs])

    async def check_health(self) -> None:
        """Ray Serve's health check: a model here that can compute no more is loaded anew; the others go on."""
        for model in self._inline.values():
            if not model.alive():
                await model.revive()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self.http_app

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request: resolved, then carried or answered here."""
        headers = dict(reversed(scope["headers"]))
        host = headers.get(b"host", b"").decode("latin-1").lower()
        found = await self._known(lambda: self._routes.resolve(scope["path"], host, OWN))
        if isinstance(found, Graphed) and await answer_probe(found, scope, send):
            return
        async with self._room.held(scope, receive) as body:
            if isinstance(found, Own):
                own = {**scope, "path": found.root_path + found.path, "root_path": found.root_path, BODY: None}
                await self._own(own, receive_of(body), send)
                return
            if isinstance(found, Graphed):
                await self._graphs.answer(found.name, scope, bytes(body), send)
                return
            target = found if isinstance(found, Target) else await self._choose(found, scope, headers, body)
            head = head_of(scope, target)
            if hosted := self._inline.get(target.model.name):
                await answer_inline(hosted, head, body, send)
                return
            parcel = await pack(body)
            del body  # a large one is in the object store now, and need not be kept besides
        await self._carriers[target.model.deployment].carry(head, parcel, send)

    def hosts(self, name: str) -> bool:
        """Whether the model of that name is here."""
        return name in self._inline

    async def _carry(self, name: str, head: Head, body: bytes, send: Send) -> None:
        """Have the model of that name or alias answer a request of a graph's step."""
        model = self._routes.named(name)
        head = head._replace(model=model.name, timeout_s=min(head.timeout_s, model.timeout_s))
        if hosted := self._inline.get(model.name):
            await answer_inline(hosted, head, body, send)
        else:
            await self._carriers[model.deployment].carry(head, await pack(body), send)

    async def _choose(
        self, target: Open, scope: Scope, headers: Mapping[bytes, bytes], body: bytes | bytearray
    ) -> Target:
        """The request's model, which its body or query names where nothing before it did."""
        kind = headers.get(b"content-type", b"")
        name = await off_loop(len(body), lambda: model_named_in(kind, body))
        name = name or model_queried(scope["query_string"])
        return await self._known(lambda: self._routes.choose(target, name))

    async def _known(self, find: Callable[[], Found]) -> Found:
        """What is found, asked again where a name was not known: it may be that of an adapter loaded since."""
        try:
            return find()
        except ModelNotFound:
            await self._learn_adapters()
            return find()

    async def _learn_adapters(self) -> None:
        """Know the names of the adapters that the models have now; all who ask at once ask together."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._ask_for_adapters())
        await asyncio.shield(self._learning)

    async def _ask_for_adapters(self) -> None:
        able = {model.deployment for model in self._settings.models if model.task == "generate"} & self._carriers.keys()
        states = await asyncio.gather(*(self._carriers[name].statuses() for name in able))
        found = {state.name: state.adapters for several in states for state in several if state.adapters}
        if found != self._adapters:
            self._adapters = found
            self._route()

    async def __del__(self) -> None:
        await self._graphs.close()

    async def _states(self) -> list[ModelStatus]:
        """Every model's state, asked of all at once."""
        told = await asyncio.gather(*(carrier.statuses() for carrier in self._carriers.values()))
        places = zip(self._carriers, told, strict=True)
        found = {(place, status.name): status for place, several in places for status in several}
        found |= {(GATEWAY, name): model.status() for name, model in self._inline.items()}
        return [
            found.get((entry.deployment, entry.name))
            or ModelStatus(entry.name, entry.task, "", "starting", "its replica is starting")
            for entry in self._settings.models
        ]

    async def _listed(self) -> list[models.Listing]:
        await self._learn_adapters()
        return [
            models.Listing(model.name, model.aliases, model.task, model.note, self._adapters.get(model.name, ()))
            for model in self._settings.models
        ]


async def answer_probe(found: Graphed, scope: Scope, send: Send) -> bool:
    """Answer `/readyz`, as KServe's router does. Raises `MethodNotAllowed` for what is neither that nor a request."""
    if found.path == "/readyz":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return True
    if scope["method"] != "POST":
        raise MethodNotAllowed(f"{scope['method']} is not allowed on the graph {found.name}; it takes POST")
    return False


async def answer_inline(model: Model, head: Head, body: bytes | bytearray, send: Send) -> None:
    """Have a model of this process answer, within the request's time. Raises `DeadlineExceeded`."""
    begun = False

    async def begin(message: Message) -> None:
        nonlocal begun
        if not begun:
            begun = True
            limit.lift()
        await send(message)

    try:
        with within(head.timeout_s + GRACE_S) as limit:
            await model.streaming_app(scope_of(head, body), receive_of(body), begin)
    except TimeoutError:
        raise DeadlineExceeded(f"{model.name} did not begin to answer within {head.timeout_s:g} s") from None


def head_of(scope: Scope, target: Target) -> Head:
    """The request as its model gets it, without its body."""
    client = scope.get("client")
    return Head(
        method=scope["method"],
        path=target.path,
        root_path=target.root_path,
        query=scope["query_string"],
        headers=list(scope["headers"]),
        client=(client[0], client[1]) if client else None,
        timeout_s=target.model.timeout_s,
        model=target.model.name,
    )


def model_queried(query: bytes) -> str | None:
    """The `model` of a query string: the way to name one where there is no body, as in a GET."""
    return dict(parse_qsl(query.decode("latin-1"))).get("model") if b"model=" in query else None


def model_named_in(content_type: bytes, body: bytes | bytearray) -> str | None:
    """The `model` of a JSON or multipart body; None where it names none or is neither."""
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        return field_of(body, options.get(b"boundary", b""), b"model")
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    name = data.get("model") if isinstance(data, dict) else None
    return name if isinstance(name, str) and name else None
