"""A `serve-app up` of its own for a benchmark, and its processes' memory."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from serve_app import instance, machine


@contextlib.contextmanager
def served(catalog: str) -> Iterator[str]:
    """The URL of that catalog's application, once every model of it has come up."""
    port = machine.free_port()
    command = [str(Path(sys.executable).parent / "serve-app"), "up", catalog, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/v2/health/ready", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise SystemExit("serve-app up did not come up")


class Memory:
    """The most memory of their own that a deployment's processes held within a block, in MB.

    Linux counts pages of Ray's object store, which has a bound of its own, as those of the process that wrote
    them; they are left out here.
    """

    def __init__(self, url: str, deployment: str) -> None:
        found = instance.find(int(url.rpartition(":")[2]))
        assert found
        self._processes = [p for p in instance.processes(found.session) if _title(p).endswith(f":{deployment}")]
        assert self._processes
        self.before_mb = self.peak_mb = self._now_mb()
        self._done = threading.Event()

    def _now_mb(self) -> float:
        return sum(_anonymous_kb(p.pid) for p in self._processes) / 1024

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


def _anonymous_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()).strip()
