"""SavedModels behind the engine, against TensorFlow called directly."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.engines import PredictEngine
from deployments.engines.tensorflow import Engine, Options, import_tensorflow
from tests.engines.asking import all_at_once, counted, metadata, not_loaded, predict, refused, tensor, v1, v2
from tests.engines.loading import loaded

ROWS = np.random.default_rng(3).normal(size=(1000, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A SavedModel of several signatures, and what it was saved of."""
    tf = import_tensorflow()
    weights = tf.constant(np.random.default_rng(4).normal(size=(4, 3)).astype(np.float32))

    def function(call: Any, *inputs: Any) -> Any:
        return tf.function(call, input_signature=[tf.TensorSpec(*one) for one in inputs], autograph=False)

    def classify(x: Any) -> Any:
        scores = tf.matmul(x, weights)
        return {"classes": tf.argmax(scores, axis=1), "probabilities": tf.nn.softmax(scores)}

    net = tf.Module()
    net.classify = function(classify, ([None, 4], tf.float32, "x"))
    signatures = {
        "serving_default": net.classify,
        "shout": function(lambda words: {"upper": tf.strings.upper(words)}, ([None], tf.string, "words")),
        "add": function(lambda a, b: {"sum": a + tf.reduce_sum(b)}, ([], tf.int32, "a"), ([None], tf.int32, "b")),
        "join": function(lambda a, b: {"c": a + b}, *(([None, None], tf.float32, name) for name in "ab")),
        "ranks": function(lambda x: {"y": x}, (None, tf.float32, "x")),
    }
    folder = tmp_path_factory.mktemp("saved") / "model"
    tf.saved_model.save(net, str(folder), signatures=signatures)
    return folder, net


@pytest.fixture
def serve(saved: tuple[Path, Any]) -> Callable[..., Any]:
    @contextmanager
    def start(**options: Any) -> Iterator[PredictEngine]:
        with loaded(Engine(), saved[0], Options(**options)) as engine:
            yield engine

    return start


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS])
async def test_a_network_answers_as_tensorflow_does(
    serve: Callable[..., Any], saved: tuple[Path, Any], rows: Any
) -> None:
    expected = saved[1].classify(rows)
    with serve() as engine:
        assert engine.named
        assert sorted(await metadata(engine)) == [
            ("classes", "INT64", [-1]),
            ("probabilities", "FP32", [-1, 3]),
            ("x", "FP32", [-1, 4]),
        ]
        found = await predict(engine, {"x": rows})
        np.testing.assert_array_equal(found["classes"], expected["classes"])
        np.testing.assert_array_equal(found["probabilities"], expected["probabilities"])
        assert list(await predict(engine, {"x": rows}, "classes")) == ["classes"]


async def test_v1_and_the_answer_by_option(serve: Callable[..., Any], saved: tuple[Path, Any]) -> None:
    expected = saved[1].classify(ROWS[:2])
    with serve(answer=["classes"]) as engine:
        assert await v1(engine, ROWS[:2].tolist()) == expected["classes"].numpy().tolist()
        assert await v1(engine, [{"x": row} for row in ROWS[:2].tolist()]) == expected["classes"].numpy().tolist()
    with serve() as engine:
        first = (await v1(engine, ROWS[:1].tolist()))[0]
        np.testing.assert_allclose(first["probabilities"], expected["probabilities"][0], rtol=1e-6)


async def test_texts_are_bytes(serve: Callable[..., Any]) -> None:
    with serve(signature="shout") as engine:
        assert (engine.inputs[0].datatype, engine.outputs[0].datatype) == ("BYTES", "BYTES")
        found = await predict(engine, {"words": np.array([b"a", b"\xff"], object)})
        assert found["upper"].tolist() == [b"A", b"\xff"]
        assert await v1(engine, ["ab", "c"]) == ["AB", "C"]


async def test_a_signature_without_rows_computes_each_request_alone(serve: Callable[..., Any]) -> None:
    with serve(signature="add") as engine:
        requests = [{"a": np.int32(at), "b": np.ones(at, np.int32)} for at in range(5)]
        given = [{name: np.asarray(one) for name, one in request.items()} for request in requests]
        assert [int(one["sum"]) for one in await all_at_once(engine, given)] == [2 * at for at in range(5)]


async def test_requests_that_wait_are_computed_together(serve: Callable[..., Any], saved: tuple[Path, Any]) -> None:
    with serve() as engine:
        rows = counted(engine)
        requests = [{"x": ROWS[at : at + 1 + at % 2]} for at in range(64)]
        found = await all_at_once(engine, requests, "probabilities")
        assert len(rows) < 10
        for request, one in zip(requests, found, strict=True):
            expected = saved[1].classify(request["x"])["probabilities"]
            np.testing.assert_allclose(one["probabilities"], expected, rtol=1e-5)


async def test_bad_input_is_a_400_that_names_it(serve: Callable[..., Any]) -> None:
    with serve() as engine:
        assert "unknown input 'y'; the model has x" in await refused(engine, tensor("y", "FP32", ROWS[:1]))
        assert "'x' has shape [1, 3]; the model takes [-1, 4]" in await refused(
            engine, tensor("x", "FP32", ROWS[:1, :3])
        )
        assert "'x' is BYTES; the model takes FP32" in await refused(engine, tensor("x", "BYTES", [["a"] * 4]))
        answer = await v2(engine, tensor("x", "FP32", ROWS[:1]), outputs=["nope"])
        assert (answer.status_code, "unknown output 'nope'" in answer.json()["error"]) == (400, True)
    with serve(signature="join") as engine:
        said = await refused(engine, tensor("a", "FP32", ROWS[:1]), tensor("b", "FP32", ROWS[:1, :3]))
        assert said.startswith("the model refuses these inputs (")


@pytest.mark.slow
def test_triton_can_be_imported_after_it() -> None:
    """As transformers and torch's compiler do; in the other order the process would end by a signal."""
    pytest.importorskip("triton")
    code = "from deployments.engines.tensorflow import import_tensorflow; import_tensorflow(); import triton.knobs"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("place", ["1", "model.savedmodel", "2/model.savedmodel"])
async def test_the_folders_of_tensorflow_serving_and_triton(
    saved: tuple[Path, Any], tmp_path: Path, place: str
) -> None:
    shutil.copytree(saved[0], tmp_path / place)
    with loaded(Engine(), tmp_path, Options()) as engine:
        assert engine.inputs[0].name == "x"


def test_what_cannot_be_loaded_says_why(
    saved: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is no SavedModel, which is a folder with saved_model.pb; have: nothing" in not_loaded(
        Engine(), tmp_path, Options()
    )
    said = not_loaded(Engine(), saved[0], Options(signature="nope"))
    assert "the model has no 'nope'; have: " in said
    assert "shout" in said
    assert "'x' has any number of dimensions" in not_loaded(Engine(), saved[0], Options(signature="ranks"))
    assert "TensorFlow sees 0 GPUs here" in not_loaded(Engine(), saved[0], Options(device="cuda"), gpus=1)
    (tmp_path / "saved_model.pb").write_bytes(b"nonsense")
    assert "cannot read" in not_loaded(Engine(), tmp_path, Options())
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert "install serve-app[tensorflow]" in not_loaded(Engine(), saved[0], Options())
