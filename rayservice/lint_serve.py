"""`serveConfigV2`: whether Ray Serve will read it as it is meant, build it, and find room for all of it."""

import functools
import importlib
from collections.abc import Container, Iterator
from dataclasses import replace
from math import ceil
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from deployments import engines
from deployments.errors import ServeAppError
from rayservice import lint_models
from rayservice.lint_cluster import Complaint, container, gpus_of, selects
from rayservice.packing import UNIT, Demand, Machines, pack
from rayservice.quantities import number
from serve_app import catalog as catalogs
from serve_app.complaints import complaint
from serve_app.model import GATEWAY

PLACE = "spec.serveConfigV2"
OURS = ("serve_app:build",)


def complaints(spec: dict[str, Any]) -> Iterator[Complaint]:
    """Places and what is wrong there, in a RayService's `spec`."""
    text = spec.get("serveConfigV2") or ""
    try:
        config = _parse(text)
    except (YAMLError, ValueError) as error:
        yield PLACE, f"is not YAML of a Serve config: {error}"
        return
    yield from _shape(config)
    applications = [one for one in config.get("applications") or [] if isinstance(one, dict)]
    apart = {str(one.get("name")) for one in applications}
    for application in applications:
        for message in _application(application, apart):
            yield _place(application), message
    for message in lint_models.graph_complaints(applications):
        yield PLACE, message
    for message in lint_models.unmounted(applications, spec["rayClusterConfig"].get("workerGroupSpecs") or []):
        yield PLACE, message
    for message in _room(config, spec["rayClusterConfig"]):
        yield PLACE, message


def unchecked(spec: dict[str, Any]) -> Iterator[Complaint]:
    """Places, and what cannot be looked into from here; nothing of a Serve config that `complaints` cannot read."""
    try:
        applications = _parse(spec.get("serveConfigV2") or "")["applications"]
    except (YAMLError, ValueError):
        return
    for application in applications:
        for message in lint_models.unchecked(application):
            yield _place(application), message


def _place(application: dict[str, Any]) -> str:
    return f"{PLACE} ({application.get('name', 'default')})"


def hosts(spec: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """The Host aliases that the gateway knows, each with `models` or `graphs` and the name there; none if unknown."""
    try:
        applications = _parse(spec.get("serveConfigV2") or "").get("applications") or []
    except (YAMLError, ValueError):
        return {}
    gateways = [
        deployment.get("user_config") or {}
        for application in applications
        for deployment in application.get("deployments") or []
        if deployment.get("name") == GATEWAY
    ]
    return {
        str(one.get(host)): (kind, str(one.get("name")))
        for config in gateways
        for kind, host in (("models", "predictor"), ("graphs", "name"))
        for one in config.get(kind) or []
    }


@functools.lru_cache(maxsize=4)  # asked for by each alias; read only
def _parse(text: str) -> dict[str, Any]:
    config = YAML(typ="safe").load(text)
    if not isinstance(config, dict) or not isinstance(config.get("applications"), list):
        raise ValueError("it has no list of applications")
    return config


def _shape(config: dict[str, Any]) -> Iterator[Complaint]:
    """What Ray Serve refuses, and keys that it drops without a word."""
    from ray.serve import schema

    try:
        schema.ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            yield PLACE, complaint(one, one["loc"], config, schema.ServeDeploySchema)
    yield from _unknown(config, schema.ServeDeploySchema, "")
    for application in config["applications"]:
        yield from _unknown(application, schema.ServeApplicationSchema, "application ")
        for deployment in application.get("deployments") or []:
            yield from _unknown(deployment, schema.DeploymentSchema, "deployment ")
            yield from _unknown(deployment.get("ray_actor_options") or {}, schema.RayActorOptionsSchema, "actor ")


def _unknown(given: dict[str, Any], shape: type[BaseModel], what: str) -> Iterator[Complaint]:
    for key in given.keys() - shape.model_fields.keys():
        yield PLACE, f"{what}key {key!r} is unknown, and Ray Serve drops it; have: {', '.join(shape.model_fields)}"


def _application(application: dict[str, Any], apart: set[str]) -> Iterator[str]:
    path = str(application.get("import_path", ""))
    problem = _unimportable(path)
    if problem:
        yield f"import_path {path!r} does not resolve: {problem}"
    elif path in OURS:
        yield from _ours(application, apart)
        yield from lint_models.complaints(application)


def _unimportable(path: str) -> str | None:
    module, colon, names = path.partition(":")
    if not colon:
        module, _, names = path.rpartition(".")
    try:
        found: Any = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except Exception as error:  # a module may raise anything when it is imported
        return f"{type(error).__name__}: {error}"
    return None


def _ours(application: dict[str, Any], apart: set[str]) -> Iterator[str]:
    """The arguments of `serve_app:build` against the deployments' options; `apart` are all applications there are."""
    from serve_app.application import BuildArgs, structure
    from serve_app.gateway import GatewaySettings

    try:
        args = BuildArgs.model_validate(application.get("args") or {})
        found = args.structure
        if found is None:
            given = args.catalog
            found = structure(catalogs.parse(given) if isinstance(given, dict) else catalogs.load(given or "embedded"))
    except (ValidationError, ServeAppError) as error:
        yield f"args: {str(error).splitlines()[0]}"
        return
    options = {one.get("name"): one for one in application.get("deployments") or []}
    for name in options.keys() - found.keys() - {GATEWAY}:
        yield f"deployment {name!r} is not of this application; have: {', '.join([GATEWAY, *found])}"
    for name, identities in found.items():
        yield from _identities(name, identities, options.get(name) if args.structure is not None else None, found)
    if GATEWAY not in found:
        return
    if args.structure is not None and GATEWAY not in options:
        yield f"deployment {GATEWAY!r} has no options, and the arguments are a structure alone"
    try:
        settings = GatewaySettings.model_validate(options.get(GATEWAY, {}).get("user_config") or {"models": []})
    except ValidationError as error:
        yield f"user_config of {GATEWAY}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}"
        return
    for model in settings.models:
        if model.deployment not in (apart if model.apart else found):
            yield f"model {model.name!r} is on deployment {model.deployment!r}, which there is not"


def _identities(
    name: str, identities: list[dict[str, Any]], options: dict[str, Any] | None, hosts: Container[str]
) -> Iterator[str]:
    """One deployment of the structure against its options and against `hosts`, the deployments that there are."""
    around = [one["transforms"] for one in identities if "transforms" in one]
    for one in around:
        if one.get("deployment") not in hosts:
            yield f"{name} is around deployment {one.get('deployment')!r}, which there is not"
    for one in identities:
        if "transforms" not in one and one.get("engine") not in engines.names():
            yield f"{one.get('name')}: unknown engine {one.get('engine')!r}; have: {', '.join(engines.names())}"
    if options is None or name == GATEWAY:
        return
    models = (options.get("user_config") or {}).get("models") or {}
    given = [one.get("name") for one in identities if "transforms" not in one] + [one.get("model") for one in around]
    missing = set(map(str, given)) ^ set(models)
    if missing:
        yield f"{', '.join(sorted(missing))}: either in args or in user_config of deployment {name!r}, and not in both"


def _room(config: dict[str, Any], cluster: dict[str, Any]) -> Iterator[str]:
    """Deployments for which the worker groups, at their largest, have no room."""
    groups = cluster.get("workerGroupSpecs") or []
    demands = []
    for application in config["applications"]:
        for one in application.get("deployments") or []:
            try:
                demand = _demand(one, groups)
            except (TypeError, ValueError) as error:
                yield f"deployment {one.get('name')}: ray_actor_options or replicas cannot be read: {error}"
                continue
            if not demand.gpu:
                selector = (one.get("ray_actor_options") or {}).get("label_selector")
                yield f"{demand.name}: no group has {_asked(demand, one)}" + (
                    f" and labels {selector}" if selector else ""
                )
            elif len(demand.gpu) > 1:  # its replicas may be on several groups
                demands += [replace(demand, replicas=1) for _ in range(demand.replicas)]
            else:
                demands.append(demand)
    most = sum(demand.replicas for demand in demands)  # machines beyond that make no difference
    for demand in pack(demands, [_machines(group, most) for group in groups]).unplaced:
        others = [
            one.name
            for one in demands
            if one is not demand
            and any(bool(one.gpu[pool]) >= bool(demand.gpu[pool]) for pool in one.gpu.keys() & demand.gpu)
        ]
        yield (
            f"{demand.name} needs {max(demand.gpu.values()) / UNIT:g} GPU, {demand.cpu / UNIT:g} CPU on "
            f"{' or '.join(demand.gpu)}, where there is no room beside {', '.join(others) or 'nothing'}"
        )


def _asked(demand: Demand, deployment: dict[str, Any]) -> str:
    return f"{(deployment.get('ray_actor_options') or {}).get('num_gpus', 0):g} GPU, {demand.cpu / UNIT:g} CPU"


def _demand(deployment: dict[str, Any], groups: list[dict[str, Any]]) -> Demand:
    options = deployment.get("ray_actor_options") or {}
    gpus = round(float(options.get("num_gpus") or 0) * UNIT)
    cpus = options.get("num_cpus")
    bounds = deployment.get("autoscaling_config") or {}
    replicas = deployment.get("num_replicas")
    return Demand(
        name=str(deployment.get("name")),
        replicas=bounds.get("min_replicas", 1) if bounds or not isinstance(replicas, int) else replicas,
        cpu=round((1.0 if cpus is None else float(cpus)) * UNIT),
        memory=int(options.get("memory") or 0),
        gpu={
            str(group.get("groupName")): gpus
            for group in groups
            if selects(options.get("label_selector") or {}, group.get("labels") or {})
            and gpus <= gpus_of(group)[0] * UNIT
        },
    )


def _machines(group: dict[str, Any], most: int) -> Machines:
    limits = (container(group).get("resources") or {}).get("limits") or {}
    params = group.get("rayStartParams") or {}
    cpus = int(params["num-cpus"]) if "num-cpus" in params else ceil(number(limits.get("cpu", 0)))
    memory = params.get("memory") or limits.get("memory")
    return Machines(
        name=str(group.get("groupName")),
        nodes=min(group.get("maxReplicas", most), most),
        gpus=gpus_of(group)[0],
        cpu=cpus * UNIT,
        memory=int(number(memory)) if memory else 1 << 62,
    )
