"""The peers' own Python environments under `.peers`, made by uv from the pins in `peers/`."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.scenario import Unavailable

HERE = Path(__file__).parent
CHECKOUT = HERE.parent
PEERS = CHECKOUT / ".peers"


def python_of(peer: str) -> Path:
    """The Python of that peer's environment, made anew where its pins or our Python have changed.

    Raises `Unavailable` where it cannot be installed.
    """
    pins = HERE / "peers" / f"{peer}.txt"
    folder = PEERS / peer
    done, wanted = folder / ".pins", hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    python = folder / "bin" / "python"
    if done.exists() and done.read_text() == wanted and python.exists():
        return python
    uv = _uv()
    _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), "--requirements", str(pins)])
    done.write_text(wanted)
    return python


def _uv() -> str:
    own = CHECKOUT / ".uv" / "bin" / "uv"
    found = shutil.which("uv") or (str(own) if own.exists() else None)
    if found is None:
        raise Unavailable("uv is not here; `make bench` and `make test` bring it")
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"it could not be installed: {done.stderr.strip()[-500:]}")


def version_in(peer: str, package: str) -> str:
    """The version that a peer's pins give that package; "" where they do not name it."""
    for line in (HERE / "peers" / f"{peer}.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if name.lower() == package.lower():
            return version.split()[0]
    return ""
