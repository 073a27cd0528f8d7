"""How cost grows with the size of a body."""

from benchmarks import load
from benchmarks.ceiling import ceiling
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target
from benchmarks.scenarios.carry import KIND, prepare
from benchmarks.serving import served

SIZES = {
    "1 KB": 1 << 10,
    "32 KB": 32 << 10,
    "1 MB": 1 << 20,
    "8 MB": 8 << 20,
    "32 MB": 32 << 20,
    "100 MB": 100 << 20,
    "200 MB": 200 << 20,
}
SECONDS = 3.0


def measure(server: Server) -> Figures:
    """The time to an answer as large as the body, from one client."""
    found: Figures = {}
    for name, size in SIZES.items():
        took = load.one_by_one(server.http, load.Request("/echo/unary", b"x" * size, KIND), SECONDS)
        found[name] = {"p50 ms": took["p50 ms"]}
    return found


SCENARIO = Scenario(
    name="bodies",
    about="Bodies of 1 KB to 200 MB to a replica behind the gateway, which gives each back; one client.",
    sides=(Side(OURS, served, measure), ceiling(measure, answer_bytes=1024)),
    targets=(Target("", "p50 ms", kind="exponent", most=1.0),),
    prepare=prepare,
    axis={name: float(size) for name, size in SIZES.items()},
)
