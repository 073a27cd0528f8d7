"""Which model a request is for. Routes by path, name and Host; knows nothing of bodies' meaning or of Ray.

First match wins (design: "How a request finds its model"):
1. the route prefix; 2. a model named in a KServe path; 3. `model` in the body; 4. the Host alias;
5. the only model that serves the endpoint's task. A Host alias also restricts the others.
Before all of them: the Host that is a graph's name, whose every path is the graph's, and `/graphs/<name>`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fastapi.routing import APIRoute

from deployments.engines import Task
from deployments.errors import BadRequest, ModelNotFound, NotFound, listed
from deployments.protocols import ROUTERS
from deployments.settings import Frozen

KSERVE_PREFIXES = ("/v1/models/", "/v2/models/", "/v2/repository/models/")
_ALL = [(route, task) for task, makers in ROUTERS.items() for make in makers for route in make(None).routes]
API_ROUTES = [route for route, _ in _ALL if isinstance(route, APIRoute)]
"""What the protocols' routers declare, for every task."""
_ROUTES = [
    (route, task) for route, task in _ALL if isinstance(route, APIRoute) and not route.path.startswith(KSERVE_PREFIXES)
]
ENDPOINTS: dict[str, Task] = {route.path: task for route, task in _ROUTES}
"""Endpoints at the root, and the task that each belongs to: what the protocols' routers declare."""
_PATTERNS = [(route.path_regex, task) for route, task in _ROUTES if route.param_convertors]
PREFIX = "/openai"
MOST_RESOLVED = 4096
"""So many pairs of path and host are remembered, which are far more than clients that know what they want ask for."""
GRAPHS = "/graphs/"


class ModelEntry(Frozen):
    """What routing needs to know of a model."""

    name: str
    task: Task
    route: str
    predictor: str
    aliases: tuple[str, ...] = ()
    timeout_s: float = 600.0
    note: str = ""
    """What people should know of its quality."""
    deployment: str = ""
    """The Ray Serve deployment that requests for it go to."""
    apart: bool = False
    """Whether that is an application of its own, of the same name."""


@dataclass(frozen=True)
class Target:
    """A model, and the request's path as that model knows it, below `root_path`."""

    model: ModelEntry
    root_path: str
    path: str


@dataclass(frozen=True)
class Open:
    """A request whose path and Host do not say which model: `model` in its body may."""

    root_path: str
    path: str
    task: Task
    alias: ModelEntry | None


@dataclass(frozen=True)
class Own:
    """A request that the gateway answers itself."""

    root_path: str
    path: str


@dataclass(frozen=True)
class Graphed:
    """A request to an inference graph, and its path below that."""

    name: str
    path: str


class Routes:
    """The models of an application, looked up at a cost that does not grow with their number."""

    def __init__(
        self,
        models: Sequence[ModelEntry],
        adapters: Mapping[str, Sequence[str]] | None = None,
        graphs: Collection[str] = (),
    ) -> None:
        """`adapters` are the names of each model's LoRA adapters, by the model's name; `graphs` those of graphs."""
        self.models = models
        self._graphs = graphs
        adapters = adapters or {}
        self._by_name = {label: model for model in models for label in adapters.get(model.name, ())}
        # After the adapters': what the catalog names is never hidden by what was loaded since.
        self._by_name |= {label: model for model in models for label in (model.name, *model.aliases)}
        self._by_host = {model.predictor: model for model in models}
        self._by_route = {model.route: model for model in models}
        self._resolved: dict[tuple[str, str], Target | Open | Own | Graphed] = {}
        self._depth = max((model.route.count("/") for model in models), default=0)
        self._by_task: dict[Task, list[ModelEntry]] = {}
        for model in models:
            self._by_task.setdefault(model.task, []).append(model)

    def named(self, name: str) -> ModelEntry:
        """The model of that name or alias. Raises `ModelNotFound`."""
        if model := self._by_name.get(name):
            return model
        raise ModelNotFound.named(name, [model.name for model in self.models])

    def resolve(self, path: str, host: str, own: frozenset[str]) -> Target | Open | Own | Graphed:
        """Where a request goes, by its path and its Host. `own` are the gateway's paths.

        Raises `ModelNotFound` for a model that is not there or not this alias's, `NotFound` for a path
        that is nobody's.
        """
        found = self._resolved.get((path, host))
        if found is None:
            found = self._resolve(path, host, own)
            if len(self._resolved) >= MOST_RESOLVED:
                self._resolved.clear()
            if len(path) + len(host) < 256:
                self._resolved[path, host] = found
        return found

    def _resolve(self, path: str, host: str, own: frozenset[str]) -> Target | Open | Own | Graphed:
        label = host_label(host)
        if label in self._graphs:
            return Graphed(label, path)
        alias = self._by_host.get(label)
        if path.startswith(GRAPHS):
            return self._graph(path.removeprefix(GRAPHS), alias)
        prefixed = self._by_prefix(path)
        if prefixed:
            return self._restricted(prefixed, alias, prefixed.model.name)
        root, path = _split_openai(path)
        if path in own:
            return Target(alias, root, path) if alias else Own(root, path)
        named = self._by_kserve_path(root, path)
        if named:
            return self._restricted(named, alias, named.model.name)
        if task := _task_of(path):
            return Open(root, path, task, alias)
        if alias:
            return Target(alias, root, path)
        if path.startswith("/static-offline-docs/"):
            return Own(root, path)
        raise NotFound(f"nothing at {root}{path}. {self._valid(own)}")

    def choose(self, request: Open, name: str | None) -> Target:
        """The model of an open request, given the `model` that its body names, if it names one.

        Raises `ModelNotFound` for an unknown name, `BadRequest` for a model of another task or, where
        several would do, for none named.
        """
        able = self._by_task.get(request.task, [])
        model = self._by_name.get(name) if name is not None else request.alias
        if name is not None and model is None:
            raise ModelNotFound.named(name, [m.name for m in ([request.alias] if request.alias else able)])
        if model is None:
            if len(able) != 1:
                have = listed([m.name for m in able])
                reason = f"name one of them as `model`: {have}" if able else f"no model here does {request.task}"
                raise (BadRequest if able else NotFound)(f"{request.path}: {reason}", param="model")
            model = able[0]
        target = self._restricted(Target(model, request.root_path, request.path), request.alias, name or model.name)
        if model.task != request.task:
            have = listed([m.name for m in able]) or "none"
            raise BadRequest(
                f"model {model.name!r} does {model.task}, and {request.path} is for {request.task}; "
                f"models for it: {have}",
                param="model",
            )
        return target

    def _graph(self, rest: str, alias: ModelEntry | None) -> Graphed:
        name, slash, path = rest.partition("/")
        if name not in self._graphs or alias:
            have = listed(sorted(self._graphs)) or "none"
            raise NotFound(f"no graph {name!r} here; graphs: {have if not alias else 'none'}")
        return Graphed(name, slash + path)

    def _by_prefix(self, path: str) -> Target | None:
        segments = path.split("/", self._depth + 1)
        for end in range(min(len(segments), self._depth + 1), 1, -1):
            route = "/".join(segments[:end])
            if model := self._by_route.get(route):
                root, rest = _split_openai(path[len(route) :] or "/")
                return Target(model, route + root, rest)
        return None

    def _by_kserve_path(self, root: str, path: str) -> Target | None:
        prefix = next((prefix for prefix in KSERVE_PREFIXES if path.startswith(prefix)), None)
        if prefix is None:
            return None
        rest = path.removeprefix(prefix)
        # An alias may hold slashes, as in `BAAI/bge-m3`: the longest name that the path begins with.
        parts = rest.split("/")
        for end in range(len(parts), 0, -1):
            name = "/".join(parts[:end])
            model = self._by_name.get(name) or self._by_name.get(name.rpartition(":")[0])
            if model:
                return Target(model, root, path)
        asked = parts[0].removesuffix(":predict").removesuffix(":explain")
        raise ModelNotFound.named(asked, [model.name for model in self.models])

    def _restricted(self, target: Target, alias: ModelEntry | None, asked: str) -> Target:
        if alias and target.model is not alias:
            raise ModelNotFound.named(asked, [alias.name])
        return target

    def _valid(self, own: frozenset[str]) -> str:
        routes = listed([f"{model.route}/" for model in self.models])
        return f"Models are under {routes}; at the root are {', '.join([*ENDPOINTS, *sorted(own)])}"


def host_label(host: str) -> str:
    """The part of a Host header that an alias is known by: `whisper-predictor` of `whisper-predictor.ml.svc:8000`."""
    return host.partition(":")[0].partition(".")[0]


def takes(path: str, task: Task) -> bool:
    """Whether models of that task answer a POST there, by what the protocols' routers declare."""
    routes = (route for route, of in _ALL if of == task and isinstance(route, APIRoute) and "POST" in route.methods)
    return any(route.path_regex.match(path) for route in routes)


def _task_of(path: str) -> Task | None:
    """The task of the endpoint at `path`, if one is there."""
    return ENDPOINTS.get(path) or next((task for pattern, task in _PATTERNS if pattern.match(path)), None)


def _split_openai(path: str) -> tuple[str, str]:
    """KServe's `/openai` prefix, if the path has it, and the rest."""
    if path == PREFIX or path.startswith(PREFIX + "/"):
        return PREFIX, path.removeprefix(PREFIX) or "/"
    return "", path
