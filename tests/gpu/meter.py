"""How much of the GPU each model holds, looked at from outside while it works: what the driver counts.

By process where the driver tells that: what a model's process and its children hold, CUDA's contexts and all
allocators included. Elsewhere (containers with process ids of their own) by what changes on the whole GPU while
only one model does anything. Knows nothing of what models do.
"""

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil

from deployments import gpu

MIB = 1 << 20
LOOK_S = 0.25
"""How often is looked. Allocators keep what they have taken, so that hardly a peak is missed."""


class Driver(NamedTuple):
    """Two questions to the driver."""

    by_process: Callable[[], dict[int, int] | None]
    """Bytes by process id; None where it does not tell."""
    taken: Callable[[], int]
    """Bytes taken on the GPU, by whomever."""


NO_GPU = Driver(lambda: {}, lambda: 0)


def driver(uuid: str, otherwise: Callable[[], int]) -> Driver:
    """The driver by NVML or nvidia-smi; what is taken by `otherwise`, where there is no nvidia-smi."""
    program = shutil.which("nvidia-smi")

    def by_process() -> dict[int, int] | None:
        counted = gpu.held_by_process()
        if counted is None and program and gpu.ids_are_the_drivers():
            return processes_in(_query(program, uuid, "--query-compute-apps=pid,used_memory"))
        return counted

    def taken() -> int:
        return int(_query(program, uuid, "--query-gpu=memory.used")) * MIB if program else otherwise()

    return Driver(by_process, taken)


def processes_in(listed: str) -> dict[int, int] | None:
    """Bytes by process id out of nvidia-smi's lines of `pid, MiB`; None where it writes no number."""
    held: dict[int, int] = {}
    for line in listed.splitlines():
        pid, _, used = line.partition(",")
        if not used.strip().isdigit():
            return None
        held[int(pid)] = held.get(int(pid), 0) + int(used) * MIB
    return held


def _query(program: str, uuid: str, what: str) -> str:
    command = [program, "-i", uuid, what, "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


class Meter:
    """Looks at the GPU in a thread, and keeps the most that each model has held."""

    def __init__(self, asked: Driver) -> None:
        self.basis = ""
        """How it was found out last, in words."""
        self._driver = asked
        self._pids: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self._peaks: dict[str, int] = {}
        self._alone: tuple[str, int] | None = None
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self._thread.start()

    def follow(self, name: str, pid: int) -> None:
        """From now on this process and its children are that model."""
        with self._guard:
            self._pids[name] = pid

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Within the block only that model does anything on the GPU."""
        with self._guard:
            self._alone = (name, self._driver.taken() - self._held.get(name, 0))
        try:
            yield
        finally:
            self.look()
            with self._guard:
                self._alone = None

    def peaks(self) -> dict[str, int]:
        """The most bytes that each model has held since the last call."""
        self.look()
        with self._guard:
            found, self._peaks = self._peaks, {}
        return found

    def look(self) -> None:
        """Look now."""
        with self._guard:
            self._held |= self._found()
            for name, held in self._held.items():
                self._peaks[name] = max(self._peaks.get(name, 0), held)

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _found(self) -> dict[str, int]:
        counted = self._driver.by_process() or {}
        trees = {name: _tree(pid) & counted.keys() for name, pid in self._pids.items()}
        if any(trees.values()):
            self.basis = "as the driver counts each process"
            return {name: sum(counted[pid] for pid in tree) for name, tree in trees.items()}
        if self._alone:
            self.basis = "as the whole GPU changed while one model worked"
            name, before = self._alone
            return {name: max(0, self._driver.taken() - before)}
        return {}

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            with contextlib.suppress(subprocess.SubprocessError, ValueError):  # nvidia-smi did not answer this time
                self.look()


def _tree(pid: int) -> set[int]:
    try:
        process = psutil.Process(pid)
        return {pid, *(child.pid for child in process.children(recursive=True))}
    except psutil.NoSuchProcess:
        return set()
