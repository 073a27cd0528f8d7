"""`serve-app up` for the length of a block, and what memory its processes hold."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.processes import answers, running
from benchmarks.scenario import Server
from serve_app import instance, machine


def command_of(catalog: str | Path, port: int, grpc_port: int) -> list[str]:
    """The `serve-app up` of that catalog on those ports."""
    command = [str(Path(sys.executable).parent / "serve-app"), "up", str(catalog)]
    return [*command, "--port", str(port), "--grpc-port", str(grpc_port)]


@contextlib.contextmanager
def served(folder: Path, catalog: str | Path = "catalog.yaml") -> Iterator[Server]:
    """That catalog's application, in the scenario's folder or shipped, once every model of it has come up."""
    own = folder / catalog
    server = Server(folder, machine.free_port(), machine.free_port())
    command = command_of(own if own.exists() else catalog, server.http, server.grpc)
    ready = answers(f"http://127.0.0.1:{server.http}/v2/health/ready")
    with running(command, ready, folder / "serve_app.log"):
        yield server


def memory_mb(server: Server) -> float:
    """The memory of all processes of that application, in MB; pages that several share are counted once."""
    found = instance.find(server.http)
    assert found
    return sum(_rollup_kb(process.pid, "Pss") for process in instance.processes(found.session)) / 1024


class Memory:
    """The most memory of their own that a deployment's processes held within a block, in MB.

    Linux counts pages of Ray's object store, which has a bound of its own, as those of the process that wrote
    them; they are left out here.
    """

    def __init__(self, server: Server, deployment: str) -> None:
        found = instance.find(server.http)
        assert found
        self._processes = [p for p in instance.processes(found.session) if _title(p).endswith(f":{deployment}")]
        assert self._processes
        self.before_mb = self.peak_mb = self._now_mb()
        self._done = threading.Event()

    def _now_mb(self) -> float:
        return sum(_rollup_kb(process.pid, "Anonymous") for process in self._processes) / 1024

    def __enter__(self) -> "Memory":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak_mb = max(self.peak_mb, self._now_mb())


def _rollup_kb(pid: int, kind: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")), 0)


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()).strip()
