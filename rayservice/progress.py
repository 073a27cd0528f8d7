"""How far a RayService has come, by what KubeRay says of it and what its models say of themselves. Asks nobody."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from serve_app.screen import COLOURS

State = Mapping[str, str]
FAILED = "DEPLOY_FAILED"
READY = ("ready", "unloaded")
"""States of models that nothing is waited for in."""
NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Progress:
    """`ready` when nothing is waited for; `failed` is the reason why it never will be, if so."""

    ready: bool
    said: str
    failed: str = ""


def progress(manifest: Mapping[str, Any], states: Sequence[State] | None) -> Progress:
    """Of one look. `Ready` alone means only that there are endpoints, and stays after an update that failed, so it
    counts once KubeRay has seen the newest version and every application runs.

    `states` are the models', None where they could not be asked.
    """
    status = manifest.get("status") or {}
    for name, one in applications(manifest):
        if one.get("status") == FAILED:
            return Progress(False, "", f"application {name} failed: {_reason(one)}")
    for state in states or ():
        if state["state"] == "failed":
            return Progress(False, "", f"model {state['name']} failed: {state.get('reason') or 'no reason given'}")
    if status.get("observedGeneration", 0) < manifest["metadata"].get("generation", 1):
        return Progress(False, "KubeRay has not seen the newest version yet")
    conditions = {one.get("type"): one for one in status.get("conditions") or []}
    waiting = [f"application {name} is {one.get('status')}" for name, one in applications(manifest)]
    waiting = [line for line in waiting if not line.endswith(" is RUNNING")]
    if (conditions.get("UpgradeInProgress") or {}).get("status") == "True":
        waiting.append("a second cluster is coming up")
    if (conditions.get("Ready") or {}).get("status") != "True":
        message = (conditions.get("Ready") or {}).get("message")
        waiting.append("no worker serves yet" + (f" ({message})" if message else ""))
    if not any(applications(manifest)):
        waiting.append("no application yet")
    waiting += [f"{one['name']} is {one['state']}" for one in states or () if one["state"] not in READY]
    return Progress(not waiting, "; ".join(waiting) or "ready")


def applications(manifest: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and states of the applications, those of a second cluster that is coming up too."""
    status = manifest.get("status") or {}
    for key in ("activeServiceStatus", "pendingServiceStatus"):
        yield from ((status.get(key) or {}).get("applicationStatuses") or {}).items()


def table(manifest: Mapping[str, Any], states: Sequence[State] | None, unplaced: Mapping[str, str] = NONE) -> Table:
    """The RayService, its applications, their deployments, and each model's own state.

    `unplaced` says why deployments have replicas on no machine, by application and name.
    """
    now = progress(manifest, states)
    state = "failed" if now.failed else "ready" if now.ready else "waiting"
    first = ("RayService", manifest["metadata"]["name"], state, now.failed or now.said)
    given = {name: {**one, "deployments": one.get("serveDeploymentStatuses")} for name, one in applications(manifest)}
    return _table([first, *_rows(given, states, unplaced)])


def local_table(
    applications: Mapping[str, Any], states: Sequence[State] | None, unplaced: Mapping[str, str] = NONE
) -> Table:
    """The same of a Ray without Kubernetes, as its REST API has applications."""
    return _table(_rows(applications, states, unplaced))


def local_ready(applications: Mapping[str, Any], states: Sequence[State] | None) -> bool:
    """Whether a Ray without Kubernetes runs every application, and every model could be asked and is ready."""
    running = [one["status"] == "RUNNING" for one in applications.values()]
    return bool(running and all(running) and states) and all(one["state"] in READY for one in states or ())


Row = tuple[str, str, str, str]


def _rows(
    applications: Mapping[str, Any], states: Sequence[State] | None, unplaced: Mapping[str, str]
) -> Iterator[Row]:
    for name, one in applications.items():
        yield "application", name, str(one.get("status")), _last_line(one)
        for deployment, two in sorted((one.get("deployments") or {}).items()):
            why = unplaced.get(f"{name}/{deployment}") or _last_line(two)
            yield "deployment", deployment, str(two.get("status")), why
    for state in states or ():
        yield "model", state["name"], state["state"], state.get("reason") or state.get("progress", "")


def _table(rows: Iterable[Row]) -> Table:
    made = Table("What", "Name", "State", "Why", box=None)
    good = {"RUNNING": "ready", "HEALTHY": "ready", FAILED: "failed", "UNHEALTHY": "failed"}
    for what, name, state, why in rows:
        colour = COLOURS.get(good.get(state, state), "yellow")
        made.add_row(what, name, f"[{colour}]{state}[/]", why.replace("[", r"\["))
    return made


def _reason(application: Mapping[str, Any]) -> str:
    parts = [application, *(application.get("serveDeploymentStatuses") or {}).values()]
    return " ".join(line for line in map(_last_line, parts) if line) or "no reason given"


def _last_line(part: Mapping[str, Any]) -> str:
    lines = str(part.get("message") or "").strip().splitlines()
    return lines[-1] if lines else ""
