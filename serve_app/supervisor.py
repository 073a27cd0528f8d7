"""The process between `serve-app up` and Ray: runs a Ray head, and ends all of it when `up` is gone.

`up` holds the other end of its standard input. When that closes, for whatever reason (an orderly
stop, SIGKILL), or when Ray dies, every process of the session is ended. Run as
`python -m serve_app.supervisor PORT -- COMMAND...`; knows nothing of catalogs.
"""

import os
import select
import signal
import subprocess
import sys

from serve_app import instance
from serve_app.environment import SESSION

POLL_S = 0.5


def main(arguments: list[str]) -> int:
    """Run the command until standard input closes; its exit status if it ended first, else 0."""
    port, command = int(arguments[0]), arguments[2:]
    session = os.environ[SESSION]
    stop = False

    def stopped(_signal: int, _frame: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, stopped)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(instance.folder(port) / "ray.log", "wb") as log:
        ray = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    while not stop and ray.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
        stop = stop or (bool(readable) and not os.read(sys.stdin.fileno(), 1))
    left = instance.sweep(session)
    ray.wait()
    if not left:
        instance.forget(port)
    return 0 if stop else ray.returncode or 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
