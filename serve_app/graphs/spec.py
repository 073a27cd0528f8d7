"""A graph as the catalog has it, in KServe's keys, and all that can be wrong with one. Knows nothing of how it runs.

Contract: KServe's `InferenceGraph` (serving.kserve.io/v1alpha1). Keys that are ours: a step's `path`, `request` and
`timeout`, a graph's `timeout`, `headers` and `maxAnswer`.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import ByteSize, ConfigDict, Field, JsonValue, StringConstraints, field_validator, model_validator

from deployments.settings import DurationS, Frozen
from serve_app.graphs.paths import Path
from serve_app.graphs.templates import Template

ROOT = "root"
MAX_CALLS = 1000
"""Services that one request may ask, at most: nodes that name the same node twice double them with every level."""

GraphName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""A DNS label (RFC 1035): the name is a Host."""
RouterType = Literal["Sequence", "Switch", "Splitter", "Ensemble"]


class Keys(Frozen):
    """Base of what is written in KServe's camelCase."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class Step(Keys):
    """One target of a node: a model, a URL, or another node."""

    name: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,63}$", description="in the answer of an Ensemble, and in ${steps}")
    service_name: str = Field("", alias="serviceName", description="a model of this catalog, by its name or an alias")
    service_url: str = Field("", alias="serviceUrl", description="a service elsewhere")
    node_name: str = Field("", alias="nodeName", description="another node of the graph")
    path: str = Field(
        "",
        pattern=r"^(/[^\s?#]*)?$",
        description="what the model is asked, such as /v1/chat/completions; by default V1 predict",
    )
    request: JsonValue = Field(None, description="the body to send, with ${request...}, ${response...}, ${steps...}")
    data: Literal["$request", "$response"] = Field("$request", description="the body to send, as it came")
    map_predictions: bool = Field(
        False, alias="mapPredictionsToInstances", description="send the body's predictions as instances, and only them"
    )
    condition: str = Field("", description="a GJSON path that must exist")
    weight: int | None = Field(None, ge=0, le=100, description="percent of a Splitter's requests")
    dependency: Literal["Soft", "Hard"] = Field("Soft", description="Hard: what is not 2xx is answered at once")
    timeout: DurationS | None = Field(None, description="how long its answer may take; then it has failed")

    @field_validator("condition")
    @classmethod
    def _is_path(cls, condition: str) -> str:
        if condition:
            Path(condition)
        return condition

    @field_validator("service_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s{}]", url)):
            raise ValueError(f"{url!r} is no URL; write http://host:port/path or https://...")
        return url

    @model_validator(mode="after")
    def _one_target(self) -> "Step":
        given = [key for key in (self.service_name, self.service_url, self.node_name) if key]
        if len(given) != 1:
            raise ValueError(f"a step has one of serviceName, serviceUrl and nodeName; this has {len(given)}")
        if self.path and not self.service_name:
            raise ValueError("path goes with serviceName; a URL has its own, and a node none")
        if self.request is not None and (self.data == "$response" or self.map_predictions):
            raise ValueError("request says the whole body; leave out data and mapPredictionsToInstances")
        Template(self.request)
        return self

    @cached_property
    def where(self) -> Path | None:
        """The condition."""
        return Path(self.condition) if self.condition else None

    @cached_property
    def template(self) -> Template | None:
        """The request to be made."""
        return None if self.request is None else Template(self.request)

    @property
    def target(self) -> str:
        """Whom it asks, for people."""
        return self.service_name + self.path or self.service_url or self.node_name


class Node(Keys):
    """Steps, and how they go together."""

    router_type: RouterType = Field(alias="routerType")
    steps: tuple[Step, ...]

    @model_validator(mode="after")
    def _sound(self) -> "Node":
        if not self.steps:
            raise ValueError("a node has at least one step")
        names = [step.name for step in self.steps if step.name]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two steps are called {twice!r}")
        for index, step in enumerate(self.steps):
            if complaint := self._complaint(index, step):
                raise ValueError(f"step {step.name or index}: {complaint}")
        total = sum(step.weight or 0 for step in self.steps)
        if self.router_type == "Splitter" and total != 100:
            raise ValueError(f"the weights of a Splitter sum to 100; these to {total}")
        return self

    def _complaint(self, index: int, step: Step) -> str | None:
        kind = self.router_type
        if kind == "Switch" and not step.condition:
            return "a Switch never chooses a step without condition; @this is one that always holds"
        if step.condition and kind not in ("Switch", "Sequence"):
            return f"no condition is looked at in {_a(kind)}"
        if kind == "Sequence" and index == 0 and step.condition:
            return "the first step of a Sequence has no response before it that a condition could hold on"
        if (step.weight is None) == (kind == "Splitter"):
            return "a Splitter's step has a weight" if kind == "Splitter" else f"no weight is looked at in {_a(kind)}"
        if step.data == "$response" and kind != "Sequence":
            return f"data: $response is for a Sequence; the steps of {_a(kind)} get the request"
        earlier = [one.name for one in self.steps[:index] if one.name] if kind == "Sequence" else []
        for reference in step.template.references if step.template else ():
            if reference.root == "response" and (kind != "Sequence" or index == 0):
                return f"${{{reference.text}}}: no step comes before it"
            if reference.root == "steps" and reference.step not in earlier:
                return f"${{{reference.text}}}: no step before it is called so; have: {', '.join(earlier) or 'none'}"
        return None


class Graph(Keys):
    """An inference graph."""

    name: GraphName
    nodes: dict[str, Node] = Field(description="by name; requests go to root")
    timeout: DurationS = Field(600.0, description="how long a request may wait for its answer to begin")
    headers: tuple[str, ...] = Field((), description="regular expressions: headers whose names match go to all steps")
    max_answer: ByteSize = Field(
        ByteSize(16 << 20), alias="maxAnswer", description="the largest answer that a step may give to another one"
    )

    @model_validator(mode="before")
    @classmethod
    def _named_services(cls, given: Any) -> Any:
        """A node that has nothing but `serviceName` or `serviceUrl` says what is behind the steps that name it."""
        nodes = given.get("nodes") if isinstance(given, dict) else None
        if not isinstance(nodes, dict):
            return given
        plain = {name: node for name, node in nodes.items() if isinstance(node, dict) and len(node) == 1}
        plain = {name: node for name, node in plain.items() if node.keys() <= {"serviceName", "serviceUrl"}}
        kept = {name: _with_services(node, plain) for name, node in nodes.items() if name not in plain}
        return {**given, "nodes": kept}

    @field_validator("headers")
    @classmethod
    def _are_patterns(cls, headers: tuple[str, ...]) -> tuple[str, ...]:
        for text in headers:
            try:
                re.compile(text)
            except re.error as error:
                raise ValueError(f"{text!r} is no regular expression: {error}") from None
        return headers

    @model_validator(mode="after")
    def _sound(self) -> "Graph":
        if ROOT not in self.nodes:
            raise ValueError(
                f"there is no node {ROOT!r}, where requests begin; have: {', '.join(self.nodes) or 'none'}"
            )
        for name, node in self.nodes.items():
            for step in node.steps:
                if step.node_name and step.node_name not in self.nodes:
                    have = ", ".join(self.nodes)
                    raise ValueError(f"a step of {name!r} names the node {step.node_name!r}; have: {have}")
        done: set[str] = set()
        for name in self.nodes:
            _check_acyclic(self.nodes, [name], done)
        if (calls := _calls(self.nodes, ROOT, {})) > MAX_CALLS:
            raise ValueError(f"one request may ask {calls} services; at most {MAX_CALLS}")
        return self

    @cached_property
    def propagated(self) -> "tuple[re.Pattern[str], ...]":
        """What the names of headers are looked for with, as KServe's router does, but for case."""
        return tuple(re.compile(text, re.IGNORECASE) for text in self.headers)

    def steps(self) -> Iterator[tuple[str, int, Step]]:
        """Every step, with its node's name and its index there."""
        for name, node in self.nodes.items():
            for index, step in enumerate(node.steps):
                yield name, index, step


def _with_services(node: Any, plain: dict[str, Any]) -> Any:
    if not isinstance(node, dict) or not isinstance(node.get("steps"), list):
        return node
    return {**node, "steps": [_with_service(step, plain) for step in node["steps"]]}


def _with_service(step: Any, plain: dict[str, Any]) -> Any:
    if not isinstance(step, dict):
        return step
    key = next((key for key in ("serviceName", "nodeName") if step.get(key) in plain), None)
    if key is None:
        return step
    rest = {name: value for name, value in step.items() if name != key}
    return {"name": step[key], **rest, **plain[step[key]]}


def _check_acyclic(nodes: dict[str, Node], way: list[str], done: set[str]) -> None:
    """Raise `ValueError` for a way that comes back to itself; `done` are nodes from which none does."""
    for step in nodes[way[-1]].steps:
        if step.node_name in way:
            circle = [*way[way.index(step.node_name) :], step.node_name]
            raise ValueError(f"nodes name each other in a circle: {' → '.join(circle)}")
        if step.node_name and step.node_name not in done:
            _check_acyclic(nodes, [*way, step.node_name], done)
    done.add(way[-1])


def _calls(nodes: dict[str, Node], name: str, known: dict[str, int]) -> int:
    """Services that a request to that node may ask."""
    if name not in known:
        each = [_calls(nodes, step.node_name, known) if step.node_name else 1 for step in nodes[name].steps]
        known[name] = max(each) if nodes[name].router_type in ("Switch", "Splitter") else sum(each)
    return known[name]


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "Ensemble" else f"a {kind}"
