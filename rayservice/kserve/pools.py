"""Pools for imported models: what asked for the same nodes shares one, large enough for all of it."""

import math
import re
from typing import Any

from deployments import sources
from rayservice.kserve.predictors import Imported, size
from rayservice.plan import DEFAULT_MEMORY
from rayservice.yaml_text import Said
from serve_app.cluster import GPU_RESOURCES

GPU_MEMORY_GIB = {"A10": 24, "A10G": 24, "A30": 24, "L4": 24, "L40": 48, "L40S": 48, "T4": 16, "RTX-2070": 8}
"""Memory of cards whose product label does not say it."""
SPARE_CPUS = 1
"""For the gateway."""


def pools_of(models: list[Imported], report: list[str]) -> list[dict[str, Any]]:
    """The pools, each named in its models' resources."""
    grouped: dict[str, list[Imported]] = {}
    for one in models:
        key = repr((one.resource, sorted(one.selector.items()), _tolerated(one), one.runtime_class))
        grouped.setdefault(key, []).append(one)
    made: list[dict[str, Any]] = []
    for group in grouped.values():
        name = _name(group[0], {pool["name"] for pool in made})
        made.append(_pool(name, group, report))
        for one in group:
            one.entry["resources"].value["pool"] = name
    _shared_claims(models, report)
    return made


def _pool(name: str, group: list[Imported], report: list[str]) -> dict[str, Any]:
    first = group[0]
    gpus = max(one.gpus for one in group)
    # A model of fewer GPUs than a machine has shares it with others; one of all of them has it alone.
    each = [max(1, gpus // one.gpus) if one.gpus else 1 for one in group]
    nodes = sum(math.ceil(one.replicas / fit) for one, fit in zip(group, each, strict=True)) if gpus else 1
    replicas = sum(one.replicas for one in group)
    per_node = replicas if nodes == 1 else max(each)
    cpu = math.ceil(
        sum(one.cpu * one.replicas for one in group) if nodes == 1 else max(o.cpu for o in group) * per_node
    )
    memories = [max(one.memory, one.memory_limit) or DEFAULT_MEMORY for one in group]
    memory = (
        sum(m * one.replicas for m, one in zip(memories, group, strict=True))
        if nodes == 1
        else max(memories) * per_node
    )
    pool: dict[str, Any] = {
        "name": name,
        "nodes": Said(nodes, f"as many as {', '.join(one.name for one in group)} need; say how many there are"),
        **_gpus(first, gpus, report),
        "cpu": Said(cpu + SPARE_CPUS, "what these models ask for on one machine; say what it has"),
        "memory": Said(size(memory), "their limits, or what they ask for; 2GiB where neither is said"),
    }
    if first.selector:
        pool["selector"] = Said(dict(first.selector), f"nodeSelector of {first.where}")
    if first.tolerations:
        pool["tolerations"] = Said(_tolerations(first), f"tolerations of {first.where}")
    if first.runtime_class:
        pool["runtime_class"] = first.runtime_class
    claims = sorted({claim for one in group for claim in one.claims})
    if claims:
        pool["volumes"] = [{"claim": claim, "path": f"{sources.CLAIMS}/{claim}"} for claim in claims]
    return pool


def _gpus(one: Imported, gpus: int, report: list[str]) -> dict[str, Any]:
    if not gpus or one.resource is None:
        return {"kind": "cpu"}
    by_resource = {resource: kind for kind, resource in GPU_RESOURCES.items()}
    vendor = one.resource.partition(".")[0]
    kind = by_resource.get(one.resource) or {"nvidia": "nvidia", "amd": "amd", "gpu": "intel-i915"}.get(vendor)
    if kind is None:
        report.append(f"{one.where}: {one.resource} is of no kind known here; it is taken for NVIDIA's")
    made: dict[str, Any] = {"kind": Said(kind or "nvidia", f"{one.resource} of {one.where}"), "gpus": gpus}
    if one.resource != GPU_RESOURCES[kind or "nvidia"]:
        made["gpu_resource"] = one.resource
    if size := _gpu_memory_gib(one.selector):
        made["gpu_memory"] = Said(f"{size}GiB", "what the selector's card has")
    return made


def _gpu_memory_gib(selector: dict[str, str]) -> int | None:
    product = next((value for key, value in selector.items() if key.endswith(("gpu.product", "gpu.model"))), "")
    if said := re.search(r"(\d+)GB", product):
        return int(said[1])
    named = [card for card in GPU_MEMORY_GIB if re.search(rf"(^|[-_ ]){card}($|[-_ ])", product)]
    return GPU_MEMORY_GIB[named[0]] if named else None


def _name(one: Imported, taken: set[str]) -> str:
    hint = next((v for k, v in one.selector.items() if k.endswith(("gpu.product", "gpu.model", "hostname"))), None)
    base = hint or (one.resource or "cpu").replace(".com/", "-").replace("gpu-intel", "intel")
    name = re.sub(r"[^a-z0-9]+", "-", base.lower()).strip("-")[:40].strip("-")
    name = name if name[:1].isalpha() else f"pool-{name}"
    return next(full for n in range(len(taken) + 1) if (full := name if n == 0 else f"{name}-{n + 1}") not in taken)


def _tolerations(one: Imported) -> list[dict[str, Any]]:
    """Each once."""
    return [dict(two) for index, two in enumerate(one.tolerations) if two not in one.tolerations[:index]]


def _tolerated(one: Imported) -> list[str]:
    return sorted(repr(sorted(two.items())) for two in _tolerations(one))


def _shared_claims(models: list[Imported], report: list[str]) -> None:
    users: dict[str, set[str]] = {}
    for one in models:
        for claim in one.claims:
            users.setdefault(claim, set()).add(one.entry["resources"].value["pool"])
    report += [
        f"PersistentVolumeClaim {claim}: pools {', '.join(sorted(pools))} have it, so it must be ReadWriteMany"
        for claim, pools in users.items()
        if len(pools) > 1
    ]
