"""The side that shows what the client reaches when the server costs next to nothing."""

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.processes import running
from benchmarks.scenario import CEILING, Figures, Server, Side
from serve_app import machine


def ceiling(measure: Callable[[Server], Figures], answer_bytes: int = 200) -> Side:
    """The same measurement of a server that answers every request at once with so many bytes."""

    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Server]:
        server = Server(folder, machine.free_port(), machine.free_port())
        command = [sys.executable, str(Path(__file__).parent / "peers" / "trivial_server.py")]
        command += [str(server.http), str(server.grpc), str(answer_bytes)]
        with running(command, lambda: listens(server.http), folder / "ceiling.log"):
            yield server

    return Side(CEILING, start, measure, once=True)


def listens(port: int) -> bool:
    """Whether something takes connections on that port of 127.0.0.1."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
