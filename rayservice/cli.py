"""The whole command line: what `serve_app.cli` has, and the commands for Kubernetes."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.errors import ServeAppError
from serve_app import catalog as catalogs
from serve_app.cli import app, console, main

__all__ = ["app", "main"]

Catalog = Annotated[str, typer.Argument(help="A catalog's file, or the name of a shipped one.")]
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

    found = linting.lint(documents.read(files))
    for finding in found:
        print(finding)
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


if __name__ == "__main__":
    main()
