"""KServe's and MLServer's own clients, each in an environment of its own, against the running application."""

import json
import subprocess
import sys

import pytest

from benchmarks.environments import CHECKOUT, python_of


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="MLServer 1.7 is for Python below 3.13")
@pytest.mark.parametrize(("peer", "least"), [("kserve", 16), ("mlserver", 8)])
def test_every_call_of_a_peers_client_works(url: str, grpc_url: str, peer: str, least: int) -> None:
    command = [str(python_of(peer)), "-m", f"tests.peers.{peer}_client", url, grpc_url]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert len(told) >= least
    wrong = {call: error for call, error in told.items() if error}
    assert not wrong, "\n".join(f"{call}: {error}" for call, error in wrong.items())
