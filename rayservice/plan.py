"""Which of a catalog's pools, machines and GPUs each of its models is on, before anything is deployed.

Ray's scheduler decides in the end; where pools have one machine, or models name their pools, it decides the same.
Knows nothing of manifests.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydantic import ByteSize

from deployments.errors import ServeAppError
from rayservice.packing import UNIT, Demand, Machines, Packing, pack
from serve_app.application import hosted
from serve_app.catalog import Catalog
from serve_app.cluster import Pool
from serve_app.model import GATEWAY, SHARED, Model, Resources

MAX_NAME = 47
"""Letters of a RayService's name that KubeRay allows: its pods' names are made of it."""
DEFAULT_POOL = "cpu"
DEFAULT_MEMORY = 2 << 30
"""RAM of a model that says nothing of it, where the pool is made to measure."""


class PlanError(ServeAppError):
    """A catalog that its own pools cannot hold."""

    status = 400
    code = "does_not_fit"


@dataclass(frozen=True)
class Plan:
    """The catalog with every model on a pool and on its share, where each replica is, and what is nowhere and why."""

    catalog: Catalog
    packing: Packing
    complaints: tuple[str, ...]


def plan(catalog: Catalog) -> Plan:
    """Pack the least number of replicas of every model onto the most machines that the pools may have.

    Raises `PlanError` for models on GPUs in a catalog without pools, and for a name that KubeRay refuses.
    """
    if len(catalog.name) > MAX_NAME:
        raise PlanError(
            f"the catalog's name {catalog.name!r} has {len(catalog.name)} letters; KubeRay takes {MAX_NAME}"
        )
    catalog = with_pools(catalog)
    demands = _demands(catalog, most=False)
    packing = pack(demands, _machines(catalog.pools))
    complaints = tuple(_complaint(catalog, packing, demands, one) for one in packing.unplaced)
    return Plan(_placed(catalog, packing), packing, complaints)


def grows(catalog: Catalog) -> bool:
    """Whether all models could be at their largest number of replicas at once."""
    catalog = with_pools(catalog)
    return not pack(_demands(catalog, most=True), _machines(catalog.pools)).unplaced


def placed(catalog: Catalog) -> Catalog:
    """The catalog with every model on a pool, and `vram` as a fraction of its GPUs. Raises `PlanError`."""
    found = plan(catalog)
    if found.complaints:
        lines = "\n".join(f"  {line}" for line in found.complaints)
        raise PlanError(f"the catalog {catalog.name!r} does not fit on its pools:\n{lines}")
    return found.catalog


def with_pools(catalog: Catalog) -> Catalog:
    """The catalog, or where it has no pools and needs no GPU, the same with one machine made to measure."""
    if catalog.pools:
        return catalog
    asking = [name for name, resources, _ in _deployments(catalog, most=False) if resources.gpu]
    if asking:
        raise PlanError(
            f"the catalog {catalog.name!r} has no pools, and {', '.join(asking)} ask for GPUs; name the machines that "
            "there are, as in pools: [{name: gpu, kind: nvidia, gpu_memory: 24GiB, cpu: 8, memory: 32GiB}]"
        )
    rows = list(_deployments(catalog, most=False))
    cpus = sum(resources.cpu * replicas for _, resources, replicas in rows)
    memory = sum((resources.memory or DEFAULT_MEMORY) * replicas for _, resources, replicas in rows)
    pool = Pool(name=DEFAULT_POOL, cpu=math.ceil(cpus), memory=ByteSize(memory))
    return catalog.model_copy(update={"pools": (pool,)})


def _deployments(catalog: Catalog, most: bool) -> Iterator[tuple[str, Resources, int]]:
    """Name, resources of one replica, and number of replicas of each deployment."""
    for model in catalog.models:
        for name, resources, scaling in model.own:
            yield name, resources, scaling.max if most else scaling.min
    if SHARED in hosted(catalog):
        yield SHARED, catalog.on_demand.resources, 1
    scaling = catalog.gateway.scaling
    for index in range(scaling.max if most else scaling.min):  # one by one: they may be on different pools
        yield f"{GATEWAY}-{index}", Resources(cpu=catalog.gateway.cpu), 1


def _demands(catalog: Catalog, most: bool) -> list[Demand]:
    return [
        Demand(
            name=name,
            replicas=replicas,
            cpu=round(resources.cpu * UNIT),
            memory=int(resources.memory or 0),
            gpu={
                pool.name: units
                for pool in catalog.pools
                if (units := _units(resources, pool, catalog.gpu_memory)) is not None
            },
        )
        for name, resources, replicas in _deployments(catalog, most)
    ]


def _units(resources: Resources, pool: Pool, gpu_memory: int | None) -> int | None:
    """Units of that pool's GPUs that one replica needs; None where it cannot be there.

    `gpu_memory` is that of GPUs whose pool does not say: without either, nobody knows what part of one `vram` is.
    """
    if resources.pool not in (None, pool.name):
        return None
    if resources.vram:
        memory = pool.gpu_memory or gpu_memory
        units = math.ceil(resources.vram / memory * UNIT) if memory and pool.gpus else UNIT + 1
        return units if units <= UNIT else None
    units = round(resources.gpu * UNIT)
    return units if units <= pool.gpus * UNIT else None


def _machines(pools: tuple[Pool, ...]) -> list[Machines]:
    return [Machines(one.name, one.most_nodes, one.gpus, one.cpu * UNIT, int(one.memory)) for one in pools]


def _placed(catalog: Catalog, packing: Packing) -> Catalog:
    by_name = {place.name: place for place in packing.places}

    def there(name: str, resources: Resources) -> Resources:
        if name not in by_name:
            return resources
        place = by_name[name]
        gpu = place.units / UNIT if resources.vram else resources.gpu
        return resources.model_copy(update={"pool": place.pool, "gpu": gpu})

    def moved(model: Model) -> Model:
        around = model.transformer
        if around and around.resources:
            around = around.model_copy(update={"resources": there(model.entrance, around.resources)})
            model = model.model_copy(update={"transformer": around})
        own = model.deployment == model.name
        return model.model_copy(update={"resources": there(model.name, model.resources)}) if own else model

    models = tuple(moved(model) for model in catalog.models)
    shared = {"resources": there(SHARED, catalog.on_demand.resources)}
    return catalog.model_copy(update={"models": models, "on_demand": catalog.on_demand.model_copy(update=shared)})


def _complaint(catalog: Catalog, packing: Packing, demands: list[Demand], one: Demand) -> str:
    asked = f"{one.name} needs {_said(one)}" + (f" {one.replicas} times" if one.replicas > 1 else "")
    resources = next(resources for name, resources, _ in _deployments(catalog, most=False) if name == one.name)
    if not one.gpu:
        gpus = (
            f"{resources.vram.human_readable()} of a GPU"
            if resources.vram
            else f"{resources.gpu:g} GPUs on one machine"
        )
        return f"{one.name} needs {gpus}, which no pool has: {_pools(catalog)}"
    unknown = _unknown(catalog, resources)
    where = f"on pool {next(iter(one.gpu))}" if len(one.gpu) == 1 else f"on one of {', '.join(one.gpu)}"
    sure = "" if packing.exhaustive else " (as far as was searched)"
    helps = "; or ".join(_remedies(catalog, packing, demands, one)) or "other machines"
    return f"{asked} {where}, and there is no room{sure}; what would help: {helps}{unknown}"


def _said(one: Demand) -> str:
    shares = sorted({units for units in one.gpu.values() if units})
    gpus = [f"{' or '.join(f'{units / UNIT:g}' for units in shares)} GPU"] if shares else []
    memory = [f"{ByteSize(one.memory).human_readable()} of memory"] if one.memory else []
    return ", ".join([*gpus, f"{one.cpu / UNIT:g} CPU", *memory])


def _unknown(catalog: Catalog, resources: Resources) -> str:
    """Pools whose GPUs are out of the question for `vram`, because nobody said how much memory they have."""
    silent = [one.name for one in catalog.pools if one.gpus and not (one.gpu_memory or catalog.gpu_memory)]
    return f"; {', '.join(silent)}: no gpu_memory is said, which vram is a part of" if resources.vram and silent else ""


def _pools(catalog: Catalog) -> str:
    """Every pool's GPUs."""
    return ", ".join(
        f"{pool.name} has {pool.gpus} of {pool.kind}"
        + (
            f", {pool.gpu_memory.human_readable()} each"
            if pool.gpu_memory
            else ", and says no gpu_memory" * bool(pool.gpus)
        )
        for pool in catalog.pools
    )


def _remedies(catalog: Catalog, packing: Packing, demands: list[Demand], one: Demand) -> Iterator[str]:
    """Changes of which each alone gives this deployment a place."""
    machines = _machines(catalog.pools)
    for pool in one.gpu:
        more = [replace(m, nodes=m.nodes + 1) if m.name == pool else m for m in machines]
        if one not in pack(demands, more).unplaced:
            yield f"one more machine in {pool}"
    for pool in one.gpu:
        free = max((max(n.gpus, default=0) for n in packing.nodes if n.pool == pool), default=0)
        if 0 < free < min(one.gpu[pool], UNIT) and _fits(demands, machines, one, gpu={pool: free}):
            yield f"at most {free / UNIT:g} of a GPU of {pool}"
    if one.cpu and _fits(demands, machines, one, cpu=0):
        yield "fewer CPUs for it, or more of them in the pool"
    if one.memory and _fits(demands, machines, one, memory=0):
        yield "less memory for it, or more of it in the pool"
    if one.replicas > 1 and _fits(demands, machines, one, replicas=1):
        yield "fewer replicas"


def _fits(demands: list[Demand], machines: list[Machines], one: Demand, **changed: object) -> bool:
    changed_one = replace(one, **changed)  # type: ignore[arg-type]  # fields of Demand, by name
    return changed_one not in pack([changed_one if d is one else d for d in demands], machines).unplaced
