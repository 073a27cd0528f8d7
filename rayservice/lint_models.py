"""What a Serve config says of each model: its settings, its engine's options, whether classes of the user's are there.

Runs none of the user's code.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from deployments import engines, own_classes, sources
from deployments.engines import Task
from deployments.settings import ModelSettings
from rayservice.lint_cluster import container, selects
from serve_app.gateway import GatewaySettings
from serve_app.graphs import checks

Model = tuple[str, str | None, dict[str, Any]]
"""Name, engine (None of a transformer's deployment, where only that is looked at), settings."""


def complaints(application: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the settings of the models of an application of ours, whose arguments have a structure."""
    for name, engine, given in _models(application):
        try:
            settings = ModelSettings.model_validate(given)
            if engine in engines.names():
                engines.find(engine).options_type.model_validate(settings.options)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = first["msg"].removeprefix("Value error, ")
            yield f"user_config of {name}: {first['loc']}: {message}"
            continue
        for wrong in own_classes.looked_for(settings, engine)[0]:
            yield f"user_config of {name}: {wrong}"


def unchecked(application: dict[str, Any]) -> Iterator[str]:
    """Classes that cannot be looked for from here."""
    for name, engine, given in _models(application):
        try:
            for said in own_classes.looked_for(ModelSettings.model_validate(given), engine)[1]:
                yield f"user_config of {name}: {said}"
        except ValidationError:
            continue  # said by `complaints`


def graph_complaints(applications: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with graphs: steps that name no model of these, or ask one what it does not answer."""
    engine_of = {name: engine for application in applications for name, engine, _ in _models(application) if engine}
    for application in applications:
        for deployment in application.get("deployments") or []:
            try:
                settings = GatewaySettings.model_validate(deployment.get("user_config") or {})
            except ValidationError:
                continue  # no gateway; or one whose settings are wrong, which is said elsewhere
            known = [_Known(one.name, engine_of.get(one.name, ""), one.aliases, one.task) for one in settings.models]
            yield from checks.graph_complaints(settings.graphs, known)


def unmounted(applications: list[dict[str, Any]], groups: list[dict[str, Any]]) -> Iterator[str]:
    """Models whose files are in a claim that pods of a group they may be on do not mount where it is looked for."""
    for application in applications:
        for deployment in application.get("deployments") or []:
            selector = (deployment.get("ray_actor_options") or {}).get("label_selector") or {}
            on = [group for group in groups if selects(selector, group.get("labels") or {})]
            for name, _, settings in _models({**application, "deployments": [deployment]}):
                source = str(settings.get("source", "")).replace("pvc://", f"file://{sources.CLAIMS}/")
                claim, _, rest = source.removeprefix(f"file://{sources.CLAIMS}/").partition("/")
                if source.startswith(f"file://{sources.CLAIMS}/"):
                    place = f"{sources.CLAIMS}/{claim}"
                    lacking = [str(group.get("groupName")) for group in on if not _mounts(group, f"{place}/{rest}")]
                    if lacking:
                        yield f"{name}: no claim is mounted at {place} in the pods of {', '.join(lacking)}"


def _mounts(group: dict[str, Any], path: str) -> bool:
    mounts = [str(one.get("mountPath")).rstrip("/") for one in container(group).get("volumeMounts") or []]
    return any(f"{path}/".startswith(f"{mount}/") for mount in mounts)


class _Known(NamedTuple):
    name: str
    engine: str
    aliases: Sequence[str]
    task: Task


def _models(application: dict[str, Any]) -> Iterator[Model]:
    structure = (application.get("args") or {}).get("structure") or {}
    for deployment in application.get("deployments") or []:
        identities = structure.get(str(deployment.get("name"))) or []
        on = {str(one.get("name")): str(one.get("engine")) for one in identities if "transforms" not in one}
        user_config = deployment.get("user_config") or {}
        given = user_config.get("models") if isinstance(user_config.get("models"), dict) else user_config.get("inline")
        for name, settings in (given or {}).items():
            yield name, on.get(name), settings
