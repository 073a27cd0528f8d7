"""KServe's and MLServer's own clients, each in an environment of its own, against the running application."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.environments import CHECKOUT, python_of


def peer(name: str, calls: int, below: tuple[int, int]) -> Any:
    """One whose client is for Python below that."""
    reason = f"{name}'s client is for Python below {below}"
    return pytest.param(name, calls, marks=pytest.mark.skipif(sys.version_info >= below, reason=reason))


@pytest.mark.parametrize(("name", "calls"), [peer("kserve", 18, (3, 14)), peer("mlserver", 9, (3, 13))])
def test_every_call_of_a_peers_client_works(url: str, grpc_url: str, name: str, calls: int) -> None:
    command = [str(python_of(name)), "-m", f"tests.peers.{name}_client", url, grpc_url]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == calls
    wrong = {call: error for call, error in told.items() if error}
    assert not wrong, "\n".join(f"{call}: {error}" for call, error in wrong.items())
