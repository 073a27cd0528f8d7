"""Servers for the length of a block, in process groups of their own, all of which end with it."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from benchmarks.scenario import Unavailable

START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0
CHECKOUT = Path(__file__).parents[1]
"""What is left out of paths in what is kept: results are for other machines too."""
POLL_S = 0.1


@contextlib.contextmanager
def running(
    command: Sequence[str], ready: Callable[[], bool], log: Path, variables: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """That command until the end of the block, once it is ready.

    `variables` is its whole environment, by default this process's. Raises `Unavailable` with the last words of
    its log where it ends by itself or is not ready within `START_TIMEOUT_S`.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=variables, start_new_session=True
        )
    try:
        _wait_until(ready, process, log)
        yield process
    finally:
        end(process)


def _wait_until(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > give_up_s:
            words = " ".join(log.read_text(errors="replace").replace(f"{CHECKOUT}/", "").split()[-80:])
            state = "did not become ready" if process.poll() is None else "ended by itself"
            raise Unavailable(f"{Path(process.args[0]).name} {state}; it said: {words}")  # type: ignore[index, arg-type]
        time.sleep(POLL_S)


def answers(url: str) -> Callable[[], bool]:
    """Whether a GET of that URL is answered 200."""

    def asked() -> bool:
        try:
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    return asked


def end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and its group. A further Ctrl-C does not interrupt this."""
    with _undisturbed():
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of the group are gone already
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
