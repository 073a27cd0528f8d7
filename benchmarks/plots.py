"""Results as pictures: bars side by side, or curves along a growing axis."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt  # after the choice of what draws

from benchmarks.results import Result
from benchmarks.scenario import CEILING

LOOK: Any = {"svg.hashsalt": "serve_app", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False} | {
    "axes.spines.right": False
}


def draw(result: Result, file: Path) -> None:
    """One plot for each of the scenario's metrics, one beside the other. Whiskers go from the lowest to the highest."""
    rows = [row for row in result["summary"] if "case" in row and row["side"] != CEILING]
    metrics = list(dict.fromkeys(row["metric"] for row in rows if not row["metric"].startswith("p99")))
    if not metrics:
        return
    with mpl.rc_context(LOOK):
        cases = len({row["case"] for row in rows})
        width = 3.2 if result["axis"] else 2.2 + 0.45 * cases
        figure, axes = plt.subplots(1, len(metrics), figsize=(width * len(metrics) + 1, 3.6), squeeze=False)
        for panel, metric in zip(axes[0], metrics, strict=True):
            own = [row for row in rows if row["metric"] == metric]
            (_curves if result["axis"] else _bars)(panel, own, result)
            panel.set_title(metric)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=min(4, len(labels)), frameon=False)
        figure.tight_layout(rect=(0, 0.12, 1, 1))
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


def _bars(panel: Any, rows: list[dict[str, Any]], result: Result) -> None:
    cases = list(dict.fromkeys(row["case"] for row in rows))
    sides = [side for side in result["sides"] if side != CEILING]
    width = 0.8 / len(sides)
    for at, side in enumerate(sides):
        found = {row["case"]: row["median"] for row in rows if row["side"] == side}
        places = [cases.index(case) + (at - (len(sides) - 1) / 2) * width for case in found]
        heights = [middle for middle, _, _ in found.values()]
        whiskers = [[m - low for m, low, _ in found.values()], [high - m for m, _, high in found.values()]]
        panel.bar(places, heights, width, label=side, yerr=whiskers if heights else None, error_kw={"lw": 0.8})
    panel.set_xticks(range(len(cases)), cases, rotation=35, ha="right")


def _curves(panel: Any, rows: list[dict[str, Any]], result: Result) -> None:
    axis = result["axis"]
    for side in dict.fromkeys(row["side"] for row in rows):
        points = sorted((axis[row["case"]], row["median"][0]) for row in rows if row["side"] == side)
        panel.plot([x for x, _ in points], [y for _, y in points], "o-", label=side)
    panel.set_xscale("log")
    panel.set_yscale("log")
