"""From a catalog to what KubeRay runs: the RayService, the Services and aliases before it, and what surrounds it.

The same catalog gives the same bytes. `serve_app` says what is deployed; here is only where and how.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from rayservice import services
from rayservice.plan import placed
from rayservice.pods import GRPC_PORT, HTTP_PORT, IDLE_TIMEOUT_S, head_group, worker_group
from rayservice.yaml_text import Said, dump
from serve_app.application import serve_config
from serve_app.catalog import Catalog

FULL = """\
Every GPU may be taken, so a second cluster beside this one would wait for GPUs for ever: a change of the pods is made
by hand, group by group (docs/kubernetes.md). Changes of models alone are made in place, whatever this says."""
ROOM = """\
A change of the pods makes a second cluster, to which requests go once all of it is running. Changes of models alone
are made in place."""
NO_TOKEN = "Whoever reaches port 8265 may run code here: see auth_secret in docs/kubernetes.md."
EARLY = """\
KubeRay makes this Service only when every model has a place, and then rewrites this one. Until then, and while a
machine is down, the models that are there answer through it."""


def render(catalog: Catalog, command: str) -> tuple[dict[str, str], dict[str, str]]:
    """The files of a catalog, text by name: the application's, and the aliases'. `command` is what a comment names.

    Raises what `objects` does.
    """
    header = f"Rendered by `{command}`; change the catalog, not this."
    manifests, aliases = objects(catalog)
    return _files(manifests, header), _files(aliases, header)


def objects(catalog: Catalog) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The same as objects, by a name for their files; values may have comments (`Said`).

    Raises `PlanError` for a catalog that does not fit on its pools, and for a name that KubeRay refuses.
    """
    catalog = placed(catalog)
    made = {"rayservice": ray_service(catalog), "poddisruptionbudget": services.disruption_budget(catalog)}
    names = ("serve-service", "entrance-service")
    made |= dict(zip(names, services.services(catalog), strict=False))
    cluster = catalog.cluster
    if cluster.pod_monitor:
        made["podmonitor"] = services.pod_monitor(catalog)
    if cluster.http_route:
        made["httproute"] = services.http_route(catalog)
    if cluster.network_policy:
        made["networkpolicy"] = services.network_policy(catalog)
    return made, services.aliases(catalog)


def write(files: dict[str, str], folder: Path) -> None:
    """Put these files there, and take away what was rendered there before and is no more."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.yaml"):
        if old.name not in files and old.read_text().startswith("# Rendered by `serve-app "):
            old.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)


def _files(made: dict[str, dict[str, Any]], header: str) -> dict[str, str]:
    files = {
        f"{name}.yaml": dump(one, f"{header}\n{EARLY}" if name == "serve-service" else header)
        for name, one in sorted(made.items())
    }
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    return files | {"kustomization.yaml": dump(kustomization, header)}


def ray_service(catalog: Catalog) -> dict[str, Any]:
    """The RayService of a catalog whose models all have a pool."""
    full = catalog.cluster.upgrade == "none" or (catalog.cluster.upgrade == "auto" and takes_all_gpus(catalog))
    config = serve_config(catalog, "0.0.0.0", HTTP_PORT, GRPC_PORT, pools=True)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": services.metadata(catalog, catalog.name),
        "spec": {
            "upgradeStrategy": Said({"type": "None" if full else "NewCluster"}, FULL if full else ROOM),
            "excludeHeadPodFromServeSvc": True,
            "rayClusterDeletionDelaySeconds": 60,
            "serveConfigV2": dump(config),
            "rayClusterConfig": _cluster(catalog),
        },
    }


def takes_all_gpus(catalog: Catalog) -> bool:
    """Whether the pools may lack the GPUs for the whole application a second time."""
    return any(pool.gpus and pool.most_nodes < 2 * pool.nodes for pool in catalog.pools)


def _cluster(catalog: Catalog) -> dict[str, Any]:
    asked = catalog.cluster
    spec: dict[str, Any] = {"rayVersion": version("ray")}
    if asked.auth_secret:
        spec["authOptions"] = {"mode": "token", "secretName": asked.auth_secret}
    else:
        spec["authOptions"] = Said({"mode": "disabled"}, NO_TOKEN)
    if any(pool.most_nodes > pool.nodes for pool in catalog.pools):
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {"version": "v2", "idleTimeoutSeconds": IDLE_TIMEOUT_S}
    if asked.redis:
        redis: dict[str, Any] = {"redisAddress": asked.redis.address}
        if asked.redis.password:
            redis["redisPassword"] = {"valueFrom": {"secretKeyRef": asked.redis.password.model_dump()}}
        spec["gcsFaultToleranceOptions"] = redis
    spec["headGroupSpec"] = head_group(catalog)
    spec["workerGroupSpecs"] = [worker_group(pool, catalog) for pool in catalog.pools]
    return spec
