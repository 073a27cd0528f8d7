"""An iris classifier inside the gateway beside KServe's server and MLServer, one after the other, on the same cores.

V1, V2 REST and gRPC requests of two rows from 1 and 32 clients, and a 1x3x224x224 FP32 tensor as binary data to a
model that gives it back. The peers are installed once, each into an environment of its own under `.peers`.
Asked for, in requests per second: at 32 clients V1 1.3 of KServe's, V2 1.7 of KServe's and 1.3 of MLServer's; at
1 client 1.0, 1.3 and 1.1; gRPC 1.0 of MLServer's; the tensor 5 of KServe's. Run by `make bench`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import load
from benchmarks.load import Figures
from benchmarks.serving import served
from deployments.protocols import open_inference_pb2 as pb
from serve_app import instance, machine

HERE = Path(__file__).parent
PEERS = HERE.parent / ".peers"
ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
V1 = json.dumps({"instances": ROWS}).encode()
TENSOR = {"name": "input-0", "shape": [2, 4], "datatype": "FP64", "data": [value for row in ROWS for value in row]}
V2 = json.dumps({"inputs": [TENSOR]}).encode()
JSON = {"Content-Type": "application/json"}
CLIENTS = (1, 32)
IDENTITY = "class Model:\n    def predict(self, tensors):\n        return tensors\n"
CATALOG = """
name: bench
models:
  - {{name: iris, engine: sklearn, source: "file://{folder}/iris", options: {{file: model.skops}}, inline: true}}
  - {{name: identity, engine: python, source: "file://{folder}/identity", inline: true}}
"""
ASKED = {
    ("V1", 1): {"KServe": 1.0},
    ("V1", 32): {"KServe": 1.3},
    ("V2", 1): {"KServe": 1.3, "MLServer": 1.1},
    ("V2", 32): {"KServe": 1.7, "MLServer": 1.3},
    ("gRPC", 1): {"MLServer": 1.0},
    ("gRPC", 32): {"MLServer": 1.0},
    ("image", 1): {"KServe": 5.0},
    ("image", 32): {"KServe": 5.0},
}
Key = tuple[str, int]


class Ports(NamedTuple):
    """Where a server listens."""

    http: int
    grpc: int


def image() -> tuple[bytes, dict[str, str]]:
    """A V2 request with a tensor as binary data, and its headers."""
    data = np.zeros((1, 3, 224, 224), np.float32).tobytes()
    given = {"name": "x", "shape": [1, 3, 224, 224], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return head + data, kind


async def measure(ports: Ports, kinds: str, seconds: float) -> dict[Key, Figures]:
    """Figures by kind of request and number of clients."""
    found: dict[Key, Figures] = {}
    for clients in CLIENTS:
        if "V1" in kinds:
            path = "/v1/models/iris:predict"
            found["V1", clients] = await load.http(ports.http, path, V1, JSON, clients, seconds)
        found["V2", clients] = await load.http(ports.http, "/v2/models/iris/infer", V2, JSON, clients, seconds)
        if "gRPC" in kinds:
            found["gRPC", clients] = await over_grpc(ports.grpc, clients, seconds)
        if "image" in kinds:
            body, headers = image()
            path = "/v2/models/identity/infer"
            found["image", clients] = await load.http(ports.http, path, body, headers, clients, seconds)
    return found


async def over_grpc(port: int, clients: int, seconds: float) -> Figures:
    """The V2 request as a gRPC call."""
    contents = pb.InferTensorContents(fp64_contents=[value for row in ROWS for value in row])
    tensor = pb.ModelInferRequest.InferInputTensor(name="input-0", datatype="FP64", shape=[2, 4], contents=contents)
    request = pb.ModelInferRequest(model_name="iris", inputs=[tensor])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        return await load.calls(lambda: call(request), clients, seconds)


def environment(name: str, console: Console) -> Path:
    """The Python of a peer's own environment, made where it is missing."""
    python = PEERS / name / "bin" / "python"
    done = PEERS / name / ".done"
    if not done.exists():
        console.print(f"installing {name} into {python.parent.parent}, once")
        subprocess.run([sys.executable, "-m", "venv", str(PEERS / name)], check=True)
        pins = str(HERE / "peers" / f"{name}.txt")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", pins], check=True)
        done.touch()
    return python


@contextlib.contextmanager
def running(command: list[str], ports: Ports, ready: str, log: Path, **variables: str) -> Iterator[Ports]:
    """A peer's server until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | variables)
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"the peer ended by itself: {log.read_text()[-2000:]}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{ports.http}{ready}", timeout=5).status_code == 200:
                    break
            time.sleep(0.5)
        yield ports
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def kserves(folder: Path, python: Path) -> Any:
    """KServe's own Python server."""
    ports = Ports(machine.free_port(), machine.free_port())
    command = [str(python), str(HERE / "peers" / "kserve_server.py"), str(folder / "iris" / "model.joblib")]
    return running([*command, *map(str, ports)], ports, "/v2/models/iris/ready", folder / "kserve.log")


def mlservers(folder: Path, python: Path) -> Any:
    """MLServer with its scikit-learn runtime, in one process, which is its faster way here."""
    ports = Ports(machine.free_port(), machine.free_port())
    home = folder / "mlserver"
    home.mkdir()
    settings = {"http_port": ports.http, "grpc_port": ports.grpc, "metrics_port": machine.free_port()}
    (home / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    model = {"name": "iris", "implementation": "mlserver_sklearn.SKLearnModel"}
    model |= {"parameters": {"uri": str(folder / "iris" / "model.joblib")}}  # type: ignore[dict-item]
    (home / "model-settings.json").write_text(json.dumps(model))
    command = [str(python.parent / "mlserver"), "start", str(home)]
    return running(command, ports, "/v2/models/iris/ready", folder / "mlserver.log")


def make_models(folder: Path, python: Path) -> None:
    """The classifier for each server, pickled by the peer's own Python, and the model that gives back its input."""
    from tests.engines.estimators import make_iris

    make_iris(folder / "iris")
    target = folder / "iris" / "model.joblib"
    fit = "LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))"
    imports = (
        "import joblib; from sklearn.datasets import load_iris; from sklearn.linear_model import LogisticRegression"
    )
    subprocess.run([str(python), "-c", f"{imports}; joblib.dump({fit}, {str(target)!r})"], check=True)
    (folder / "identity").mkdir()
    (folder / "identity" / "model.py").write_text(IDENTITY)
    (folder / "catalog.yaml").write_text(CATALOG.format(folder=folder))


def show(found: dict[str, dict[Key, Figures]], console: Console) -> None:
    """Requests per second of all, and ours as a share of each peer's."""
    ours = found["serve_app"]
    table = Table("Request", "Clients", *found, "p50, ms", "p99, ms", "of KServe's", "of MLServer's")
    for key in sorted(ours):
        rates = [f"{figures[key].per_second:.0f}" if key in figures else "" for figures in found.values()]
        shares = [_share(found, key, peer) for peer in ("KServe", "MLServer")]
        times = [f"{ours[key].p50_s * 1000:.2f}", f"{ours[key].p99_s * 1000:.2f}"]
        table.add_row(key[0], str(key[1]), *rates, *times, *shares)
    console.print(table)


def _share(found: dict[str, dict[Key, Figures]], key: Key, peer: str) -> str:
    if key not in found[peer]:
        return ""
    share = found["serve_app"][key].per_second / found[peer][key].per_second
    asked = ASKED.get(key, {}).get(peer)
    return f"{share:.2f}" + (f" (asked {asked})" if asked else "")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="how long each figure is measured")
    asked = parser.parse_args()
    console = Console()
    pythons = {name: environment(name, console) for name in ("kserve", "mlserver")}
    found: dict[str, dict[Key, Figures]] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_models(folder, pythons["kserve"])

        def run(name: str, server: Callable[[], Any], kinds: str) -> None:
            console.print(f"measuring {name}")
            with server() as ports:
                found[name] = asyncio.run(measure(ports, kinds, asked.seconds))

        run("KServe", lambda: kserves(folder, pythons["kserve"]), "V1 V2 image")
        run("MLServer", lambda: mlservers(folder, pythons["mlserver"]), "V2 gRPC")
        run("serve_app", lambda: ours(folder / "catalog.yaml"), "V1 V2 gRPC image")
    show(found, console)


@contextlib.contextmanager
def ours(catalog: Path) -> Iterator[Ports]:
    """The application."""
    with served(str(catalog)) as url:
        this = instance.find(int(url.rpartition(":")[2]))
        assert this
        yield Ports(this.port, this.grpc_port)


if __name__ == "__main__":
    main()
