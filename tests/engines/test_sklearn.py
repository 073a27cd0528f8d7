"""scikit-learn estimators behind the engine, against the same estimators called directly."""

import asyncio
import functools
import importlib
import logging
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import NMF, PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils import _array_api, validation

from deployments.engines import LoadContext, PredictEngine, _estimators
from deployments.engines.sklearn import Engine, Options
from deployments.errors import BadRequest, EngineError, LoadError, QueueFull
from deployments.specs import Array, TensorSpec
from tests.engines.loading import loaded

IRIS, SPECIES = load_iris(return_X_y=True)
WORDS = np.array(["setosa", "versicolor", "virginica"])
COUNTED: list[int] = []
"""Rows of each call of a `Counting` estimator."""
OPEN = threading.Event()
"""Until it is set, a `Counting` estimator computes nothing."""
OPEN.set()


@functools.cache
def iris_model() -> LogisticRegression:
    return LogisticRegression(max_iter=500).fit(IRIS, SPECIES)


class Counting(LogisticRegression):  # type: ignore[misc]
    """Tells how many rows each call had, and waits until it may go on."""

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        COUNTED.append(len(X))
        assert OPEN.wait(10)
        return super().predict_proba(X)


class Stateless(BaseEstimator):  # type: ignore[misc]
    """Refuses all rows of zeros, as the row is that engines make up."""

    def fit(self) -> "Stateless":
        self.n_features_in_ = 2
        self.classes_ = np.array(["no", "yes"])
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        if not X.any():
            raise ValueError("nothing but zeros")
        return self.classes_[(X.sum(axis=1) > 0).astype(int)]


class Failing(BaseEstimator):  # type: ignore[misc]
    def predict(self, X: Any) -> Any:  # noqa: N803
        if np.any(X > 100):
            raise RuntimeError("too large a flower")
        return np.zeros(len(X))


class Harmful:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """An engine on an estimator that is saved with skops, or with joblib if skops does not know its types."""

    @contextmanager
    def start(estimator: Any, trust: bool = False, max_queue: int = 100_000, **options: Any) -> Iterator[PredictEngine]:
        if trust:
            joblib.dump(estimator, tmp_path / "model.joblib")
        else:
            skops.io.dump(estimator, tmp_path / "model.skops")
        with loaded(Engine(), tmp_path, Options(trust=trust, **options), max_queue) as engine:
            yield engine

    return start


async def predict(engine: PredictEngine, given: Any, *outputs: str) -> dict[str, Array]:
    tensors = given if isinstance(given, dict) else {"input-0": np.asarray(given)}
    return await engine.predict(tensors, outputs, {})


def bytes_of(texts: Any) -> Array:
    return np.array([str(text).encode() for text in np.ravel(texts)], np.object_).reshape(np.shape(texts))


def spec(name: str, datatype: Any, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


async def test_a_classifier_answers_as_the_estimator_does(serve: Callable[..., Any]) -> None:
    model = iris_model()
    with serve(model) as engine:
        assert engine.inputs == (spec("input-0", "FP64", -1, 4),)
        assert (engine.columns, engine.named, engine.app) == ((), False, None)
        assert engine.outputs == (
            spec("output-0", "INT64", -1),
            spec("predict", "INT64", -1),
            spec("predict_proba", "FP64", -1, 3),
            spec("decision_function", "FP64", -1, 3),
        )
        found = await predict(engine, IRIS)
        assert list(found) == ["output-0"]
        np.testing.assert_array_equal(found["output-0"], model.predict(IRIS))
        both = await predict(engine, IRIS, "predict_proba", "predict", "output-0")
        np.testing.assert_array_equal(both["predict_proba"], model.predict_proba(IRIS))
        np.testing.assert_array_equal(both["predict"], both["output-0"])
        assert (await predict(engine, IRIS.astype(np.float32)))["output-0"].dtype == np.int64


def known_of_arrays() -> Iterator[tuple[Any, str]]:
    """The functions of scikit-learn whose answers to arrays are known: where each is, and its name."""
    for module, name in _estimators._OF_ARRAYS:
        yield importlib.import_module(f"sklearn.utils.{module}"), name


@pytest.mark.parametrize("given", [IRIS, IRIS.astype(np.float32), WORDS, np.array([], object)])
def test_what_is_known_of_arrays_is_what_scikit_learn_finds_out(given: Array) -> None:
    _estimators.know_arrays()
    _estimators.know_arrays()
    for place, name in known_of_arrays():
        quick = getattr(place, name)
        assert quick(given) == quick.__wrapped__(given)
        assert not hasattr(quick.__wrapped__, "__wrapped__")


def test_what_is_no_array_is_still_sorted_out() -> None:
    _estimators.know_arrays()
    table, sparse = pd.DataFrame(IRIS), TfidfVectorizer().fit_transform(["some words"])
    left = _array_api._remove_non_arrays(IRIS, None, "a text", [1], table, sparse, SPECIES)
    assert [id(one) for one in left] == [id(IRIS), id(SPECIES)]
    kept = _array_api._remove_non_arrays(IRIS, None, remove_none=False)
    assert kept == [IRIS, None]
    assert _array_api._remove_non_arrays() == []


async def test_of_arrays_narwhals_is_not_asked_and_of_tables_it_is(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    is_table = validation.nw.dependencies.is_into_dataframe

    def counted(given: Any) -> Any:
        asked.append(given)
        return is_table(given)

    monkeypatch.setattr(validation.nw.dependencies, "is_into_dataframe", counted)
    for place, name in known_of_arrays():  # as they are before an engine is loaded
        known = getattr(place, name)
        monkeypatch.setattr(place, name, getattr(known, "__wrapped__", known))
    with serve(iris_model()) as engine:
        asked.clear()
        await predict(engine, IRIS[:2])
        assert not asked
        with pytest.warns(UserWarning, match="X has feature names"):
            iris_model().predict(pd.DataFrame(IRIS, columns=list("abcd")))
        assert asked


async def test_labels_that_are_words_are_bytes(serve: Callable[..., Any]) -> None:
    model = LogisticRegression(max_iter=500).fit(IRIS, WORDS[SPECIES])
    with serve(model) as engine:
        assert engine.outputs[0] == spec("output-0", "BYTES", -1)
        found = (await predict(engine, IRIS[::50]))["output-0"]
        assert found.tolist() == [b"setosa", b"versicolor", b"virginica"]
        assert found.dtype == np.object_


async def test_labels_that_are_true_or_false_are_bools(serve: Callable[..., Any]) -> None:
    model = LogisticRegression(max_iter=500).fit(IRIS, SPECIES == 1)
    with serve(model) as engine:
        assert engine.outputs[0] == spec("output-0", "BOOL", -1)
        np.testing.assert_array_equal((await predict(engine, IRIS))["output-0"], model.predict(IRIS))


async def test_the_method_that_is_the_answer_can_be_chosen(serve: Callable[..., Any]) -> None:
    model = iris_model()
    with serve(model, method="predict_proba") as engine:
        assert engine.outputs[0] == spec("output-0", "FP64", -1, 3)
        np.testing.assert_array_equal((await predict(engine, IRIS))["output-0"], model.predict_proba(IRIS))


async def test_regressors_answer_numbers(serve: Callable[..., Any]) -> None:
    table, target = load_diabetes(return_X_y=True)
    one, two = LinearRegression().fit(table, target), LinearRegression().fit(table, np.c_[target, -target])
    with serve(one) as engine:
        assert engine.outputs == (spec("output-0", "FP64", -1), spec("predict", "FP64", -1))
        np.testing.assert_array_equal((await predict(engine, table))["output-0"], one.predict(table))
    with serve(two) as engine:
        assert engine.outputs[0] == spec("output-0", "FP64", -1, 2)
        np.testing.assert_array_equal((await predict(engine, table))["output-0"], two.predict(table))


async def test_several_outputs_of_one_kind_are_stacked(serve: Callable[..., Any]) -> None:
    model = MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(IRIS, np.c_[SPECIES, 2 - SPECIES])
    with serve(model) as engine:
        assert engine.outputs == (
            spec("output-0", "INT64", -1, 2),
            spec("predict", "INT64", -1, 2),
            spec("predict_proba", "FP64", -1, 2, 3),
        )
        found = await predict(engine, IRIS[:7], "predict_proba")
        np.testing.assert_array_equal(found["predict_proba"], np.stack(model.predict_proba(IRIS[:7]), axis=1))


async def test_outputs_that_are_no_tensor_are_left_out(serve: Callable[..., Any], tmp_path: Path) -> None:
    model = MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(IRIS, np.c_[SPECIES, SPECIES > 1])
    with serve(model) as engine:
        assert [one.name for one in engine.outputs] == ["output-0", "predict"]
        with pytest.raises(BadRequest, match="unknown output 'predict_proba'; have: output-0, predict"):
            await predict(engine, IRIS, "predict_proba")
    with pytest.raises(LoadError, match=r"predict_proba gives no tensor: .*3, 2"), serve(model, method="predict_proba"):
        pass


async def test_transformers_transform(serve: Callable[..., Any]) -> None:
    model = PCA(2).fit(IRIS)
    with serve(model, method="transform") as engine:
        assert engine.outputs == (spec("output-0", "FP64", -1, 2), spec("transform", "FP64", -1, 2))
        np.testing.assert_array_equal((await predict(engine, IRIS))["output-0"], model.transform(IRIS))


def flowers() -> pd.DataFrame:
    table = pd.DataFrame(IRIS, columns=["sepal length", "sepal width", "petal length", "petal width"])
    table["colour"] = np.array(["blue", "violet"])[np.arange(len(table)) % 2]
    return table


def flower_model(table: pd.DataFrame) -> Pipeline:
    parts = ColumnTransformer([("words", OneHotEncoder(), ["colour"])], remainder=StandardScaler())
    return make_pipeline(parts, LogisticRegression(max_iter=500)).fit(table, WORDS[SPECIES])


async def test_a_model_of_numbers_and_words_takes_its_columns(serve: Callable[..., Any]) -> None:
    table = flowers()
    model = flower_model(table)
    with serve(model) as engine:
        assert engine.named
        assert engine.inputs[3:] == (spec("petal width", "FP64", -1), spec("colour", "BYTES", -1))
        assert engine.columns == tuple(table)
        assert engine.outputs[0].datatype == "BYTES"
        tensors = {name: table[name].to_numpy() for name in reversed(list(table))} | {
            "colour": bytes_of(table["colour"])
        }
        found = await predict(engine, tensors, "predict_proba", "predict")
        np.testing.assert_allclose(found["predict_proba"], model.predict_proba(table), rtol=1e-12)
        np.testing.assert_array_equal(found["predict"], bytes_of(model.predict(table)))
        standing = {name: array.reshape(-1, 1) for name, array in tensors.items()}
        np.testing.assert_array_equal((await predict(engine, standing, "predict"))["predict"], found["predict"])


async def test_wrong_columns_are_refused(serve: Callable[..., Any]) -> None:
    table = flowers()
    with serve(flower_model(table)) as engine:
        tensors = {name: table[name].to_numpy() for name in table} | {"colour": bytes_of(table["colour"])}
        with pytest.raises(BadRequest, match="'colour' is missing; this model takes: sepal length, "):
            await predict(engine, {name: array for name, array in tensors.items() if name != "colour"})
        with pytest.raises(BadRequest, match="unknown input 'smell'"):
            await predict(engine, tensors | {"smell": tensors["colour"]})
        with pytest.raises(BadRequest, match=r"different numbers of rows: .*colour has 2"):
            await predict(engine, tensors | {"colour": tensors["colour"][:2]})
        with pytest.raises(BadRequest, match=r"column 'petal width' has shape \[150, 2\]"):
            await predict(engine, tensors | {"petal width": IRIS[:, :2]})
        with pytest.raises(BadRequest, match="column 'petal width' is BYTES; the model takes numbers"):
            await predict(engine, tensors | {"petal width": bytes_of(["wide"] * len(table))})
        with pytest.raises(BadRequest, match="'colour' is not BYTES; the model takes texts"):
            await predict(engine, tensors | {"colour": IRIS[:, 0]})
        one = {name: array[:1] for name, array in tensors.items()}
        with pytest.raises(BadRequest, match="column 'colour' has 'red', which the model does not know; it knows '"):
            await predict(engine, one | {"colour": bytes_of(["red"])})
        with pytest.raises(BadRequest, match=r"contains NaN; the first is petal width\[0\]"):
            await predict(engine, one | {"petal width": np.array([np.nan])})
        with pytest.raises(BadRequest, match="can't decode"):
            await predict(
                engine,
                {name: array[:1] for name, array in tensors.items()} | {"colour": np.array([b"\xff"], np.object_)},
            )


async def test_a_model_of_named_numbers_takes_a_matrix_or_columns(serve: Callable[..., Any]) -> None:
    table = flowers().drop(columns="colour")
    model = LogisticRegression(max_iter=500).fit(table, SPECIES)
    with serve(model) as engine, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (engine.inputs, engine.named) == ((spec("input-0", "FP64", -1, 4),), False)
        assert engine.columns == tuple(table)
        expected = model.predict(table)
        np.testing.assert_array_equal((await predict(engine, IRIS))["output-0"], expected)
        columns = {name: table[name].to_numpy().astype(ml_dtypes.bfloat16) for name in table}
        assert ((await predict(engine, columns))["output-0"] == expected).mean() > 0.9
        with pytest.raises(BadRequest, match="this model takes: sepal length"):
            await predict(engine, {"flower": IRIS})


@pytest.mark.parametrize("answer", ["predict", "transform"])
async def test_texts(serve: Callable[..., Any], sentences: list[str], answer: str) -> None:
    last = [LogisticRegression()] if answer == "predict" else []
    model = make_pipeline(TfidfVectorizer(), *last).fit(sentences, np.arange(len(sentences)) % 3)
    with serve(model, method=answer) as engine:
        assert engine.inputs == (spec("input-0", "BYTES", -1),)
        expected = getattr(model, answer)(sentences)
        expected = expected if answer == "predict" else expected.toarray()
        found = (await predict(engine, bytes_of(sentences)))["output-0"]
        np.testing.assert_array_equal(found, expected)
        with pytest.raises(BadRequest, match="can't decode"):
            await predict(engine, np.array([b"\xff"], np.object_))


async def test_a_sparse_answer_that_would_be_huge_is_refused(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TfidfVectorizer().fit(["some few words of text"])
    monkeypatch.setattr("deployments.engines._estimators.MAX_DENSE", 10)
    with serve(model, method="transform") as engine:
        assert (await predict(engine, bytes_of(["a text"] * 2)))["output-0"].shape == (2, 5)
        with pytest.raises(BadRequest, match="3 rows of 5 numbers are 15; at most 10"):
            await predict(engine, bytes_of(["a text"] * 3))


async def test_words_without_names_of_columns_are_a_matrix_of_bytes(serve: Callable[..., Any]) -> None:
    words = np.array([["a", "x"], ["b", "y"], ["a", "y"]], np.object_)
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(words, [0, 1, 1])
    with serve(model) as engine:
        assert engine.inputs == (spec("input-0", "BYTES", -1, 2),)
        np.testing.assert_array_equal((await predict(engine, bytes_of(words)))["output-0"], model.predict(words))
        with pytest.raises(BadRequest, match=r"column 1 of input-0 has 'z', which .*; it knows 'x', 'y'"):
            await predict(engine, bytes_of([["a", "z"]]))


async def test_the_input_can_be_said(serve: Callable[..., Any]) -> None:
    model = FunctionTransformer(np.log1p)
    with serve(model, trust=True, method="transform", input={"datatype": "FP32", "shape": [-1, 2, 2]}) as engine:
        assert engine.inputs == (spec("input-0", "FP32", -1, 2, 2),)
        assert engine.outputs[0] == spec("output-0", "FP64", -1, 2, 2)
        given = np.ones((3, 2, 2), np.float32)
        np.testing.assert_allclose((await predict(engine, given))["output-0"], np.log1p(given))


async def test_an_estimator_that_refuses_the_made_up_row_is_served(serve: Callable[..., Any]) -> None:
    with serve(Stateless().fit(), trust=True) as engine:
        assert engine.outputs[0] == spec("output-0", "BYTES", -1)
        assert (await predict(engine, [[1.0, 1.0], [-1.0, 0.0]]))["output-0"].tolist() == [b"yes", b"no"]
        with pytest.raises(BadRequest, match="nothing but zeros"):
            await predict(engine, [[0.0, 0.0]])


async def started(*requests: Coroutine[Any, Any, dict[str, Array]]) -> "list[asyncio.Task[dict[str, Array]]]":
    """Tasks of these requests, which all wait for the engine."""
    tasks = [asyncio.create_task(request) for request in requests]
    await asyncio.sleep(0)
    return tasks


async def test_requests_that_wait_are_computed_together(serve: Callable[..., Any]) -> None:
    model = Counting(max_iter=500).fit(IRIS, SPECIES)
    with serve(model, trust=True) as engine:
        COUNTED.clear()
        OPEN.clear()
        requests = [IRIS[at : at + 1 + at % 2] for at in range(64)]
        tasks = await started(*(predict(engine, rows, "predict_proba") for rows in requests))
        OPEN.set()
        found = await asyncio.gather(*tasks)
        assert sum(COUNTED) == sum(len(rows) for rows in requests)
        assert len(COUNTED) <= 3
        for rows, one in zip(requests, found, strict=True):
            np.testing.assert_allclose(one["predict_proba"], model.predict_proba(rows), rtol=1e-12)


async def test_a_model_whose_rows_depend_on_each_other_computes_each_request_alone(serve: Callable[..., Any]) -> None:
    model = make_pipeline(NMF(2, init="nndsvda", max_iter=500)).fit(IRIS)
    with serve(model, method="transform") as engine:
        requests = [IRIS[at : at + 3] for at in range(30)]
        found = await asyncio.gather(*(predict(engine, rows) for rows in requests))
        for rows, one in zip(requests, found, strict=True):
            np.testing.assert_array_equal(one["output-0"], model.transform(rows))


async def test_requests_of_different_kinds_do_not_mix(serve: Callable[..., Any]) -> None:
    table = flowers().drop(columns="colour")
    model = LogisticRegression(max_iter=500).fit(table, SPECIES)
    with serve(model) as engine:
        columns = [{name: table[name].to_numpy()[at : at + 1] for name in table} for at in range(10)]
        matrices = [IRIS[at : at + 1].astype(dtype) for at in range(10) for dtype in (np.float32, np.float64)]
        wide = predict(engine, np.ones((1, 5)))
        found = await asyncio.gather(
            *(predict(engine, one) for one in columns),
            *(predict(engine, one, "predict_proba") for one in matrices),
            wide,
            return_exceptions=True,
        )
        assert isinstance(found[-1], BadRequest)
        assert all(one["output-0"].shape == (1,) for one in found[:10] if isinstance(one, dict))
        assert all(one["predict_proba"].shape == (1, 3) for one in found[10:30] if isinstance(one, dict))
        assert all(isinstance(one, dict) for one in found[:30])


async def test_a_bad_request_fails_alone(serve: Callable[..., Any]) -> None:
    model = iris_model()
    with serve(model) as engine:
        requests = [IRIS[at : at + 2].copy() for at in range(32)]
        requests[7][1, 2] = np.nan
        found = await asyncio.gather(*(predict(engine, rows) for rows in requests), return_exceptions=True)
        wrong = found.pop(7)
        assert isinstance(wrong, BadRequest)
        assert wrong.message == "Input X contains NaN; the first is input-0[1, 2]"
        for rows, one in zip(requests[:7] + requests[8:], found, strict=True):
            assert isinstance(one, dict)
            np.testing.assert_array_equal(one["output-0"], model.predict(rows))


async def test_other_failures_are_the_models(serve: Callable[..., Any]) -> None:
    with serve(Failing(), trust=True, input={"shape": [-1, 1]}) as engine:
        bad, good = await asyncio.gather(predict(engine, [[101.0]]), predict(engine, [[1.0]]), return_exceptions=True)
        assert isinstance(bad, EngineError)
        assert "too large a flower" in bad.message
        assert isinstance(good, dict)


async def test_requests_of_no_rows_are_refused(serve: Callable[..., Any]) -> None:
    with serve(iris_model()) as engine:
        for given in (np.empty((0, 4)), np.float64(1)):
            with pytest.raises(BadRequest, match="no rows"):
                await predict(engine, given)


async def test_more_requests_than_may_wait_are_refused_and_dropped_ones_not_computed(serve: Callable[..., Any]) -> None:
    model = Counting(max_iter=500).fit(IRIS, SPECIES)
    with serve(model, trust=True, max_queue=2) as engine:
        COUNTED.clear()
        OPEN.clear()
        first = await started(predict(engine, IRIS[:1], "predict_proba"))
        while not COUNTED:
            await asyncio.sleep(0.001)
        second, third = await started(*(predict(engine, IRIS[:n], "predict_proba") for n in (2, 3)))
        with pytest.raises(QueueFull):
            await predict(engine, IRIS, "predict_proba")
        second.cancel()
        await asyncio.wait([second])
        OPEN.set()
        assert [len((await one)["predict_proba"]) for one in (*first, third)] == [1, 3]
        assert COUNTED == [1, 3]


async def test_arrays_over_a_requests_own_bytes_are_taken(serve: Callable[..., Any]) -> None:
    model = make_pipeline(StandardScaler(copy=False), RandomForestRegressor(3, random_state=0)).fit(
        IRIS.copy(), SPECIES
    )
    raw = b"x" + IRIS.tobytes()
    unaligned = np.frombuffer(raw, np.float64, offset=1).reshape(IRIS.shape)
    with serve(model, trust=True) as engine:
        found = await predict(engine, unaligned, "output-0", "predict")
        np.testing.assert_array_equal(found["predict"], model.predict(IRIS.copy()))
        np.testing.assert_array_equal(unaligned, IRIS)


async def test_methods_that_write_to_their_input_do_not_disturb_each_other(serve: Callable[..., Any]) -> None:
    model = make_pipeline(StandardScaler(copy=False), LogisticRegression()).fit(IRIS.copy(), SPECIES)
    with serve(model) as engine:
        found = await predict(engine, IRIS.copy(), "predict", "predict_proba", "decision_function")
        np.testing.assert_array_equal(found["predict_proba"], model.predict_proba(IRIS.copy()))
        np.testing.assert_array_equal(found["decision_function"], model.decision_function(IRIS.copy()))


def test_a_model_computes_with_no_more_jobs_than_there_are_threads(serve: Callable[..., Any]) -> None:
    model = make_pipeline(PCA(2), RandomForestClassifier(3, n_jobs=-1)).fit(IRIS, SPECIES)
    with serve(model, trusted_types=("sklearn.tree._tree.Tree",), threads=2) as engine:
        assert engine._model[-1].n_jobs == 2
        assert engine.alive()


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(LoadError) as error:
        Engine().load(path, Options(**options), LoadContext("test", 2, 0, lambda: 10, lambda _: None))
    assert "\n" not in error.value.message
    return error.value.message


@pytest.mark.parametrize("name", ["model.joblib", "a.pkl", "b.pickle", "c.dat"])
async def test_a_pickle_is_not_loaded_without_trust(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    (tmp_path / name).write_bytes(pickle.dumps(Harmful(mark)))
    file = name if name == "c.dat" else None
    assert "options: {trust: true}" in refusal(tmp_path, file=file)
    assert "options: {trust: true}" in refusal(tmp_path / name)
    assert not mark.exists()
    assert "NoneType" in refusal(tmp_path, file=file, trust=True)
    assert mark.exists()


def test_a_pickle_called_skops_is_not_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "model.skops").write_bytes(pickle.dumps(Harmful(mark)))
    assert "cannot read model.skops: BadZipFile" in refusal(tmp_path, trust=True)
    assert not mark.exists()


async def test_types_that_skops_does_not_know_are_named(tmp_path: Path) -> None:
    model = Counting(max_iter=500).fit(IRIS, SPECIES)
    skops.io.dump(model, tmp_path / "model.skops")
    name = "tests.engines.test_sklearn.Counting"
    assert f"options: {{trusted_types: [{name}]}}" in refusal(tmp_path)
    assert name in refusal(tmp_path, trusted_types=("os.mkdir",))
    for options in (Options(trusted_types=(name,)), Options(trust=True)):
        with loaded(Engine(), tmp_path, options) as engine:
            assert len((await predict(engine, IRIS))["output-0"]) == len(IRIS)


async def test_which_file_is_the_model(tmp_path: Path) -> None:
    first, second = (LogisticRegression(max_iter=500, C=c).fit(IRIS, SPECIES) for c in (1e-9, 1.0))
    assert "no file that ends in .skops, .joblib" in refusal(tmp_path)
    skops.io.dump(first, tmp_path / "first.skops")
    joblib.dump(second, tmp_path / "model.joblib")
    with loaded(Engine(), tmp_path, Options()) as engine:
        np.testing.assert_array_equal((await predict(engine, IRIS))["output-0"], first.predict(IRIS))
    skops.io.dump(second, tmp_path / "second.skops")
    assert "several models: first.skops, second.skops" in refusal(tmp_path)
    assert "no file 'third.skops'" in refusal(tmp_path, file="third.skops")
    for path, options in (
        (tmp_path, Options(file="second.skops")),
        (tmp_path / "second.skops", Options()),
        (tmp_path / "first.skops", Options(file="second.skops")),
    ):
        with loaded(Engine(), path, options) as engine:
            np.testing.assert_array_equal((await predict(engine, IRIS))["output-0"], second.predict(IRIS))
    skops.io.dump(first, tmp_path / "model.skops")
    with loaded(Engine(), tmp_path, Options()) as engine:
        np.testing.assert_array_equal((await predict(engine, IRIS))["output-0"], first.predict(IRIS))


def test_what_is_no_fitted_estimator_of_the_method_is_refused(tmp_path: Path) -> None:
    skops.io.dump(PCA(2).fit(IRIS), tmp_path / "model.skops")
    assert "has no predict; write options: {method: one of transform}" in refusal(tmp_path)
    skops.io.dump([1, 2], tmp_path / "model.skops")
    assert "a list, which is no estimator" in refusal(tmp_path)
    skops.io.dump(LogisticRegression(), tmp_path / "model.skops")
    assert "not fitted" in refusal(tmp_path)
    (tmp_path / "model.skops").unlink()
    (tmp_path / "model.joblib").write_bytes(b"no pickle")
    assert "cannot read model.joblib" in refusal(tmp_path, trust=True)


def test_another_version_of_the_library_is_told_once(
    serve: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS, SPECIES), tmp_path / "model.joblib")
    saved = (tmp_path / "model.joblib").read_bytes()
    from sklearn import __version__

    (tmp_path / "model.joblib").write_bytes(saved.replace(__version__.encode(), b"1.0.1"))
    with caplog.at_level(logging.WARNING), loaded(Engine(), tmp_path, Options(trust=True)):
        told = [one.message for one in caplog.records if "1.0.1" in one.message]
        assert len(told) == 1
        assert "model.joblib was saved by scikit-learn 1.0.1" in told[0]
