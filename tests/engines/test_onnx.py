"""ONNX files behind the engine, against ONNX Runtime called directly."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deployments.engines import PredictEngine
from deployments.engines.onnx import Engine, Options
from deployments.errors import BadRequest
from deployments.tensors import DTYPES
from tests.engines.asking import all_at_once, counted, metadata, not_loaded, predict, refused, tensor, v1, v2
from tests.engines.graphs import FLOAT, INT64, STRING, identity, make_iris_onnx, save
from tests.engines.loading import loaded

IRIS, SPECIES = load_iris(return_X_y=True)
IRIS32 = IRIS.astype(np.float32)
MANY = np.repeat(IRIS32, 7, axis=0)[:1000]


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    @contextmanager
    def start(**options: Any) -> Iterator[PredictEngine]:
        with loaded(Engine(), tmp_path, Options(**options)) as engine:
            yield engine

    return start


def run(path: Path, tensors: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"])
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, tensors), strict=True))


@pytest.mark.parametrize("rows", [IRIS32[:1], MANY])
async def test_a_classifier_answers_as_the_library_does(tmp_path: Path, serve: Callable[..., Any], rows: Any) -> None:
    make_iris_onnx(tmp_path)
    expected = run(tmp_path, {"X": rows})
    with serve() as engine:
        assert engine.named
        assert await metadata(engine) == [
            ("X", "FP32", [-1, 4]),
            ("label", "INT64", [-1]),
            ("probabilities", "FP32", [-1, 3]),
        ]
        found = await predict(engine, {"X": rows})
        assert list(found) == ["label", "probabilities"]
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])
        assert list(await predict(engine, {"X": rows}, "probabilities")) == ["probabilities"]


async def test_v1_and_the_answer_by_option(tmp_path: Path, serve: Callable[..., Any]) -> None:
    estimator = make_iris_onnx(tmp_path)
    expected = estimator.predict_proba(IRIS[:2])
    with serve() as engine:
        both = await v1(engine, IRIS[:2].tolist())
        assert [one["label"] for one in both] == [0, 0]
        np.testing.assert_allclose([one["probabilities"] for one in both], expected, atol=1e-6)
    with serve(answer=["probabilities"]) as engine:
        np.testing.assert_allclose(await v1(engine, [{"X": row} for row in IRIS[:2].tolist()]), expected, atol=1e-6)
        assert list(await predict(engine, {"X": IRIS32}, "label")) == ["label"]
    said = not_loaded(Engine(), tmp_path, Options(answer=("proba",)))
    assert said == "options.answer: there is no output 'proba'; have: label, probabilities"


async def test_maps_of_probabilities_are_a_matrix(tmp_path: Path, serve: Callable[..., Any]) -> None:
    estimator = LogisticRegression(max_iter=500).fit(IRIS, np.array(["b", "a", "c"])[SPECIES])
    (tmp_path / "model.onnx").write_bytes(to_onnx(estimator, IRIS32[:1]).SerializeToString())
    with serve() as engine:
        assert [(one.name, one.datatype, one.shape) for one in engine.outputs] == [
            ("output_label", "BYTES", (-1,)),
            ("output_probability", "FP32", (-1, -1)),
        ]
        found = await predict(engine, {"X": IRIS32})
        assert found["output_label"].tolist() == [one.encode() for one in estimator.predict(IRIS)]
        np.testing.assert_allclose(found["output_probability"], estimator.predict_proba(IRIS), atol=1e-6)


async def test_columns_of_numbers_and_words_are_its_inputs(tmp_path: Path, serve: Callable[..., Any]) -> None:
    table = pd.DataFrame({"petal": IRIS32[:, 2], "colour": np.array(["blue", "violet"])[SPECIES % 2]})
    parts = ColumnTransformer([("words", OneHotEncoder(), ["colour"])], remainder=StandardScaler())
    estimator = make_pipeline(parts, LogisticRegression(max_iter=500)).fit(table, SPECIES)
    exported = to_onnx(estimator, table[:1], options={"zipmap": False})
    (tmp_path / "model.onnx").write_bytes(exported.SerializeToString())
    expected = estimator.predict_proba(table[:3])
    with serve(answer=["probabilities"]) as engine:
        assert [(one.name, one.datatype, one.shape) for one in engine.inputs] == [
            ("petal", "FP32", (-1, 1)),
            ("colour", "BYTES", (-1, 1)),
        ]
        records = table[:3].to_dict("records")
        frame = {name: {str(at): row[name] for at, row in enumerate(records)} for name in table}
        for instances in (records, [frame]):
            np.testing.assert_allclose(await v1(engine, instances), expected, atol=1e-5)
        answer = await v2(
            engine,
            tensor("colour", "BYTES", table[["colour"]][:3]),
            tensor("petal", "FP32", table[["petal"]][:3]),
        )
        assert answer.json()["outputs"][0]["data"] == pytest.approx(expected.reshape(-1).tolist(), abs=1e-5)
        assert "no input colour; the model has petal, colour" in await refused(engine, tensor("petal", "FP32", [[1]]))
        with pytest.raises(BadRequest, match="input 'colour' has a text that is not UTF-8"):
            await predict(engine, {"petal": IRIS32[:1, :1], "colour": np.array([[b"\xff"]], object)})


@pytest.mark.parametrize(
    ("kind", "datatype"),
    [
        (TensorProto.BOOL, "BOOL"),
        (TensorProto.UINT8, "UINT8"),
        (TensorProto.UINT16, "UINT16"),
        (TensorProto.UINT32, "UINT32"),
        (TensorProto.UINT64, "UINT64"),
        (TensorProto.INT8, "INT8"),
        (TensorProto.INT16, "INT16"),
        (TensorProto.INT32, "INT32"),
        (TensorProto.INT64, "INT64"),
        (TensorProto.FLOAT16, "FP16"),
        (TensorProto.FLOAT, "FP32"),
        (TensorProto.DOUBLE, "FP64"),
        (TensorProto.STRING, "BYTES"),
    ],
)
async def test_every_datatype(tmp_path: Path, serve: Callable[..., Any], kind: int, datatype: Any) -> None:
    identity(tmp_path / "model.onnx", kind, ["batch", 2])
    given = np.array([[b"a", b"\xc3\xa4"]], object) if datatype == "BYTES" else np.array([[0, 1]], DTYPES[datatype])
    with serve() as engine:
        assert (engine.inputs[0].datatype, engine.inputs[0].shape) == (datatype, (-1, 2))
        found = (await predict(engine, {"x": given}))["y"]
        assert found.dtype == DTYPES[datatype]
        np.testing.assert_array_equal(found, given)


def test_a_datatype_that_is_none_is_refused(tmp_path: Path) -> None:
    identity(tmp_path / "model.onnx", TensorProto.BFLOAT16, [None, 2])
    assert "'x' is tensor(bfloat16), which no datatype stands for" in not_loaded(Engine(), tmp_path, Options())


async def test_requests_that_wait_are_computed_together(tmp_path: Path, serve: Callable[..., Any]) -> None:
    make_iris_onnx(tmp_path)
    with serve() as engine:
        rows = counted(engine)
        requests = [{"X": IRIS32[at : at + 1 + at % 2]} for at in range(64)]
        found = await all_at_once(engine, requests, "label")
        assert sum(rows) == sum(len(one["X"]) for one in requests)
        assert len(rows) < 10
        for request, one in zip(requests, found, strict=True):
            np.testing.assert_array_equal(one["label"], run(tmp_path, request)["label"])


async def test_a_model_without_rows_computes_each_request_alone(tmp_path: Path, serve: Callable[..., Any]) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0), helper.make_node("Identity", ["k"], ["same"])]
    save(
        tmp_path / "model.onnx",
        nodes,
        [("x", FLOAT, ["n"]), ("k", INT64, [1])],
        [("sum", FLOAT, []), ("same", INT64, [1])],
    )
    with serve() as engine:
        assert engine.outputs[0].shape == ()
        requests = [{"x": np.ones(at, np.float32), "k": np.array([at])} for at in range(5)]
        found = await all_at_once(engine, requests)
        assert [(float(one["sum"]), one["same"].tolist()) for one in found] == [(at, [at]) for at in range(5)]


async def test_bad_input_is_a_400_that_names_it(tmp_path: Path, serve: Callable[..., Any]) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["c"])]
    shapes: Any = ["n", "width"]
    save(tmp_path / "model.onnx", nodes, [("a", FLOAT, shapes), ("b", FLOAT, shapes)], [("c", FLOAT, shapes)])
    with serve() as engine:
        good = tensor("a", "FP32", [[1.0, 2.0]])
        assert "unknown input 'z'; the model has a, b" in await refused(engine, good, tensor("z", "FP32", [[1.0]]))
        assert "no input b" in await refused(engine, good)
        assert "'b' has shape [1]; the model takes [-1, -1]" in await refused(engine, good, tensor("b", "FP32", [1.0]))
        assert "'b' is BYTES; the model takes FP32" in await refused(engine, good, tensor("b", "BYTES", [["x"]]))
        said = await refused(engine, good, tensor("b", "FP32", [[1.0, 2.0, 3.0]]))
        assert said.startswith("the model refuses these inputs (a [-1, -1], b [-1, -1]): ")
        said = await refused(engine, good, tensor("b", "FP32", [[1.0, 2.0]] * 3))
        assert "different numbers of rows: a has 1, b has 3" in said
        answer = await v2(engine, good, tensor("b", "FP32", [[1.0, 2.0]]), outputs=["d"])
        assert (answer.status_code, "unknown output 'd'" in answer.json()["error"]) == (400, True)


async def test_a_file_that_is_called_otherwise(tmp_path: Path) -> None:
    identity(tmp_path / "vision.onnx", STRING, [None])
    with loaded(Engine(), tmp_path, Options()) as engine:
        assert (await predict(engine, {"x": np.array([b"a"], object)}))["y"].tolist() == [b"a"]
    (tmp_path / "repository" / "3").mkdir(parents=True)
    (tmp_path / "vision.onnx").rename(tmp_path / "repository" / "3" / "model.onnx")
    with loaded(Engine(), tmp_path / "repository", Options()) as engine:
        assert engine.inputs[0].name == "x"


def test_what_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    assert "cannot read model.onnx: InvalidProtobuf" in not_loaded(Engine(), tmp_path, Options())
    assert "this ONNX Runtime has no CUDA" in not_loaded(Engine(), tmp_path, Options(device="cuda"), gpus=1)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime is not installed: install serve-app[onnx]" in not_loaded(Engine(), tmp_path, Options())


def test_threads_are_the_sessions(tmp_path: Path, serve: Callable[..., Any]) -> None:
    make_iris_onnx(tmp_path)
    with serve(threads=1) as engine:
        assert engine._model.get_session_options().intra_op_num_threads == 1
        assert engine._model.get_providers() == ["CPUExecutionProvider"]
        assert engine.alive()
