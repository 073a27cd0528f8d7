"""The parent's side of the models' processes: starts, tells, hears and ends them. `child` is the other side."""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil

from tests.gpu.child import Job, run

END_S, HURRY_S = 20.0, 1.0
"""How long a process may take to end before it is killed, and how long where all of it was broken off."""
LAST_LINES = 15


class Failed(Exception):
    """A process could not do what it was told, or has ended."""


class Child:
    """The process of one model."""

    def __init__(self, job: Job, tell: Callable[[str, str], None]) -> None:
        self.name = job.model.name
        self._job, self._tell = job, tell
        spawn = multiprocessing.get_context("spawn")
        self.pipe: Connection
        self.pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=run, args=(theirs, job), name=f"gpu-check {self.name}")
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def say(self, verb: str, *arguments: Any) -> None:
        """Tell it to do something."""
        with contextlib.suppress(OSError):  # it has ended, which `hear` finds out
            self.pipe.send((verb, arguments))

    def hear(self) -> tuple[Any] | None:
        """What it says next: nothing for progress, which is passed on; one result. Raises `Failed`."""
        try:
            kind, what = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join(END_S)
            raise Failed(f"its process ended, with status {self._process.exitcode}") from None
        if kind == "failed":
            raise Failed(what)
        if kind == "done":
            return (what,)
        self._tell(self.name, what)
        return None

    def last_lines(self) -> str:
        """The end of what its libraries printed."""
        with contextlib.suppress(OSError):
            return "\n".join(self._job.log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        return ""

    def end(self, patience_s: float = END_S) -> None:
        """End it, with all that it has started. Does nothing the second time."""
        started: list[psutil.Process] = []
        if self._process.is_alive():  # else its id may be another's by now
            started = psutil.Process(self.pid).children(recursive=True)
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self._process.join(patience_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.pipe.close()


def ask(child: Child, verb: str, *arguments: Any, limit_s: float) -> Any:
    """Tell one process to do something and wait for the result. Raises `Failed`."""
    child.say(verb, *arguments)
    ((_, answer),) = answers([child], limit_s)
    if isinstance(answer, Failed):
        raise answer
    return answer


def answers(children: Sequence[Child], limit_s: float) -> Iterator[tuple[Child, Any]]:
    """The results of processes that were told to do something, as they come: a `Failed` from those that failed."""
    waiting = {child.pipe: child for child in children}
    deadline_s = time.monotonic() + limit_s
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline_s - time.monotonic()))
        for pipe in ready:
            assert isinstance(pipe, Connection)
            child = waiting[pipe]
            try:
                heard = child.hear()
            except Failed as error:
                heard = (error,)
            if heard:
                del waiting[pipe]
                yield child, heard[0]
        if not ready:
            yield from ((child, Failed(f"it gave no answer within {limit_s:g} s")) for child in waiting.values())
            return
