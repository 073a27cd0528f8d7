"""Graphs in an application's OpenAPI document: what each does, and the body that its first step asks for.

Knows nothing of how requests are answered.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from deployments.protocols.app import post
from serve_app.graphs.spec import ROOT, Graph, Node

ANY_JSON = {"required": True, "content": {"application/json": {"schema": {}}}}
TIMINGS = {
    "name": "x-graph-timings",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": ["1"]},
    "description": "have `server-timing` in the answer say what each step took, in milliseconds",
}
STATUSES = {
    "4XX": {"description": "A step's answer, which `x-graph-step` names, or no condition of a Switch that holds"},
    "5XX": {"description": "A step that failed, which `x-graph-step` names, or the graph's time that was over"},
}


def router(graphs: Sequence[Graph], routes: Sequence[APIRoute]) -> APIRouter:
    """The routes of these graphs, for the documentation alone; `routes` are those of models, whose bodies are known."""
    api = APIRouter(tags=["graph"])
    for graph in graphs:
        described = {"requestBody": _body(graph, ROOT, routes), "parameters": [TIMINGS]}
        post(
            api,
            f"/graphs/{graph.name}",
            None,
            openapi_extra=described,
            responses=STATUSES,
            summary=f"Inference graph {graph.name}",
            description=_told(graph),
            operation_id=f"graph_{graph.name}",
        )(_elsewhere)
    return api


async def _elsewhere(_request: Request) -> Response:
    raise AssertionError("graphs are answered before any route")


def _told(graph: Graph) -> str:
    """Each node and whom its steps ask, as Markdown."""
    return "\n".join(f"- `{name}`: {_node(node)}" for name, node in graph.nodes.items())


def _node(node: Node) -> str:
    asked = [f"{step.name}: {step.target}" if step.name else step.target for step in node.steps]
    return f"{node.router_type} of " + (" → " if node.router_type == "Sequence" else ", ").join(asked)


def _body(graph: Graph, name: str, routes: Sequence[APIRoute]) -> dict[str, Any]:
    """The body of requests: that of the path which the first step asks, where the request goes there as it is."""
    first = graph.nodes[name].steps[0]
    if first.request is not None or first.map_predictions or first.service_url:
        return ANY_JSON
    if first.node_name:
        return _body(graph, first.node_name, routes)
    path = first.path or f"/v1/models/{first.service_name}:predict"
    fitting = (one for one in routes if "POST" in one.methods and one.path_regex.match(path))
    found = next(fitting, None)
    body: dict[str, Any] = (found.openapi_extra or {}).get("requestBody", ANY_JSON) if found else ANY_JSON
    return body
