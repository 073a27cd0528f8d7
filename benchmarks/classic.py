"""What the scenarios of an iris classifier share: its requests, and the servers that answer them."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import load
from benchmarks.environments import HERE, python_of
from benchmarks.processes import answers, running
from benchmarks.scenario import Figures, Server
from serve_app import machine

ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
TENSOR = {"name": "input-0", "shape": [2, 4], "datatype": "FP64", "data": [value for row in ROWS for value in row]}
V1 = load.Request("/v1/models/iris:predict", json.dumps({"instances": ROWS}).encode())
V2 = load.Request("/v2/models/iris/infer", json.dumps({"inputs": [TENSOR]}).encode())
CLIENTS = (1, 32, 128)
SECONDS = 2.0
IDENTITY = "class Model:\n    def predict(self, tensors):\n        return tensors\n"
CATALOG = """
name: bench
models:
  - {{name: iris, engine: sklearn, source: "file://{folder}/iris", options: {{file: model.skops}}, inline: true}}
  - {{name: identity, engine: python, source: "file://{folder}/identity", inline: true}}
"""


def case(kind: str, clients: int) -> str:
    """The name of a case: "V1, 32 clients"."""
    return f"{kind}, {clients} client{'s' if clients > 1 else ''}"


def ask(requests: dict[str, load.Request], server: Server, clients: tuple[int, ...] = CLIENTS) -> Figures:
    """Figures of each request from each number of clients."""
    return {
        case(kind, count): load.http(server.http, request, count, SECONDS)
        for kind, request in requests.items()
        for count in clients
    }


def prepare(folder: Path) -> None:
    """The classifier, the model that gives back its input, and a catalog that has both inside the gateway."""
    from tests.engines.estimators import make_iris

    make_iris(folder / "iris")
    (folder / "identity").mkdir()
    (folder / "identity" / "model.py").write_text(IDENTITY)
    (folder / "catalog.yaml").write_text(CATALOG.format(folder=folder))


@contextlib.contextmanager
def peer(name: str, script: str, ready: str, folder: Path) -> Iterator[Server]:
    """A peer's server: `peers/<script> HTTP_PORT GRPC_PORT` by the Python of its own environment."""
    server = Server(folder, machine.free_port(), machine.free_port())
    command = [str(python_of(name)), str(HERE / "peers" / script), str(server.http), str(server.grpc)]
    with running(command, answers(f"http://127.0.0.1:{server.http}{ready}"), folder / f"{name}.log"):
        yield server


def kserve(folder: Path) -> contextlib.AbstractContextManager[Server]:
    """KServe's own Python server."""
    return peer("kserve", "kserve_server.py", "/v2/models/iris/ready", folder)


def litserve(folder: Path) -> contextlib.AbstractContextManager[Server]:
    """LitServe with a class of its own, one worker."""
    return peer("litserve", "litserve_server.py", "/health", folder)


@contextlib.contextmanager
def bentoml(folder: Path) -> Iterator[Server]:
    """BentoML's server with a service of one worker."""
    python = python_of("bentoml")
    server = Server(folder, machine.free_port())
    command = [str(python), "-m", "bentoml", "serve", "bentoml_server:Iris", "--working-dir", str(HERE / "peers")]
    command += ["--host", "127.0.0.1", "--port", str(server.http), "--quiet"]
    with running(command, answers(f"http://127.0.0.1:{server.http}/readyz"), folder / "bentoml.log"):
        yield server


@contextlib.contextmanager
def mlserver(folder: Path) -> Iterator[Server]:
    """MLServer with its scikit-learn runtime, in one process, which is its faster way here."""
    python = python_of("mlserver")
    server = Server(folder, machine.free_port(), machine.free_port())
    home = folder / "mlserver"
    home.mkdir(exist_ok=True)
    fit = "import joblib; from sklearn.datasets import load_iris; from sklearn.linear_model import LogisticRegression; "
    fit += "joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), 'model.joblib')"
    subprocess.run([str(python), "-c", fit], check=True, cwd=home)
    settings = {"http_port": server.http, "grpc_port": server.grpc, "metrics_port": machine.free_port()}
    (home / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    uri = {"uri": str(home / "model.joblib")}
    model = {"name": "iris", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": uri}
    (home / "model-settings.json").write_text(json.dumps(model))
    command = [str(python.parent / "mlserver"), "start", str(home)]
    ready = answers(f"http://127.0.0.1:{server.http}/v2/models/iris/ready")
    with running(command, ready, folder / "mlserver.log"):
        yield server
