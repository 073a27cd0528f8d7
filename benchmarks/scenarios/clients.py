"""How cost grows with the number of clients, with one gateway replica and with two."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks import load
from benchmarks.ceiling import ceiling
from benchmarks.classic import CATALOG, V1, prepare
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side
from benchmarks.serving import served

COUNTS = (1, 8, 64, 256)
SECONDS = 3.0
TWO = "serve_app, 2 gateway replicas"


def prepare_two(folder: Path) -> None:
    """The catalogs of one gateway replica and of two."""
    prepare(folder)
    scaling = "gateway: {scaling: {min: 2, max: 2, target: 256}}\n"
    (folder / "two.yaml").write_text(CATALOG.format(folder=folder) + scaling)


def measure(server: Server) -> Figures:
    """V1 requests to iris from each number of clients."""
    return {f"{count} clients": load.http(server.http, V1, count, SECONDS) for count in COUNTS}


start_two: Callable[[Path], AbstractContextManager[Server]] = partial(served, catalog="two.yaml")

SCENARIO = Scenario(
    name="clients",
    about=(
        "V1 requests to an iris classifier inside the gateway from 1 to 256 clients, with one gateway replica and "
        "with two. The client and HAProxy share the two cores with the replicas."
    ),
    sides=(Side(OURS, served, measure), Side(TWO, start_two, measure), ceiling(measure, answer_bytes=120)),
    prepare=prepare_two,
    axis={f"{count} clients": float(count) for count in COUNTS},
)
