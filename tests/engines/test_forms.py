"""Every form of input to every predict engine: the library's own answers, for one row and for a thousand."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc
import httpx
import lightgbm
import numpy as np
import pandas as pd
import pytest
import torch
import tritonclient.grpc.aio
import tritonclient.http
import xgboost
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from deployments import engines
from deployments.engines import LoadContext
from deployments.engines.tensorflow import import_tensorflow
from deployments.protocols import PREDICTIONS, ROUTERS, models, open_inference_grpc
from deployments.protocols.app import build_app
from deployments.specs import Array
from serve_app.rpc import OpenInferenceMethods
from tests.engines.graphs import make_iris_onnx
from tests.protocols.fakes import Served

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = list("abcd")
MANY = np.repeat(IRIS, 7, axis=0)[:1000].astype(np.float32)
TABLE = pd.DataFrame(IRIS, columns=NAMES)
CLIENTS = 32


class Made(NamedTuple):
    """A saved model: what it takes and gives, and the library's own answers to `MANY`."""

    input: str
    output: str
    expected: Array
    columns: bool = True
    options: Mapping[str, Any] = MappingProxyType({})


def sklearn(folder: Path) -> Made:
    import skops.io

    made = LogisticRegression(max_iter=500).fit(TABLE, SPECIES)
    skops.io.dump(made, folder / "model.skops")
    expected = made.predict_proba(pd.DataFrame(MANY, columns=NAMES))
    return Made("input-0", "output-0", expected, options={"method": "predict_proba"})


def boosted(made: Any, folder: Path) -> Made:
    if isinstance(made, xgboost.XGBModel):
        made.save_model(folder / "model.json")
    else:
        made.booster_.save_model(folder / "model.txt")
    expected = made.predict_proba(pd.DataFrame(MANY, columns=NAMES))
    return Made("input-0", "output-0", expected, options={"method": "predict_proba"})


def xgboost_(folder: Path) -> Made:
    return boosted(xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(TABLE, SPECIES), folder)


def lightgbm_(folder: Path) -> Made:
    return boosted(lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(TABLE, SPECIES), folder)


def onnx(folder: Path) -> Made:
    expected = make_iris_onnx(folder).predict_proba(MANY)
    return Made("X", "probabilities", expected, columns=False, options={"answer": ["probabilities"]})


def torchscript(folder: Path) -> Made:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript is old
        made = torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(1)), torch.zeros(1, 4))  # type: ignore[no-untyped-call]
        made.save(str(folder / "model.pt"))
    takes = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    return Made("x", "output-0", made(torch.from_numpy(MANY)).detach().numpy(), False, {"inputs": [takes]})


def tensorflow(folder: Path) -> Made:
    tf = import_tensorflow()
    net = tf.Module()
    takes = [tf.TensorSpec([None, 4], tf.float32, "x")]
    net.call = tf.function(lambda x: {"y": tf.nn.softmax(x * 2)}, input_signature=takes, autograph=False)
    tf.saved_model.save(net, str(folder), signatures={"serving_default": net.call})
    return Made("x", "y", net.call(tf.constant(MANY))["y"].numpy(), columns=False)


def python(folder: Path) -> Made:
    (folder / "model.py").write_text(
        "class Model:\n    def predict(self, tensors):\n        return {'y': tensors['x'] * 2}\n"
    )
    spec = {"datatype": "FP32", "shape": [-1, 4]}
    declared = {"inputs": [{"name": "x", **spec}], "outputs": [{"name": "y", **spec}]}
    return Made("x", "y", MANY * 2, columns=False, options=declared)


@asynccontextmanager
async def serving(name: str, path: Path, options: Mapping[str, Any]) -> AsyncIterator[Any]:
    """The app around an engine, as a replica builds it."""
    made = engines.find(name)()
    context = LoadContext("m", 1, 0, lambda: 100_000, lambda _: None, asyncio.get_running_loop())
    await asyncio.to_thread(made.load, path, made.options_type.model_validate(dict(options)), context)
    served: Served[Any] = Served(made)
    routers = [models.router(PREDICTIONS["predict"], served), *(make(served) for make in ROUTERS["predict"])]
    try:
        yield build_app("m", routers)
    finally:
        await asyncio.to_thread(made.close)


@asynccontextmanager
async def rpc(app: Any) -> AsyncIterator[tritonclient.grpc.aio.InferenceServerClient]:
    """Triton's client of the gRPC methods over that app."""
    methods = OpenInferenceMethods()
    methods.http_app = app
    server = grpc.aio.server()
    open_inference_grpc.add_services_to_server(methods, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client
    await server.stop(None)


def instances(form: str, made: Made, rows: Array) -> list[Any]:
    """Rows as V1's instances; a model without columns has them whole under its input's name."""
    if form == "numbers":
        return list(rows.tolist())
    if not made.columns:
        if form == "records":
            return [{made.input: row} for row in rows.tolist()]
        return [{made.input: {str(at): row for at, row in enumerate(rows.tolist())}}]
    table = pd.DataFrame(rows.astype(np.float64), columns=NAMES)
    if form == "records":
        return list(table.to_dict(orient="records"))
    if form == "pandas":
        return [{name: {str(at): value for at, value in column.items()} for name, column in table.to_dict().items()}]
    return [table.to_dict(orient="list")]


FORMS = ["numbers", "records", "pandas"]
ENGINES = [sklearn, xgboost_, lightgbm_, onnx, torchscript, tensorflow, python]


@pytest.mark.parametrize("make", ENGINES)
async def test_every_form_gives_the_librarys_own_answers(make: Callable[[Path], Made], tmp_path: Path) -> None:
    made = make(tmp_path)
    async with serving(make.__name__.rstrip("_"), tmp_path, made.options) as app:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http, rpc(app) as triton:
            said = (await triton.get_model_metadata("m", as_json=True))["inputs"]
            assert [(one["name"], one["shape"]) for one in said] == [(made.input, ["-1", "4"])]
            for count in (1, len(MANY)):
                rows, expected = MANY[:count], made.expected[:count]
                for form in [*FORMS, *(["columns"] if made.columns else [])]:
                    body = {"instances": instances(form, made, rows)}
                    answer = await http.post("/v1/models/m:predict", json=body)
                    assert answer.status_code == 200, f"{form}: {answer.text}"
                    np.testing.assert_allclose(answer.json()["predictions"], expected, 1e-5, 1e-6, err_msg=form)
                for inputs in tensors(made, said[0]["datatype"], rows):
                    for binary in (False, True):
                        found = await infer_http(http, made, inputs(tritonclient.http), binary)
                        np.testing.assert_allclose(found, expected, 1e-5, 1e-6)
                    found = (await triton.infer("m", inputs(tritonclient.grpc))).as_numpy(made.output)
                    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)

            async def ask(at: int) -> None:
                (inputs, *_) = tensors(made, said[0]["datatype"], MANY[at : at + 1 + at % 5])
                found = (await triton.infer("m", inputs(tritonclient.grpc))).as_numpy(made.output)
                np.testing.assert_allclose(found, made.expected[at : at + 1 + at % 5], 1e-5, 1e-6)

            await asyncio.gather(*(ask(at * 7) for at in range(CLIENTS)))


def tensors(made: Made, datatype: str, rows: Array) -> list[Callable[[Any], list[Any]]]:
    """The rows as one tensor, and as one for each column where the model has such, for either of Triton's clients."""
    whole = rows.astype({"FP32": np.float32, "FP64": np.float64}[datatype])

    def named(library: Any, name: str, array: Array) -> Any:
        return library.InferInput(name, list(array.shape), datatype).set_data_from_numpy(np.ascontiguousarray(array))

    def columns(library: Any) -> list[Any]:
        return [named(library, name, whole[:, at : at + 1]) for at, name in reversed(list(enumerate(NAMES)))]

    return [lambda library: [named(library, made.input, whole)], *([columns] if made.columns else [])]


async def infer_http(http: httpx.AsyncClient, made: Made, inputs: list[Any], binary: bool) -> Any:
    """What Triton's HTTP client reads in the answer to the request that it writes, in JSON or binary."""
    client = tritonclient.http.InferenceServerClient
    if not binary:
        for one in inputs:
            array = np.frombuffer(one._get_binary_data(), {"FP32": np.float32, "FP64": np.float64}[one.datatype()])
            one.set_data_from_numpy(array.reshape(one.shape()), binary_data=False)
    outputs = [tritonclient.http.InferRequestedOutput(made.output, binary_data=binary)]
    body, length = client.generate_request_body(inputs, outputs=outputs)
    headers = {"inference-header-content-length": str(length)} if length is not None else {}
    answer = await http.post("/v2/models/m/infer", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    header = int(answer.headers["inference-header-content-length"]) if binary else None
    return client.parse_response_body(answer.content, header_length=header).as_numpy(made.output)
