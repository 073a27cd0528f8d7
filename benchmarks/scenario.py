"""What a scenario is: who is measured, how, and what is asked of us. Knows nothing of processes, files or rounds."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

OURS = "serve_app"
CEILING = "client's ceiling"

Figures = dict[str, dict[str, float]]
"""One measurement: case → metric → value. A metric's name ends in its unit, that of a rate in `/s`."""


class Unavailable(Exception):
    """A side cannot be measured here; the others go on."""


class Server(NamedTuple):
    """Something that was started: the scenario's folder and its ports on 127.0.0.1, 0 where it has none."""

    folder: Path
    http: int = 0
    grpc: int = 0


@dataclass(frozen=True)
class Side:
    """One of those who are measured: a server, or a library in a process of its own.

    `start` may raise `Unavailable`. A side with `once` is measured in the first round only.
    """

    name: str
    start: Callable[[Path], AbstractContextManager[Server]]
    measure: Callable[[Server], Figures]
    once: bool = False


@dataclass(frozen=True)
class Target:
    """What is asked of one figure: a ratio to a peer's, a difference from it, the value itself or its exponent."""

    case: str
    metric: str
    peer: str = ""
    least: float | None = None
    most: float | None = None
    kind: Literal["ratio", "difference", "value", "exponent"] = "ratio"
    of: str = OURS


@dataclass(frozen=True)
class Scenario:
    """A comparison that can be run alone. The first side is ours; `axis` gives cases their place on a growing axis."""

    name: str
    about: str
    sides: tuple[Side, ...]
    targets: tuple[Target, ...] = ()
    prepare: Callable[[Path], None] = lambda _: None
    rounds: int = 3
    axis: dict[str, float] = field(default_factory=dict)


def more_is_better(metric: str) -> bool:
    """Rates are better when they are larger; times and memory when they are smaller."""
    return metric.endswith("/s")
