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
    counts once KubeRay has seen the newest version and every application runs. What failed may be of the version
    before, until KubeRay has put the newest one in place.

    `states` are the models', None where they could not be asked.
    """
    status = manifest.get("status") or {}
    if status.get("observedGeneration", 0) < manifest["metadata"].get("generation", 1):
        return Progress(False, "KubeRay has not seen the newest version yet")
    for name, one in applications(manifest):
        if one.get("status") == FAILED:
            return Progress(False, "", f"application {name} failed: {_reason(one)}")
    if wrong := next((_wrong(state) for state in states or () if _wrong(state)), None):
        return Progress(False, "", wrong)
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
    """Whether a Ray without Kubernetes runs every application, and every model is ready with its newest settings."""
    running = [one["status"] == "RUNNING" for one in applications.values()]
    return bool(running and all(running) and states) and all(
        one["state"] in READY and not _wrong(one) for one in states or ()
    )


def _wrong(state: State) -> str:
    """Why a model does not serve its newest settings, if it never will."""
    reason = state.get("reason") or "no reason given"
    if state["state"] == "failed":
        return f"model {state['name']} failed: {reason}"
    return f"model {state['name']} goes on with its former settings: {reason}" if "reason" in state else ""


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
