"""Runs a scenario: its sides in turn, A B A B, each started anew, measured, and ended.

Knows nothing of what they are, nor of how results are shown.
"""

import importlib
import pkgutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks import scenarios
from benchmarks.scenario import Scenario, Side, Unavailable
from benchmarks.summary import Round

BUDGET_S = 300.0
"""How long a scenario may take where the number of rounds was not asked for."""


@dataclass(frozen=True)
class Outcome:
    """What a scenario measured: its rounds, and why sides are missing from them."""

    scenario: Scenario
    rounds: list[Round]
    unavailable: dict[str, str]
    took_s: float


def find() -> dict[str, Scenario]:
    """Every scenario by its name, each found by its file in `scenarios/`."""
    modules = [importlib.import_module(f"{scenarios.__name__}.{one.name}") for one in _files()]
    return {module.SCENARIO.name: module.SCENARIO for module in modules if hasattr(module, "SCENARIO")}


def _files() -> list[pkgutil.ModuleInfo]:
    return list(pkgutil.iter_modules(scenarios.__path__))


def run(scenario: Scenario, rounds: int | None, console: Console) -> Outcome:
    """Measure it: its own number of rounds as far as `BUDGET_S` goes, or as many as are asked for."""
    began_s = time.monotonic()
    found: list[Round] = []
    unavailable: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="serve-app-bench-") as made:
        folder = Path(made)
        scenario.prepare(folder)
        longest_s = 0.0
        wanted = rounds or scenario.rounds
        for number in range(1, wanted + 1):
            if rounds is None and found and time.monotonic() - began_s + longest_s > BUDGET_S:
                console.print(f"  no round {number} of {wanted}: it would take longer than {BUDGET_S:.0f} s in all")
                break
            round_began_s = time.monotonic()
            found.append({})
            for side in scenario.sides:
                if side.name in unavailable or (side.once and number > 1):
                    continue
                console.print(f"  round {number} of {wanted}: {side.name}")
                _measure(side, folder, found[-1], unavailable, console)
            longest_s = max(longest_s, time.monotonic() - round_began_s)
    return Outcome(scenario, found, unavailable, time.monotonic() - began_s)


def _measure(side: Side, folder: Path, into: Round, unavailable: dict[str, str], console: Console) -> None:
    """Measure one side; what goes wrong with it keeps the others from nothing."""
    try:
        with side.start(folder) as server:
            into[side.name] = side.measure(server)
    except (
        Unavailable,
        RuntimeError,
        ValueError,
        OSError,
        EOFError,
        AssertionError,
        subprocess.SubprocessError,
    ) as error:
        unavailable[side.name] = str(error) or type(error).__name__
        console.print(f"  not measured: {side.name}: {unavailable[side.name]}", style="red", markup=False)
