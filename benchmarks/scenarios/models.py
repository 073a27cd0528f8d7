"""How cost grows with the number of models in the catalog."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import classic, load
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target
from benchmarks.serving import memory_mb, served

COUNTS = (1, 10, 100)
SECONDS = 2.0
MODEL = '  - {{name: identity-{number}, engine: python, source: "file://{folder}/identity", inline: true}}\n'


def prepare(folder: Path) -> None:
    """A catalog for each number of models that give back their input."""
    (folder / "identity").mkdir()
    (folder / "identity" / "model.py").write_text(classic.IDENTITY)
    for count in COUNTS:
        models = "".join(MODEL.format(number=number, folder=folder) for number in range(count))
        (folder / f"{count}.yaml").write_text(f"name: bench\nmodels:\n{models}")


@contextmanager
def start(folder: Path) -> Iterator[Server]:
    """Nothing yet: each number of models has a start of its own."""
    yield Server(folder)


def measure(server: Server) -> Figures:
    """Start-up, memory of all processes, and requests to the last model of each catalog."""
    found: Figures = {}
    for count in COUNTS:
        request = load.Request(f"/v1/models/identity-{count - 1}:predict", b'{"instances": [[1.0, 2.0]]}')
        began_s = time.perf_counter()
        with served(server.folder, f"{count}.yaml") as ours:
            ready_s = time.perf_counter() - began_s
            alone = load.http(ours.http, request, 1, SECONDS)
            busy = load.http(ours.http, request, 32, SECONDS)
            found[f"{count} model{'s' if count > 1 else ''}"] = {
                "ready s": ready_s,
                "memory MB": memory_mb(ours),
                "1 client, p50 ms": alone["p50 ms"],
                "32 clients, requests/s": busy["requests/s"],
            }
    return found


SCENARIO = Scenario(
    name="models",
    about=(
        "Catalogs of 1, 10 and 100 models inside the gateway that give back their input (V1): time until all are "
        "ready, memory of all processes together (shared pages once), and requests to the last model. "
        "An exponent of 0 is no growth, 1 is proportional."
    ),
    sides=(Side(OURS, start, measure),),
    targets=(
        Target("", "1 client, p50 ms", kind="exponent", most=0.05),
        Target("", "32 clients, requests/s", kind="exponent", least=-0.05),
    ),
    prepare=prepare,
    axis={f"{count} model{'s' if count > 1 else ''}": float(count) for count in COUNTS},
)
