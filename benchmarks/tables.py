"""Results as Markdown: a table of figures, a table of what is asked, and the page of all of them.

Knows nothing of measuring.
"""

from typing import Any

from benchmarks.results import Result
from benchmarks.scenario import CEILING, OURS, more_is_better

BEGIN, END = "<!-- results: {} -->", "<!-- end of results: {} -->"


def number(value: float) -> str:
    """Three digits that matter, or all of a large number."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *rest = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rest)])


def figures(result: Result) -> str:
    """The medians of all sides, and beside each peer's ours as a multiple of it, with the spread over rounds."""
    cells = {(row["case"], row["metric"], row["side"]): row for row in result["summary"] if "case" in row}
    sides = [side for side in result["sides"] if any(key[2] == side for key in cells)]
    pairs = list(dict.fromkeys((case, metric) for case, metric, _ in cells))
    rows = [["", *sides]]
    for case, metric in pairs:
        rows.append([f"{case}: {metric}", *(_cell(cells.get((case, metric, side))) for side in sides)])
    return table(rows)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    middle, lowest, highest = row["median"]
    if row.get("ratio"):
        times, least, most = row["ratio"]
        return f"{number(middle)} (×{times:.2f}, {least:.2f}–{most:.2f})"
    if row["side"] == CEILING or lowest == highest:
        return number(middle)
    return f"{number(middle)} ({number(lowest)}–{number(highest)})"


def exponents(result: Result) -> str:
    """How figures grow along the scenario's axis; "" where it has none."""
    grown = [row for row in result["summary"] if "exponent" in row]
    if not grown:
        return ""
    sides = list(dict.fromkeys(row["side"] for row in grown))
    by_key = {(row["metric"], row["side"]): f"{row['exponent']:+.2f}" for row in grown}
    rows = [["Exponent of growth", *sides]]
    for metric in dict.fromkeys(row["metric"] for row in grown):
        rows.append([metric, *(by_key.get((metric, side), "") for side in sides)])
    return table(rows)


def targets(result: Result) -> str:
    """What is asked, what was found, and whether that is met; "" where nothing is asked."""
    if not result["targets"]:
        return ""
    rows = [["Asked", "Found", "Met"]]
    words = {True: "yes", False: "**no**", None: "not measured"}
    rows += [[wording(one), _found(one), words[one["met"]]] for one in result["targets"]]
    return table(rows)


def wording(target: dict[str, Any]) -> str:
    """A target in words: "V1, 32 clients: requests/s ≥ 1.3 × KServe's"."""
    sign, bound = ("≥", target["least"]) if target["least"] is not None else ("≤", target["most"])
    whose = "" if target["of"] == OURS else f"{target['of']}, "
    what = f"{whose}{target['case']}: {target['metric']}" if target["case"] else f"{whose}{target['metric']}"
    unit = target["metric"].rpartition(" ")[2]
    return {
        "ratio": f"{what} {sign} {bound:g} × {target['peer']}'s",
        "difference": f"{what} {sign} {bound:g} {unit} more than {target['peer']}'s",
        "value": f"{what} {sign} {bound:g}",
        "exponent": f"{what}: exponent {sign} {bound:g}",
    }[target["kind"]]


def _found(target: dict[str, Any]) -> str:
    if target["found"] is None:
        return ""
    middle, lowest, highest = target["found"]
    shown = (lambda value: f"{value:.2f}") if target["kind"] in ("ratio", "exponent") else number
    return shown(middle) if lowest == highest else f"{shown(middle)} ({shown(lowest)}–{shown(highest)})"


def losses(result: Result) -> list[str]:
    """Every figure in which ours is the worse one, in words, worst first."""
    found = []
    for row in result["summary"]:
        if row.get("ratio") and not row["metric"].startswith("p99"):
            times = row["ratio"][0]
            worse = 1 / times if more_is_better(row["metric"]) and times else times
            if worse > 1.05:
                found.append((worse, f"{row['case']}, {row['metric']}: {times:.2f} × {row['side']}'s"))
    return [words for _, words in sorted(found, reverse=True)]


def report(result: Result) -> str:
    """One scenario's results as Markdown, from its plot to where it was measured."""
    machine, versions = result["machine"], result["versions"]
    parts = [result["about"], f"![{result['scenario']}](../benchmarks/results/{result['scenario']}.svg)"]
    parts += [figures(result), exponents(result), targets(result)]
    worse = losses(result)
    parts.append("Ours is the worse one in: " + "; ".join(worse) + "." if worse else "")
    parts += [f"Not measured: {side}: {why}." for side, why in result["unavailable"].items()]
    where = f"{machine['cores']} × {machine['processor']}, {machine['memory_gib']} GiB"
    when = f"{len(result['rounds'])} rounds in {result['took_s']} s, {result['when']}, commit {result['commit']}"
    what = f"client {result['client']}; Python {versions['python']}, Ray {versions.get('ray', '?')}"
    parts.append(f"{when}, {where}, load before {machine['load_before']}; {what}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def put(page: str, name: str, text: str) -> str:
    """The page with what stands between a scenario's marks replaced; with a new section where it has no marks."""
    begin, end = BEGIN.format(name), END.format(name)
    if begin not in page:
        page = f"{page.rstrip()}\n\n## {name}\n\n{begin}\n{end}\n"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{text.strip()}\n{end}{rest.partition(end)[2]}"
