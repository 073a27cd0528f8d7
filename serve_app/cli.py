"""The command line: `serve-app up`, `down`, `status`, `graph`, `catalog check`, `catalog schema`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deployments import own_classes
from deployments.errors import ServeAppError
from serve_app import catalog as catalogs
from serve_app import environment, instance, screen
from serve_app.catalog import CatalogError

app = typer.Typer(help="One Ray Serve application for a whole model stack.", no_args_is_help=True, add_completion=False)
catalog_app = typer.Typer(help="Catalogs: the files that say which models there are.", no_args_is_help=True)
app.add_typer(catalog_app, name="catalog")

LAST_PORT = 65_535
Port = Annotated[int, typer.Option(help="HTTP port.", min=1, max=LAST_PORT)]


@app.command()
def up(
    catalog: Annotated[
        str | None,
        typer.Argument(help="A catalog's file, or the name of a shipped one. Default: $SERVE_APP_CATALOG or embedded."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of the Open Inference gRPC service. Default: 1000 above --port.")
    ] = None,
) -> None:
    """Serve a catalog on this machine until Ctrl-C."""
    from serve_app import up as starting

    grpc_port = grpc_port or (port + 1000 if port + 1000 <= LAST_PORT else port - 1000)
    raise typer.Exit(starting.up(catalog or environment.catalog_name(), host, port, grpc_port, console()))


@app.command()
def down(port: Port = 8000) -> None:
    """End what `serve-app up` started on this port, also after `up` itself was killed."""
    from serve_app import up as starting

    if not starting.down(port):
        print(f"nothing of serve-app runs on port {port}")


@app.command()
def status(port: Port = 8000) -> None:
    """Show every model of the application on this port."""
    import httpx

    running = instance.find(port)
    url = running.url if running else f"http://127.0.0.1:{port}"
    try:
        states = httpx.get(f"{url}/v2/health/ready", timeout=10).json()["models"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ServeAppError(f"No application answers at {url} ({error}). Start one with `serve-app up`.") from error
    console().print(screen.states_table(states))
    if any(state["state"] != "ready" for state in states):
        raise typer.Exit(1)


@app.command()
def graph(
    catalog: Annotated[str, typer.Argument(help="A catalog's file, or the name of a shipped one.")],
    name: Annotated[str | None, typer.Option("--graph", help="One of its graphs. Default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for <graph>.mmd and <graph>.svg. Default: print.")] = None,
) -> None:
    """Draw a catalog's inference graphs: as Mermaid text, and with --out as SVG too where Graphviz is installed."""
    from serve_app.graphs import pictures

    found = {one.name: one for one in catalogs.load(catalog).graphs}
    if name not in (None, *found):
        raise ServeAppError(f"{catalog} has no graph {name!r}; it has: {', '.join(found) or 'none'}")
    for one in [found[name]] if name else found.values():
        if out is None:
            print(pictures.mermaid(one))
            continue
        drawn = {"mmd": pictures.mermaid(one), "svg": pictures.svg(one)}
        try:
            out.mkdir(parents=True, exist_ok=True)
            for kind, text in drawn.items():
                if text is not None:
                    (out / f"{one.name}.{kind}").write_text(text)
                    print(out / f"{one.name}.{kind}")
        except OSError as error:
            raise ServeAppError(f"cannot write the pictures to the folder {out}: {error}") from error
    if not found:
        print(f"{catalog} has no graphs")


@catalog_app.command()
def schema() -> None:
    """Print the JSON Schema of catalogs, for editors."""
    print(json.dumps(catalogs.Catalog.model_json_schema(), indent=2))


@catalog_app.command()
def check(file: Annotated[str, typer.Argument(help="A catalog's file, or the name of a shipped one.")]) -> None:
    """Say whether a catalog is valid, or everything that is wrong with it."""
    found = catalogs.load(file)
    wrong = []
    for model in found.models:
        missing, unchecked = own_classes.looked_for(model.transformer_settings, model.engine)
        wrong += [f"{model.name}: {said}" for said in missing]
        for said in unchecked:
            print(f"not checked: {model.name}: {said}")
    if wrong:
        raise CatalogError("\n".join([f"{file} names classes that are not there:", *(f"  {one}" for one in wrong)]))
    print(f"{file}: valid; {len(found.models)} models: {', '.join(model.name for model in found.models)}")
    if found.graphs:
        print(f"{len(found.graphs)} graphs: {', '.join(one.name for one in found.graphs)}")


def console() -> Console:
    """Standard output; wide where it is no terminal, so that a log keeps whole lines."""
    return Console(width=None if sys.stdout.isatty() else 200)


def main() -> None:
    """The entry point: errors of ours are a paragraph and exit status 2, not a traceback."""
    try:
        app()
    except ServeAppError as error:
        print(f"serve-app: {error.message}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
