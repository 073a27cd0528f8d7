"""Which replicas have no place in a running Ray, and why: what Ray Serve and Ray say, joined with the catalog.

Ray Serve says only that a replica is starting. What is free is what each machine has, less what the replicas that
are there reserve. Asks nobody.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ByteSize

from rayservice.lint_cluster import selects
from serve_app.application import POOL_LABEL
from serve_app.catalog import Catalog

PLACED = ("GPU", "CPU", "memory")
"""What replicas reserve, in the order in which it is said."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class Machine:
    """One node of Ray that is up: all that it has, and what no replica has reserved, by resource."""

    address: str
    labels: dict[str, str]
    total: Mapping[str, float]
    free: Mapping[str, float]

    def holds(self, asked: Mapping[str, float]) -> bool:
        """Whether there is room for that."""
        return all(self.free.get(key, 0.0) + ROUNDING >= amount for key, amount in asked.items())


def machines(nodes: Iterable[Mapping[str, Any]], applications: Mapping[str, Any]) -> list[Machine]:
    """The machines that are up, of what `/api/v0/nodes` and `/api/serve/applications/` say.

    The head is one of them only where replicas may be on it.
    """
    taken: dict[str, dict[str, float]] = {}
    for application in applications.values():
        for deployment in (application.get("deployments") or {}).values():
            for replica in deployment.get("replicas") or []:
                there = taken.setdefault(replica.get("node_id") or "", {})
                for key, amount in (deployment.get("required_resources") or {}).items():
                    there[key] = there.get(key, 0.0) + amount
    return [
        Machine(
            address=node["node_ip"],
            labels=node.get("labels") or {},
            total=node["resources_total"],
            free={
                key: max(0.0, amount - taken.get(node["node_id"], {}).get(key, 0.0))
                for key, amount in node["resources_total"].items()
            },
        )
        for node in nodes
        if node["state"] == "ALIVE" and (node["resources_total"].get("CPU") or not node.get("is_head_node"))
    ]


def unplaced(applications: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]], catalog: Catalog) -> dict[str, str]:
    """Deployments with replicas that are on no machine, by application and name, and why."""
    there = machines(nodes, applications)
    return {
        f"{application}/{name}": f"{said} {_why(deployment, there, catalog)}"
        for application, one in applications.items()
        for name, deployment in (one.get("deployments") or {}).items()
        if (said := _waiting(deployment))
    }


def _waiting(deployment: Mapping[str, Any]) -> str:
    """How many replicas are on no machine yet; nothing where all are."""
    count = sum(one["state"] == "STARTING" and not one.get("node_id") for one in deployment.get("replicas") or [])
    return (
        f"{count} of {deployment['target_num_replicas']} replicas {'has' if count == 1 else 'have'} no place:"
        * bool(count)
    )


def _why(deployment: Mapping[str, Any], there: list[Machine], catalog: Catalog) -> str:
    asked = {key: amount for key, amount in (deployment.get("required_resources") or {}).items() if amount}
    selector = (deployment["deployment_config"].get("ray_actor_options") or {}).get("label_selector") or {}
    name = selector.get(POOL_LABEL)
    where = f"pool {name}" if name else "any machine"
    fitting = [machine for machine in there if selects(selector, machine.labels)]
    needs = f"each asks for {_amounts(asked)} on {where}"
    pool = next((one for one in catalog.pools if one.name == name), None)
    if not fitting:
        expected = f"; the catalog says {pool.nodes}" if pool else ""
        return f"{needs}, of which no machine is up{expected}"
    free = "; ".join(f"{one.address} has {_left(one, asked)} free" for one in fitting)
    if any(one.holds(asked) for one in fitting):
        return f"{needs}; {free}: Ray is about to place it, or what is free is in parts of several GPUs"
    most = max(one.total.get("GPU", 0.0) for one in fitting)
    differs = f"; the catalog says {pool.gpus} GPUs" if pool and asked.get("GPU") and pool.gpus != most else ""
    return f"{needs}; {free}{differs}"


def _left(machine: Machine, asked: Mapping[str, float]) -> str:
    return ", ".join(
        f"{_amount(key, machine.free.get(key, 0.0))} of {_unit(key, machine.total.get(key, 0.0))}"
        for key in PLACED
        if key in asked
    )


def _amounts(asked: Mapping[str, float]) -> str:
    known = [_unit(key, asked[key]) for key in PLACED if key in asked]
    return ", ".join([*known, *(f"{asked[key]:g} {key}" for key in asked if key not in PLACED)]) or "nothing"


def _unit(key: str, amount: float) -> str:
    return f"{_amount(key, amount)} of memory" if key == "memory" else f"{_amount(key, amount)} {key}"


def _amount(key: str, amount: float) -> str:
    return ByteSize(amount).human_readable() if key == "memory" else f"{round(amount, 4):g}"
