"""Libraries called directly, in a process of their own: what the application's cost is held against."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.scenario import Figures, Server, Unavailable


@contextlib.contextmanager
def no_server(folder: Path) -> Iterator[Server]:
    """The start of a side that has no server."""
    yield Server(folder)


def called(module: str, *arguments: str) -> Figures:
    """The figures that `python -m <module> ARGUMENTS` prints as its last line. Raises `Unavailable` if it fails."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    try:
        found: Figures = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise Unavailable(f"{module} said: {done.stderr.strip()[-500:]}") from None
    return found
