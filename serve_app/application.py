"""From a catalog to Ray Serve: one deployment for each model, and the gateway before them.

In the layout `single` they are one application; in `per-model` each model's deployment is an application of its own at
the model's route, and the gateway one at `/`. A transformer with `resources` or `scaling` has a deployment too, between
the gateway and the model's. Structure (which models, on which engines) is in the deployments' arguments; everything
else is in `user_config` and in options that Ray Serve changes in place, so that changing one model leaves the others'
processes alone. See `serve_config` for the same as a Serve config file.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from deployments.cache import Budget
from deployments.replica import ModelReplica
from serve_app import catalog as catalogs
from serve_app import environment
from serve_app.catalog import Catalog, CatalogError
from serve_app.direct import DirectReplica, DirectSettings
from serve_app.gateway import Gateway, GatewaySettings
from serve_app.model import GATEWAY, SHARED, Model, Resources, Scaling
from serve_app.resolve import ModelEntry
from serve_app.rpc_inline import SERVICERS
from serve_app.transformer import TransformerReplica

MAX_ANSWER_BYTES = 1 << 30
"""What the gRPC channels of who asks models accept in one answer; Ray's 4 MiB would lose larger ones."""
ANSWERED = {"RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(MAX_ANSWER_BYTES)}
"""The environment of replicas that models answer."""
QUICK = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener", "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""The environment of every replica, see ADR 19. Since gRPC 1.80 its Python library has threads of its own for sockets,
and each message goes from one to another. glibc gives what is free back to the kernel at once, to ask for it again with
the next body; here up to 64 MB are kept."""
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)
"""Ray Serve makes a log record for every request even where it is dropped later, unless the level forbids it."""
HEALTH_PERIOD_S = 2.0
"""How soon a replica that died is noticed and replaced."""
POOL_LABEL = "pool"
"""The label of Ray's nodes that says which of the catalog's pools they are of."""
Structure = dict[str, list[dict[str, Any]]]
"""What only new replicas can change: the identities of the models that each deployment hosts; of a transformer's
deployment, the `transforms` that say around which `model` on which `deployment` it is."""


class BuildArgs(BaseModel):
    """Arguments of an application: `args:` in a Serve config, `key=value` on `serve run`'s command line."""

    model_config = ConfigDict(extra="forbid")

    catalog: str | dict[str, Any] | None = None
    """A catalog's file, a shipped one's name, or the catalog itself. By default `SERVE_APP_CATALOG`."""
    structure: Structure | None = None
    """In place of a catalog where a Serve config gives the deployments' options, as `serve_config` does: a replica
    then needs no file, and Ray Serve rebuilds the application when the structure changes and only then. Without a
    gateway in it, it is the application of one deployment of the layout `per-model`."""


def build(args: BuildArgs) -> Application:
    """The application of a catalog. Raises `CatalogError` where it is not valid, or is several applications."""
    if args.structure is not None:
        return _bind(args.structure, {})
    given = args.catalog or environment.catalog_name()
    catalog = catalogs.parse(given) if isinstance(given, dict) else catalogs.load(given)
    if catalog.layout == "per-model":
        raise CatalogError(
            f"the catalog {catalog.name!r} has layout: per-model, which is one Ray Serve application for each model; "
            "serve it by `serve-app up`, `serve-app deploy` or a rendered Serve config, or have layout: single"
        )
    return _bind(structure(catalog), options(catalog))


def _bind(structure: Structure, options: dict[str, dict[str, Any]]) -> Application:
    """The deployments of that structure; those without options get them from a Serve config."""

    def named(made: Any, name: str) -> Any:
        return serve.deployment(made).options(name=name, logging_config=LOGGING, **options.get(name, {}))

    around = {name: one["transforms"] for name, found in structure.items() for one in found if "transforms" in one}
    alone = serve.ingress()(DirectReplica) if len(structure) == 1 else ModelReplica
    hosts: dict[str, Application] = {
        name: named(ModelReplica, name).bind(identities, on_demand=True)
        if name == SHARED
        else named(alone, name).bind(identities)
        for name, identities in structure.items()
        if name != GATEWAY and name not in around
    }
    hosts |= {
        name: named(TransformerReplica, name).bind(one["model"], hosts[one["deployment"]])
        for name, one in around.items()
    }
    if GATEWAY not in structure:
        return hosts[next(iter(around or hosts))]
    gateway: Application = named(serve.ingress()(Gateway), GATEWAY).bind(hosts, structure[GATEWAY])
    return gateway


def hosted(catalog: Catalog) -> dict[str, list[Model]]:
    """The deployments beside the gateway, and the models that each hosts."""
    found: dict[str, list[Model]] = {}
    for model in catalog.models:
        if not model.inline:
            found.setdefault(model.deployment, []).append(model)
    return found


def options(catalog: Catalog, pools: bool = False) -> dict[str, dict[str, Any]]:
    """Ray Serve's options of each deployment; with `pools` each is kept to nodes of its pool, if it names one."""
    found = {GATEWAY: gateway_options(catalog)}
    for name, models in hosted(catalog).items():
        found[name] = host_options(models, catalog)
    found |= {model.entrance: transformer_options(model) for model in catalog.models if _transformed(model)}
    if pools:
        on = {name: resources.pool for model in catalog.models for name, resources, _ in model.own}
        for name, pool in (on | {SHARED: catalog.on_demand.resources.pool}).items():
            if pool and name in found:
                found[name]["ray_actor_options"]["label_selector"] = {POOL_LABEL: pool}
    return found


def _transformed(model: Model) -> bool:
    """Whether its transformer has a deployment of its own."""
    return model.entrance != model.deployment


def host_options(models: list[Model], catalog: Catalog) -> dict[str, Any]:
    """Ray Serve's options of the deployment that hosts these, as its schema spells them."""
    resources, scaling = models[0].resources, models[0].scaling
    config: dict[str, Any] = {"models": {model.name: model.settings.model_dump(mode="json") for model in models}}
    if models[0].deployment == SHARED:
        resources, scaling = catalog.on_demand.resources, Scaling(target=catalog.on_demand.target)
        config["budget"] = catalog.on_demand.model_dump(mode="json", include=set(Budget.model_fields))
    elif catalog.layout == "per-model" and not _transformed(models[0]):
        config["direct"] = direct_settings(models[0], catalog).model_dump(mode="json")
    return replica_options(resources, scaling, config, {})


def transformer_options(model: Model) -> dict[str, Any]:
    """Ray Serve's options of the deployment of the model's transformer, to which models answer as to the gateway."""
    around = model.transformer
    assert around, "asked of models with a transformer"
    assert around.resources, "asked of transformers with a deployment of their own"
    assert around.scaling, "which comes with resources"
    config = {"models": {model.name: model.transformer_settings.model_dump(mode="json")}}
    return replica_options(around.resources, around.scaling, config, ANSWERED)


def replica_options(
    resources: Resources, scaling: Scaling, config: dict[str, Any], variables: dict[str, str]
) -> dict[str, Any]:
    """The same for replicas that reserve these resources, with these environment variables."""
    # The threshold that glibc's own grows to, if none is set; one must be for the other to hold.
    variables = QUICK | {"MALLOC_MMAP_THRESHOLD_": str(32 << 20)} | variables
    variables = variables if resources.gpu else variables | {"CUDA_VISIBLE_DEVICES": ""}
    actor: dict[str, Any] = {"num_cpus": resources.cpu, "num_gpus": resources.gpu}
    if resources.memory:
        actor["memory"] = int(resources.memory)
    actor["runtime_env"] = {"env_vars": variables}
    return {
        "ray_actor_options": actor,
        "user_config": config,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": 60.0,
        **scaling_options(scaling),
    }


def entry(model: Model, catalog: Catalog) -> ModelEntry:
    """What routing knows of a model."""
    return ModelEntry(
        name=model.name,
        task=model.task,
        route=model.route,
        predictor=model.predictor,
        aliases=model.aliases,
        timeout_s=model.timeout_s,
        note=model.settings.note,
        deployment=model.entrance,
        apart=catalog.layout == "per-model" and not model.inline,
    )


def gateway_options(catalog: Catalog) -> dict[str, Any]:
    """Ray Serve's options of the gateway's deployment."""
    settings = GatewaySettings(
        models=tuple(entry(model, catalog) for model in catalog.models),
        inline={model.name: model.settings.model_dump(mode="json") for model in catalog.models if model.inline},
        graphs=catalog.graphs,
        max_body=int(catalog.gateway.max_body),
        max_reading=int(catalog.gateway.max_reading),
    )
    variables = {
        **QUICK,
        **ANSWERED,
        "CUDA_VISIBLE_DEVICES": "",
        # Not 32 MB as for replicas: the memory of large bodies that were read is to be given back.
        "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    }
    return {
        "ray_actor_options": {"num_cpus": catalog.gateway.cpu, "runtime_env": {"env_vars": variables}},
        "user_config": settings.model_dump(mode="json"),
        "health_check_period_s": HEALTH_PERIOD_S,
        **scaling_options(catalog.gateway.scaling),
    }


def scaling_options(scaling: Scaling) -> dict[str, Any]:
    """Autoscaling bounds, with room above the target so that a burst queues in the replica's engine.

    Also where they leave no choice, though that costs 5 % of the gateway's CPU time: were there none, Ray Serve would
    replace all replicas of the application when a model is given a range.
    """
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min,
            "max_replicas": scaling.max,
            "target_ongoing_requests": scaling.target,
        },
        "max_ongoing_requests": 4 * scaling.target,
        "max_queued_requests": 64 * scaling.target,
    }


def direct_settings(model: Model, catalog: Catalog) -> DirectSettings:
    """What the replica of a model that is reached directly is told besides."""
    hosts = {other.predictor: other.name for other in catalog.models if other is not model}
    return DirectSettings(
        model=entry(model, catalog),
        hosts=hosts | {graph.name: graph.name for graph in catalog.graphs},
        max_body=int(catalog.gateway.max_body),
        max_reading=int(catalog.gateway.max_reading),
    )


def serve_config(catalog: Catalog, host: str, port: int, grpc_port: int, pools: bool = False) -> dict[str, Any]:
    """The Serve config (`serve deploy`, `PUT /api/serve/applications/`) of a catalog; it needs no file beside it.

    Deploying it again after a change of settings reconfigures the models concerned and no other. `pools` is for
    clusters whose nodes are labelled by the catalog's pools.
    """
    return {
        "http_options": {"host": host, "port": port},
        "grpc_options": {
            "port": grpc_port,
            "grpc_servicer_functions": SERVICERS,
            "enable_reflection": False,  # ours takes its place, which knows the service
        },
        "applications": list(_applications(catalog, options(catalog, pools))),
    }


def _applications(catalog: Catalog, given: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The applications as a Serve config has them; the gateway's is the first."""
    whole = structure(catalog)
    parts: dict[str, tuple[str | None, Structure]] = {catalog.name: ("/", whole)}
    if catalog.layout == "per-model":
        parts = {GATEWAY: ("/", {GATEWAY: whole[GATEWAY]})}
        for model in catalog.models:
            direct = model.deployment not in (SHARED, GATEWAY) and not _transformed(model)
            own = {name: whole[name] for name in (model.deployment, model.entrance)}
            parts.setdefault(model.entrance, (model.route if direct else None, own))
    for name, (route, part) in parts.items():
        yield {
            "name": name,
            "route_prefix": route,
            "import_path": "serve_app:build",
            "args": {"structure": part},
            "deployments": [{"name": one, **given[one]} for one in given if one in part],
        }


def structure(catalog: Catalog) -> Structure:
    """What only new replicas can change: which models there are, where, their identities, and what stands around."""
    found: Structure = {GATEWAY: []}
    for model in catalog.models:
        found.setdefault(model.deployment, []).append(model.identity.model_dump(mode="json"))
    for model in filter(_transformed, catalog.models):
        found[model.entrance] = [{"transforms": {"model": model.name, "deployment": model.deployment}}]
    return found
