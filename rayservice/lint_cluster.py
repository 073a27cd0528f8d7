"""A RayService's Ray cluster: what the API server lets through and KubeRay or Ray trips over.

What KubeRay does was read in its operator, version 1.7.
"""

import re
from collections.abc import Iterator
from typing import Any

from rayservice.plan import MAX_NAME
from rayservice.pods import infers_gpus

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
Complaint = tuple[str, str]


def complaints(manifest: dict[str, Any]) -> Iterator[Complaint]:
    """Places and what is wrong there, in a RayService that has a `rayClusterConfig`."""
    spec = manifest["spec"]
    yield from _names(manifest)
    yield from _upgrade(spec)
    yield from _serve_service(spec)
    cluster = spec["rayClusterConfig"]
    yield from _options(cluster)
    yield from _head(cluster.get("headGroupSpec") or {})
    for index, group in enumerate(cluster.get("workerGroupSpecs") or []):
        for place, message in _workers(group):
            yield f"spec.rayClusterConfig.workerGroupSpecs[{index}].{place}", message


def gpus_of(group: dict[str, Any]) -> tuple[int, list[str]]:
    """How many GPUs a pod of the group has for Ray, and the names of resources that are GPUs."""
    limits = ((container(group).get("resources") or {}).get("limits")) or {}
    keys = [key for key in limits if "gpu" in key or key.startswith("nvidia.com/mig-")]
    told = (group.get("rayStartParams") or {}).get("num-gpus")
    return int(told) if told is not None else sum(int(limits[key]) for key in keys if infers_gpus(key)), keys


def container(group: dict[str, Any]) -> dict[str, Any]:
    """Ray's container: the first."""
    containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or [{}]
    return dict(containers[0])


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether Ray's label selector (`a`, `!a`, `in(a, b)`, `!in(a, b)`) takes nodes with these labels."""
    for key, wanted in selector.items():
        refused, wanted = wanted.startswith("!"), wanted.removeprefix("!")
        many = re.fullmatch(r"in\((.*)\)", wanted)
        values = [one.strip() for one in many[1].split(",")] if many else [wanted]
        if (labels.get(key) in values) == refused:
            return False
    return True


def _names(manifest: dict[str, Any]) -> Iterator[Complaint]:
    metadata, spec = manifest.get("metadata") or {}, manifest["spec"]
    name = str(metadata.get("name", ""))
    if manifest.get("apiVersion") != "ray.io/v1":
        yield "apiVersion", f"{manifest.get('apiVersion')} is not served by KubeRay 1.7: ray.io/v1"
    if len(name) > MAX_NAME:
        yield "metadata.name", f"has {len(name)} letters; KubeRay takes {MAX_NAME}"
    if not DNS_1035.fullmatch(name):
        yield "metadata.name", f"{name!r} is not a DNS label (RFC 1035): a-z, 0-9 and -, beginning with a letter"
    if "ray.io/initializing-timeout" in (metadata.get("annotations") or {}):
        yield "metadata.annotations", "after ray.io/initializing-timeout KubeRay gives the RayService up for good"
    for place, one in (("spec", spec), ("spec.rayClusterConfig", spec["rayClusterConfig"])):
        if one.get("managedBy", MANAGERS[0]) not in MANAGERS:
            yield f"{place}.managedBy", f"{one['managedBy']!r} is none of {', '.join(MANAGERS)}"


def _upgrade(spec: dict[str, Any]) -> Iterator[Complaint]:
    kind = (spec.get("upgradeStrategy") or {}).get("type")
    if kind is not None and kind not in UPGRADES:
        yield "spec.upgradeStrategy.type", f"{kind!r} is none of {', '.join(UPGRADES)}"


def _serve_service(spec: dict[str, Any]) -> Iterator[Complaint]:
    ports = ((spec.get("serveService") or {}).get("spec") or {}).get("ports") or []
    if ports and "serve" not in [port.get("name") for port in ports]:
        yield "spec.serveService.spec.ports", "none is named `serve`, and KubeRay drops all others"


def _options(cluster: dict[str, Any]) -> Iterator[Complaint]:
    place = "spec.rayClusterConfig"
    auth = cluster.get("authOptions") or {}
    if auth.get("mode") == "token" and not auth.get("secretName"):
        yield f"{place}.authOptions", "mode token needs secretName, a Secret with the key auth_token"
    if auth.get("secretName") and auth.get("mode") != "token":
        yield f"{place}.authOptions", "secretName is without effect unless mode is token"
    if (cluster.get("gcsFaultToleranceOptions") or {}).get("externalStorageNamespace"):
        yield f"{place}.gcsFaultToleranceOptions.externalStorageNamespace", "leave it out: clusters after this share it"
    if cluster.get("enableInTreeAutoscaling") and (cluster.get("autoscalerOptions") or {}).get("version") != "v2":
        yield f"{place}.autoscalerOptions.version", "say v2: the first autoscaler knows no labels"


def _head(head: dict[str, Any]) -> Iterator[Complaint]:
    place = "spec.rayClusterConfig.headGroupSpec"
    names = {port.get("name") for port in container(head).get("ports") or []}
    missing = {"serve", "dashboard"} - names
    if names and missing:
        yield (
            f"{place}.template.spec.containers[0].ports",
            f"{', '.join(sorted(missing))} not listed: where one port is, KubeRay adds none; list both or no port",
        )
    if (head.get("rayStartParams") or {}).get("num-cpus") != "0":
        yield f"{place}.rayStartParams", "num-cpus is not '0': replicas may run on the head, whose end ends them"


def _workers(group: dict[str, Any]) -> Iterator[Complaint]:
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
    replicas = group.get("replicas", 0)
    if least > most:
        yield "minReplicas", f"{least} is over maxReplicas, which is {most}"
    elif not least <= replicas <= most:
        yield "replicas", f"{replicas} is not between minReplicas and maxReplicas, {least} and {most}"
    count, keys = gpus_of(group)
    unseen = [key for key in keys if not infers_gpus(key)]
    if unseen and not count:
        yield "rayStartParams", f"KubeRay does not take {unseen[0]} for GPUs: set num-gpus, as in num-gpus: '1'"
