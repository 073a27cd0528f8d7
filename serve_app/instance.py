"""One `serve-app up` on this machine: where it keeps what it knows, and how all of it is ended.

Every process that it starts carries the session's id in its environment, HAProxy's and an engine's
own children included; ending it means ending each of these, and no other. Knows nothing of Ray.
"""

import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from serve_app.environment import SESSION

SWEEP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Instance:
    """What `down` and `status` need to know of a running `up`."""

    session: str
    up_pid: int
    host: str
    port: int
    grpc_port: int
    ray_port: int
    dashboard_port: int
    metrics_port: int
    token: str
    catalog: str

    @property
    def url(self) -> str:
        """Where its HTTP is."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus finds Ray's metrics and the models'."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def write(self) -> None:
        """Keep this, readable by its owner alone: it holds the control plane's token."""
        file = folder(self.port) / "instance.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(asdict(self)))


def folder(port: int) -> Path:
    """The folder of the instance on that port: its state, its logs, Ray's session."""
    return Path(tempfile.gettempdir()) / f"serve-app-{os.getuid()}-{port}"


def new_folder(port: int) -> Path:
    """That folder, emptied."""
    path = folder(port)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700, parents=True)
    return path


def find(port: int) -> Instance | None:
    """The instance on that port, if one was started and not ended; its processes may be gone."""
    try:
        return Instance(**json.loads((folder(port) / "instance.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def forget(port: int) -> None:
    """Remove what `find` finds; the logs stay until the next start."""
    (folder(port) / "instance.json").unlink(missing_ok=True)


def processes(session: str) -> list[psutil.Process]:
    """Every process of that session but this one: those that carry its mark, and their children."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(SESSION) == session:
                found |= {process, *process.children(recursive=True)}
        except (psutil.Error, OSError):
            continue
    return [process for process in found if process.pid != os.getpid() and _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def sweep(session: str) -> list[psutil.Process]:
    """End every process of that session, and return those that could not be ended.

    Looked for again until two looks find none, because a process may be starting another.
    """
    give_up_s, clean = time.monotonic() + SWEEP_TIMEOUT_S, 0
    left = processes(session)
    while clean < 2 and time.monotonic() < give_up_s:
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=2)
        left = processes(session)
        clean = 0 if left else clean + 1
    return left
