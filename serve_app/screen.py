"""What `serve-app` shows people: tables of models, and one request for each to try. Draws; decides nothing."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from deployments.engines import Task
from serve_app import environment
from serve_app.catalog import Catalog
from serve_app.instance import Instance

State = Mapping[str, str]
COLOURS = {"ready": "green", "failed": "red"}
JSON = " -H 'Content-Type: application/json' -d"
EXAMPLES: dict[Task, tuple[str, str]] = {
    "predict": ("", "/v2/models/%s  # what it takes"),
    "embed": ("/v1/embeddings", JSON + """ '{"model": "%s", "input": "Hello, world"}'"""),
    "rerank": ("/v1/rerank", JSON + """ '{"model": "%s", "query": "fruit", "documents": ["an apple", "a car"]}'"""),
    "transcribe": ("/v1/audio/transcriptions", " -F model=%s -F file=@speech.wav"),
    "speak": (
        "/v1/audio/speech",
        JSON + """ '{"model": "%s", "input": "What time is it?", "response_format": "wav"}' -o speech.wav""",
    ),
    "generate": (
        "/v1/chat/completions",
        JSON + """ '{"model": "%s", "messages": [{"role": "user", "content": "What is this?"}]}'""",
    ),
}
"""For each task an endpoint, and what follows it in a curl command."""


def state_line(state: State) -> str:
    """One model's state in one line."""
    return f"{state['name']}: {state['state']}" + "".join(
        f" ({state[key]})" for key in ("progress", "reason") if state.get(key)
    )


def states_table(states: Sequence[State]) -> Table:
    """Every model's state."""
    table = Table("Model", "State", "What it is doing", box=None)
    for state in states:
        colour = COLOURS.get(state["state"], "yellow")
        doing = state.get("reason") or state.get("progress", "")
        table.add_row(state["name"], f"[{colour}]{state['state']}[/]", doing)
    return table


def show_urls(console: Console, this: Instance, catalog: Catalog, states: Sequence[State], took_s: float) -> None:
    """Where each model is, and a request for each task that can be copied."""
    url = this.url
    by_name = {state["name"]: state for state in states}
    table = Table("Model", "Task", "Engine", "URL", "State", box=None)
    for model in catalog.models:
        state = by_name.get(model.name, {"state": "unknown"})
        colour = COLOURS.get(state["state"], "yellow")
        table.add_row(model.name, model.task, model.engine, url + model.route, f"[{colour}]{state['state']}[/]")
    console.print(table)
    for graph in catalog.graphs:
        console.print(f"graph {graph.name}: {url}/graphs/{graph.name}", markup=False, highlight=False, soft_wrap=True)
    for state in states:
        if state.get("reason"):
            console.print(f"{state['name']}: {state['reason']}", style="red", markup=False, soft_wrap=True)
    first_of_task = {model.task: model for model in reversed(catalog.models)}
    for model in sorted(first_of_task.values(), key=catalog.models.index):
        path, rest = EXAMPLES[model.task]
        request = f"curl {url}{model.route}{path}{rest % model.name}"
        console.print(request, markup=False, highlight=False, soft_wrap=True)
    if environment.api_keys():
        console.print("API keys are asked for: add -H 'Authorization: Bearer <key>'", highlight=False)
    where = f"; gRPC on port {this.grpc_port}; docs at {url}/docs; metrics at {this.metrics_url}; Ctrl-C ends it"
    console.print(f"up after {took_s:.0f} s{where}", highlight=False)
