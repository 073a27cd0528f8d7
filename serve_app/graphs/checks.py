"""Graphs against the models of their catalog: what a step names must be there, and do what it is asked.

Knows nothing of what a graph is by itself: that is `spec`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from deployments import engines
from deployments.engines import Task
from deployments.errors import listed
from serve_app.graphs.spec import Graph


class Known(Protocol):
    """What is to be known of a model."""

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> str: ...

    @property
    def aliases(self) -> Sequence[str]: ...

    @property
    def task(self) -> Task: ...


def graph_complaints(graphs: Sequence[Graph], models: Sequence[Known]) -> Iterator[str]:
    """What is wrong, in a line each."""
    by_name = {label: model for model in models for label in (model.name, *model.aliases)}
    for at, graph in enumerate(graphs):
        for node, index, step in graph.steps():
            place = f"graphs[{at}] ({graph.name}).nodes.{node}.steps[{index}]"
            if step.service_name and step.service_name not in by_name:
                have = listed([model.name for model in models])
                yield f"{place}.serviceName: no model {step.service_name!r}; have: {have}"
            elif step.path and (wrong := _wrong_path(step.path, by_name[step.service_name])):
                yield f"{place}.path: {wrong}"


def _wrong_path(path: str, model: Known) -> str | None:
    """Why that path is none of the model's, where that is known."""
    from serve_app.resolve import ENDPOINTS, KSERVE_PREFIXES, takes  # here, for it takes a second

    if ENDPOINTS.get(path, model.task) != model.task:
        return f"{path} is for {ENDPOINTS[path]}; {model.name} does {model.task}"
    prefix = next((prefix for prefix in KSERVE_PREFIXES if path.startswith(prefix)), None)
    names = "|".join(re.escape(name) for name in (model.name, *model.aliases))
    if prefix and not re.match(rf"({names})([:/]|$)", path.removeprefix(prefix)):
        return f"{path} names another model than serviceName, which is {model.name}"
    if model.engine in engines.names() and not engines.may_have_own_app(model.engine) and not takes(path, model.task):
        own = [endpoint for endpoint, task in ENDPOINTS.items() if task == model.task and "{" not in endpoint]
        have = [*own, f"/v1/models/{model.name}:predict", f"/v2/models/{model.name}/infer"]
        return f"{model.name}, of engine {model.engine}, has no {path}; it takes {listed(have)}"
    return None
