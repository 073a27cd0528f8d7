"""From `serve-app up` to the first answers of the embedded catalog."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.processes import running
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target
from benchmarks.serving import command_of
from serve_app import machine

ALL = "all models"
POLL_S = 0.1


@contextmanager
def start(folder: Path) -> Iterator[Server]:
    """Nothing yet: the start is what is measured."""
    yield Server(folder, machine.free_port(), machine.free_port())


def measure(server: Server) -> Figures:
    """Seconds until each model is ready, and until all are."""
    found: Figures = {}
    began_s = time.perf_counter()

    def all_ready() -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{server.http}/v2/health/ready", timeout=5)
            models = answer.json()["models"]
        except (httpx.HTTPError, ValueError, KeyError):
            return False
        for model in models:
            if model["state"] == "ready":
                found.setdefault(model["name"], {"ready s": time.perf_counter() - began_s})
        return answer.status_code == 200

    with running(command_of("embedded", server.http, server.grpc), all_ready, server.folder / "up.log"):
        found[ALL] = {"ready s": time.perf_counter() - began_s}
    return found


SCENARIO = Scenario(
    name="cold_start",
    about="`serve-app up embedded`, its environment present: seconds until each model is ready, and until all are.",
    sides=(Side(OURS, start, measure),),
    targets=(Target(ALL, "ready s", most=60.0, kind="value"),),
)
