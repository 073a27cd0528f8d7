"""The pods of a Ray cluster: a head on which nothing is served, and a group of workers for each pool.

What is written here of KubeRay was read in its operator, version 1.7.
"""

from importlib.metadata import version
from typing import Any

from rayservice.yaml_text import Said
from serve_app import environment
from serve_app.application import POOL_LABEL
from serve_app.catalog import Catalog
from serve_app.cluster import Head, Placed, Pool

HTTP_PORT, GRPC_PORT, METRICS_PORT, DASHBOARD_PORT = 8000, 9000, 8080, 8265
HAPROXY_PATH = f"/usr/local/bin/{environment.HAPROXY}"
"""Where the project's images have it; an image of one's own needs it there too."""
USER = 1000
IMAGES = {"nvidia": "cuda", "amd": "rocm", "intel-i915": "intel", "intel-xe": "intel", "cpu": "cpu"}
"""The Dockerfiles, by kind of GPU."""
IDLE_TIMEOUT_S = 300
INSTANCE, COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"


def head_group(catalog: Catalog) -> dict[str, Any]:
    """The head's group. Its ports are all listed: where one is, KubeRay adds none of its own."""
    head = catalog.cluster.head
    ports = {
        "gcs-server": 6379,
        "dashboard": DASHBOARD_PORT,
        "client": 10001,
        "serve": HTTP_PORT,
        "metrics": METRICS_PORT,
    }
    container = _container("ray-head", head, head.image or image("cpu"), catalog, ports)
    return {
        "rayStartParams": {
            "dashboard-host": "0.0.0.0",
            "num-cpus": Said("0", "No replica runs on the head."),
        },
        "template": _template(catalog, "head", head, container),
    }


def worker_group(pool: Pool, catalog: Catalog) -> dict[str, Any]:
    """The group of a pool: one pod for each machine."""
    params: dict[str, Any] = {"num-cpus": str(pool.cpu)}
    if pool.gpus and not infers_gpus(pool.gpu_resource):
        params["num-gpus"] = Said(str(pool.gpus), f"KubeRay does not take {pool.gpu_resource} for GPUs.")
    ports = {"serve": HTTP_PORT, "grpc": GRPC_PORT, "metrics": METRICS_PORT}
    container = _container("ray-worker", pool, pool.image or image(pool.kind), catalog, ports)
    for resources in container["resources"].values() if pool.gpus else ():
        resources[pool.gpu_resource] = str(pool.gpus)
    # KubeRay's own asks the same of wget in the container, and of a port that asks for the token.
    container["readinessProbe"] = {
        "httpGet": {"path": "/-/healthz", "port": "serve"},
        "periodSeconds": 5,
        "timeoutSeconds": 5,
        "failureThreshold": 2,
    }
    grows = {"idleTimeoutSeconds": IDLE_TIMEOUT_S} if pool.most_nodes > pool.nodes else {}
    return {
        "groupName": pool.name,
        "replicas": pool.nodes,
        "minReplicas": pool.nodes,
        "maxReplicas": pool.most_nodes,
        **grows,
        "labels": {POOL_LABEL: pool.name},
        "rayStartParams": params,
        "template": _template(catalog, pool.name, pool, container),
    }


def infers_gpus(resource: str) -> bool:
    """Whether KubeRay tells Ray of the GPUs that a container's limits call so."""
    return resource.endswith("gpu") or resource.startswith("nvidia.com/mig-")


def image(kind: str) -> str:
    """The project's image for a kind of GPU."""
    return f"serve-app:{version('serve-app')}-{IMAGES[kind]}"


def quantity(size: int) -> str:
    """Bytes as Kubernetes writes them."""
    for unit, suffix in ((1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")):
        if size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def labels(catalog: Catalog, component: str) -> dict[str, str]:
    """What the pods and the objects around them are found by."""
    return {INSTANCE: catalog.name, COMPONENT: component}


def _container(name: str, placed: Placed, image: str, catalog: Catalog, ports: dict[str, int]) -> dict[str, Any]:
    resources = {"cpu": str(placed.cpu), "memory": quantity(placed.memory)}
    asked = {one.name for one in catalog.cluster.env}
    variables = {key: value for key, value in environment.THREADS.items() if key not in asked}
    variables |= environment.serving(haproxy=True) | {"RAY_SERVE_HAPROXY_BINARY_PATH": HAPROXY_PATH}
    if catalog.cluster.auth_secret is None:
        variables["RAY_AUTH_MODE"] = "disabled"  # by default Ray asks for a token that nobody has
    made: dict[str, Any] = {
        "name": name,
        "image": image,
        "env": [{"name": key, "value": value} for key, value in variables.items()] + _asked(catalog, set(variables)),
        "ports": [{"name": key, "containerPort": port} for key, port in ports.items()],
        "resources": {"limits": resources, "requests": dict(resources)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if catalog.cluster.env_secrets:
        made["envFrom"] = [{"secretRef": {"name": one}} for one in catalog.cluster.env_secrets]
    if placed.volumes:
        made["volumeMounts"] = [
            {"name": f"volume-{index}", "mountPath": one.path, **({"readOnly": True} if one.read_only else {})}
            for index, one in enumerate(placed.volumes)
        ]
    return made


def _asked(catalog: Catalog, taken: set[str]) -> list[dict[str, Any]]:
    """The catalog's own environment variables; those that decide how Ray serves are not to be changed."""
    return [
        {"name": one.name, "valueFrom": {"secretKeyRef": one.secret.model_dump()}}
        if one.secret
        else {"name": one.name, "value": one.value}
        for one in catalog.cluster.env
        if one.name not in taken
    ]


def _template(catalog: Catalog, component: str, placed: Placed, container: dict[str, Any]) -> dict[str, Any]:
    groups = {"supplementalGroups": list(placed.groups)} if isinstance(placed, Pool) and placed.groups else {}
    spec: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            **groups,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 120,
        "containers": [container],
    }
    if not isinstance(placed, Head):
        spec["automountServiceAccountToken"] = False
    if placed.selector:
        spec["nodeSelector"] = dict(placed.selector)
    if placed.tolerations:
        spec["tolerations"] = [one.model_dump(exclude_none=True) for one in placed.tolerations]
    if placed.runtime_class:
        spec["runtimeClassName"] = placed.runtime_class
    if catalog.cluster.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": one} for one in catalog.cluster.image_pull_secrets]
    if placed.volumes:
        spec["volumes"] = [
            {"name": f"volume-{index}", "persistentVolumeClaim": {"claimName": one.claim}}
            for index, one in enumerate(placed.volumes)
        ]
    if isinstance(placed, Pool) and placed.most_nodes > 1:
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels(catalog, component)},
            }
        ]
    return {"metadata": {"labels": labels(catalog, component)}, "spec": spec}
