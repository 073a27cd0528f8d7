"""A plan for people: a bar for each GPU, a line for each model. Draws; decides nothing."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayservice.estimate import Estimate, estimate
from rayservice.packing import UNIT
from rayservice.plan import Plan, grows
from serve_app.catalog import Catalog
from serve_app.cluster import Pool
from serve_app.model import Model

BAR = 40
COLOURS = ("cyan", "magenta", "green", "blue", "yellow")


def show(console: Console, plan: Plan) -> None:
    """The whole plan, and what is wrong with it."""
    console.print(_gpus(plan))
    if _on_gpus(plan.catalog):
        console.print(_models(plan))
    for line in plan.complaints:
        console.print(line, style="red", markup=False, soft_wrap=True)
    for line in doubts(plan.catalog):
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    if not plan.complaints and not grows(plan.catalog):
        console.print("all models fit, but not all at their largest number of replicas at once", style="yellow")


def doubts(catalog: Catalog) -> list[str]:
    """Models whose share of a GPU is smaller than what their files suggest."""
    lines = []
    for model in _on_gpus(catalog):
        share, found = _share_bytes(model, catalog), estimate(model)
        if share and isinstance(found, Estimate) and found.total > share * max(1, int(model.resources.gpu)):
            lines.append(
                f"{model.name}: its share is {share / 2**30:.1f} GiB of each GPU, and it is estimated to take "
                f"{found.total / 2**30:.1f} GiB ({found.said})"
            )
    return lines


def _gpus(plan: Plan) -> Table:
    table = Table("Pool", "Machine", "GPU", "Who takes how much", box=None)
    names = sorted({place.name for place in plan.packing.places})
    for node in plan.packing.nodes:
        here = [one for one in plan.packing.places if (one.pool, one.node) == (node.pool, node.index)]
        for at in range(len(node.gpus)):
            shares = [(one.name, one.units) for one in here if at in one.gpus]
            table.add_row(node.pool, str(node.index), str(at), _bar(shares, names))
        if not node.gpus:
            table.add_row(node.pool, str(node.index), "-", ", ".join(one.name for one in here))
    return table


def _bar(shares: list[tuple[str, int]], names: list[str]) -> Text:
    bar, legend, drawn = Text("["), Text(), 0
    for name, units in shares:
        width = round(units * BAR / UNIT)
        colour = COLOURS[names.index(name) % len(COLOURS)]
        bar.append("█" * width, style=colour)
        legend.append(f" {name} {units / UNIT:g}", style=colour)
        drawn += width
    bar.append("·" * max(0, BAR - drawn))
    free = UNIT - sum(units for _, units in shares)
    return bar.append("]").append(legend).append(f" free {free / UNIT:g}" if free else "")


def _models(plan: Plan) -> Table:
    table = Table("Model", "Pool", "GPU", "Share of its memory", "Estimate", box=None)
    for model in _on_gpus(plan.catalog):
        resources, found = model.resources, estimate(model)
        share = _share_bytes(model, plan.catalog)
        declared = " (declared)" if resources.vram else ""
        table.add_row(
            model.name,
            resources.pool or "nowhere",
            f"{resources.gpu:g}" + (f" x {model.scaling.min}" if model.scaling.min > 1 else ""),
            f"{share / 2**30:.1f} GiB{declared}" if share else "unknown: the pool says no gpu_memory",
            f"{found.total / 2**30:.1f} GiB: {found.said}" if isinstance(found, Estimate) else found,
        )
    return table


def _on_gpus(catalog: Catalog) -> list[Model]:
    return [model for model in catalog.models if model.deployment == model.name and model.resources.gpu]


def _share_bytes(model: Model, catalog: Catalog) -> float | None:
    """Its part of one GPU's memory."""
    if model.resources.vram:
        return float(model.resources.vram)
    pools: dict[str | None, Pool] = {pool.name: pool for pool in catalog.pools}
    pool = pools.get(model.resources.pool)
    return min(1.0, model.resources.gpu) * pool.gpu_memory if pool and pool.gpu_memory else None
