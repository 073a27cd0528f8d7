"""`python -m benchmarks [NAME...]`: measures scenarios beside what a user would run instead; `make bench` calls it."""

import argparse
import contextlib
import signal
import sys
from types import FrameType

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import harness, plots, results, tables
from benchmarks.environments import CHECKOUT
from benchmarks.scenario import Unavailable

PAGE = CHECKOUT / "docs" / "benchmarks.md"


def main() -> int:
    """Parse the command line and run; 1 where a scenario could not be measured at all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios; default: all")
    parser.add_argument("--rounds", type=int, help="how often each is measured; default: its own, in 5 minutes at most")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--docs", action="store_true", help="only redraw the plots and the page from what was measured")
    asked = parser.parse_args()
    found, console = harness.find(), Console()
    if asked.list:
        for name, scenario in found.items():
            console.print(f"[bold]{name}[/bold]: {scenario.about}", soft_wrap=True)
        return 0
    if unknown := set(asked.names) - set(found):
        parser.error(f"unknown scenario {', '.join(sorted(unknown))}; have: {', '.join(found)}")
    if asked.docs:
        write_page()
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        return max([_run(name, asked.rounds, console) for name in asked.names or found])
    return 130


def _run(name: str, rounds: int | None, console: Console) -> int:
    """Measure one and show it; 0 where ours was measured."""
    scenario = harness.find()[name]
    console.rule(name)
    try:
        outcome = harness.run(scenario, rounds, console)
    except Unavailable as error:
        console.print(f"{name} cannot be measured here: {error}", style="red", markup=False)
        return 1
    file = results.write(outcome)
    result = results.read()[name]
    plots.draw(result, file.with_suffix(".svg"))
    file.with_suffix(".md").write_text(tables.report(result))
    shown = [tables.figures(result), tables.exponents(result), tables.targets(result)]
    console.print(Markdown("\n\n".join(part for part in shown if part)))
    return 0 if scenario.sides[0].name not in outcome.unavailable else 1


def write_page() -> None:
    """Put every kept result into the page of benchmarks, and draw its plot anew."""
    page = PAGE.read_text()
    for name, result in results.read().items():
        plots.draw(result, results.FOLDER / f"{name}.svg")
        page = tables.put(page, name, tables.report(result))
    PAGE.write_text(page)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
