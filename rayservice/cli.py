"""The whole command line: what `serve_app.cli` has, and the commands for Kubernetes."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.errors import ServeAppError
from serve_app import catalog as catalogs
from serve_app.cli import LAST_PORT, Port, app, console, main
from serve_app.cli import status as status_here

__all__ = ["app", "main"]

Catalog = Annotated[str, typer.Argument(help="A catalog's file, or the name of a shipped one.")]
Context = Annotated[str | None, typer.Option(help="The kubeconfig context. Default: the current one.")]
Url = Annotated[
    str | None, typer.Option(help="Where the application answers. Default: its Service, inside the cluster.")
]
RAY_URL = "http://127.0.0.1:8265"
Files = Annotated[list[Path], typer.Argument(help="YAML files, or folders of them.")]


class WriteError(ServeAppError):
    """A file that cannot be written, or that must not be overwritten."""

    code = "write_failed"


@app.command()
def render(
    catalog: Catalog,
    out: Annotated[Path, typer.Option(help="Folder for the RayService and what surrounds it.")],
    aliases: Annotated[
        Path | None, typer.Option(help="Folder for the alias services. Default: aliases in --out.")
    ] = None,
) -> None:
    """Write the Kubernetes manifests of a catalog."""
    from rayservice import render as rendering

    folder = aliases or out / "aliases"
    command = f"serve-app render {catalog} --out {out}" + (f" --aliases {aliases}" if aliases else "")
    manifests, services = rendering.render(catalogs.load(catalog), command)
    try:
        rendering.write(manifests, out)
        rendering.write(services, folder)
    except OSError as error:
        raise WriteError(f"cannot write the manifests: {error}") from error
    print(f"wrote {len(manifests)} files to {out} and {len(services)} to {folder}")
    print(f"apply them: kubectl apply --server-side -k {out} && kubectl apply --server-side -k {folder}")


@app.command()
def plan(catalog: Catalog) -> None:
    """Show which GPU each model of a catalog will be on, and what does not fit; then the exit status is 1."""
    from rayservice import plan as planning
    from rayservice import plan_screen

    found = planning.plan(catalogs.load(catalog))
    plan_screen.show(console(), found)
    if found.complaints:
        raise typer.Exit(1)


@app.command()
def lint(files: Files) -> None:
    """Say what is wrong with manifests, without a cluster; if anything is, the exit status is 1."""
    from rayservice import documents
    from rayservice import lint as linting

    if named := [str(file) for file in files if not file.exists() and str(file) in catalogs.shipped()]:
        raise documents.DocumentError(
            f"{', '.join(named)} is the name of a catalog, and lint takes manifests: files, or folders of them, as "
            "`serve-app render` writes; see `serve-app catalog check` for catalogs"
        )
    given = documents.read(files)
    found = linting.lint(given)
    for finding in found:
        print(finding)
    for one in linting.unchecked(given):
        print(f"not checked: {one}")
    if found:
        raise typer.Exit(1)
    print("nothing wrong")


@app.command("import")
def import_(
    files: Files,
    out: Annotated[Path, typer.Option(help="The catalog to write.")],
    force: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Make a catalog of KServe's manifests, and report what could not be carried over."""
    from rayservice import documents
    from rayservice.kserve import convert

    if out.exists() and not force:
        raise WriteError(f"{out} is there already; write to another file, or replace it with --force")
    text, report = convert(documents.read(files))
    try:
        out.write_text(text)
    except OSError as error:
        raise WriteError(f"cannot write {out}: {error}") from error
    print(f"wrote {out}")
    for line in report:
        print(f"not carried over: {line}")


@app.command()
def deploy(
    catalog: Catalog,
    context: Context = None,
    local: Annotated[bool, typer.Option("--local", help="Give it to a Ray that runs, without Kubernetes.")] = False,
    ray_url: Annotated[str, typer.Option(help="With --local, Ray's dashboard.")] = RAY_URL,
    no_gpus: Annotated[bool, typer.Option("--no-gpus", help="With --local, CPUs in place of GPUs.")] = False,
    port: Annotated[int, typer.Option(help="With --local, the HTTP port.", min=1, max=LAST_PORT)] = 8000,
    grpc_port: Annotated[int, typer.Option(help="With --local, the gRPC port.", min=1, max=LAST_PORT)] = 9000,
) -> None:
    """Put a catalog into a cluster, by server-side apply; see `wait` for what becomes of it."""
    if local:
        from rayservice import local as ray

        ray.deploy(catalogs.load(catalog), ray_url, no_gpus, port, grpc_port)
        print(f"Ray at {ray_url} has it")
        return
    from rayservice import client

    for said in client.deploy(client.connect(context), catalogs.load(catalog)):
        print(f"applied {said}")


@app.command()
def delete(catalog: Catalog, context: Context = None) -> None:
    """Take a catalog out of a cluster again."""
    from rayservice import client

    gone = client.delete(client.connect(context), catalogs.load(catalog))
    print("\n".join(f"deleted {said}" for said in gone) or "nothing of it was there")


@app.command()
def wait(
    catalog: Catalog,
    context: Context = None,
    url: Url = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.", min=1)] = 1800.0,
) -> None:
    """Wait until a cluster serves the newest version of a catalog; ends with the reason if it will not."""
    from rayservice import client

    found, cluster = catalogs.load(catalog), client.connect(context)
    address = url or client.url_of(found)
    if client.model_states(address) is None:
        print(f"models are not asked as long as nothing answers at {address}; see --url")
    client.wait(lambda: client.look(cluster, found), lambda: client.model_states(address), console(), timeout)


@app.command()
def status(
    catalog: Annotated[str | None, typer.Argument(help="A catalog in a cluster. Default: what runs here.")] = None,
    port: Port = 8000,
    context: Context = None,
    url: Url = None,
    local: Annotated[bool, typer.Option("--local", help="Of a Ray that runs, without Kubernetes.")] = False,
    ray_url: Annotated[
        str | None,
        typer.Option(help=f"Ray's dashboard, which knows what has no place and why. Default with --local: {RAY_URL}."),
    ] = None,
) -> None:
    """Show every model of what runs on this machine's port, or of a catalog in a cluster or a local Ray."""
    from rayservice import client, placement, progress
    from rayservice import local as ray

    if catalog is None:
        status_here(port)
        return
    found, dashboard = catalogs.load(catalog), ray_url or (RAY_URL if local else None)
    applications = ray.applications(dashboard) if dashboard else {}
    if local and not applications:
        raise client.ClusterError(
            f"Ray at {dashboard} runs nothing; `serve-app deploy {catalog} --local` puts it there"
        )
    unplaced = placement.unplaced(applications, ray.nodes(dashboard), found) if dashboard else {}
    address = url or (f"http://127.0.0.1:{port}" if local else client.url_of(found))
    states = client.model_states(address)
    if local:
        table, ready = progress.local_table(applications, states, unplaced), progress.local_ready(applications, states)
    else:
        manifest = client.look(client.connect(context), found)
        table, ready = progress.table(manifest, states, unplaced), progress.progress(manifest, states).ready
    console().print(table)
    if states is None:
        print(f"the models could not be asked: nothing answers at {address}; see --url")
    if not ready:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
