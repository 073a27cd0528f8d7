"""What the way through the gateway to a replica costs, with a model that gives back what it gets."""

from functools import partial
from pathlib import Path

from benchmarks import load, ray_apps
from benchmarks.ceiling import ceiling
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target
from benchmarks.serving import served

BARE, DIRECT = "bare Ray Serve", "serve_app, replica directly"
SIZES = {"1 KB": 1 << 10, "1 MB": 1 << 20, "30 MB": 30 << 20}
CHUNKS = 200
STREAM = f"stream of {CHUNKS} chunks, 32 clients"
SECONDS = 2.0
KIND = {"Content-Type": "application/octet-stream"}
MODEL = """
from benchmarks.ray_apps import echo


class Model:
    app = staticmethod(echo)
"""
CATALOG = """
name: bench
layout: {layout}
models:
  - {{name: echo, engine: python, source: "file://{folder}/echo", scaling: {{target: 256}}}}
"""


def prepare(folder: Path) -> None:
    """The model that is an ASGI app, behind the gateway and at an address of its own."""
    (folder / "echo").mkdir()
    (folder / "echo" / "model.py").write_text(MODEL)
    for name, layout in (("catalog", "single"), ("direct", "per-model")):
        (folder / f"{name}.yaml").write_text(CATALOG.format(folder=folder, layout=layout))


def measure(sizes: tuple[str, ...], server: Server) -> Figures:
    """Unary bodies from 1 client, the smallest also from 32, and streams from 32."""
    found: Figures = {}
    for size in sizes:
        request = load.Request("/echo/unary", b"x" * SIZES[size], KIND)
        ask = load.one_by_one if SIZES[size] > 1 << 20 else partial(load.http, clients=1)
        found[f"{size}, 1 client"] = ask(server.http, request, seconds=SECONDS)
    small = load.Request("/echo/unary", b"x" * SIZES["1 KB"], KIND)
    found["1 KB, 32 clients"] = load.http(server.http, small, 32, SECONDS)
    found[STREAM] = streamed(server)
    return found


def streamed(server: Server) -> dict[str, float]:
    """Chunks per second of all streams together, and the median time to the first."""
    request = load.Request(f"/echo/stream/{CHUNKS}", b'{"stream": true}')
    load.run(load.streams(server.http, request, 32, 32))
    found, took_s = load.run(load.streams(server.http, request, 32, 96))
    firsts = sorted(one.first_s for one in found)
    return {"chunks/s": len(found) * CHUNKS / took_s, "first ms": firsts[len(firsts) // 2] * 1000}


SCENARIO = Scenario(
    name="carry",
    about=(
        "A model that gives back its body, in a replica of its own behind the gateway. Beside it: a bare Ray Serve "
        "ingress that hands the body to a child, with the same flags and HAProxy (no resolve, no ASGI; bodies over "
        "4 MB fail there), and the same replica reached directly (`layout: per-model`). Streams are of 64-byte chunks, "
        "5 ms apart."
    ),
    sides=(
        Side(OURS, served, partial(measure, tuple(SIZES))),
        Side(BARE, ray_apps.tuned("bare"), partial(measure, ("1 KB", "1 MB"))),
        Side(DIRECT, partial(served, catalog="direct.yaml"), partial(measure, tuple(SIZES))),
        ceiling(partial(measure, tuple(SIZES)), answer_bytes=1024),
    ),
    targets=(
        Target("1 KB, 1 client", "p50 ms", DIRECT, most=1.5, kind="difference"),
        Target("1 KB, 32 clients", "requests/s", BARE, least=1.0),
        Target(STREAM, "chunks/s", DIRECT, least=0.75),
    ),
    prepare=prepare,
)
