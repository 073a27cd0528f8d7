"""XGBoost's boosters behind the engine, against the library called directly."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.datasets import load_iris

from deployments.engines import PredictEngine
from deployments.engines.xgboost import Engine, Options
from deployments.errors import BadRequest
from tests.engines.asking import (
    all_at_once,
    counted,
    metadata,
    not_loaded,
    predict,
    refused,
    tensor,
    v1,
    v2,
)
from tests.engines.loading import loaded

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]
TABLE = pd.DataFrame(IRIS, columns=NAMES)
MANY = np.repeat(IRIS, 7, axis=0)[:1000]


def classifier(target: Any = SPECIES, table: Any = IRIS, **how: Any) -> xgboost.XGBClassifier:
    return xgboost.XGBClassifier(n_estimators=5, max_depth=3, n_jobs=1, **how).fit(table, target)


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """An engine on a model that is saved in a file of that name."""

    @contextmanager
    def start(model: Any, file: str = "model.ubj", **options: Any) -> Iterator[PredictEngine]:
        (tmp_path / file).write_bytes(model.get_booster().save_raw("json" if file.endswith("json") else "ubj"))
        with loaded(Engine(), tmp_path, Options(**options)) as engine:
            yield engine

    return start


@pytest.mark.parametrize("file", ["model.json", "model.ubj", "model.bst", "fraud.model"])
@pytest.mark.parametrize("rows", [IRIS[:1], MANY])
async def test_a_classifier_answers_as_the_library_does(serve: Callable[..., Any], file: str, rows: Any) -> None:
    model = classifier()
    with serve(model, file) as engine:
        found = await predict(engine, rows.astype(np.float32))
        assert list(found) == ["output-0"]
        np.testing.assert_array_equal(found["output-0"], model.get_booster().predict(xgboost.DMatrix(rows)))
        found = await predict(engine, rows, "predict", "predict_proba", "decision_function")
        np.testing.assert_array_equal(found["predict"], model.predict(rows))
        np.testing.assert_array_equal(found["predict_proba"], model.predict_proba(rows))
        np.testing.assert_array_equal(found["decision_function"], model.predict(rows, output_margin=True))


async def test_what_it_takes_and_gives_is_the_models_own(serve: Callable[..., Any]) -> None:
    with serve(classifier()) as engine:
        assert (engine.named, engine.columns, engine.app) == (False, (), None)
        assert await metadata(engine) == [
            ("input-0", "FP32", [-1, 4]),
            ("output-0", "FP32", [-1, 3]),
            ("predict", "INT64", [-1]),
            ("predict_proba", "FP32", [-1, 3]),
            ("decision_function", "FP32", [-1, 3]),
        ]


@pytest.mark.parametrize("objective", ["multi:softmax", "multi:softprob"])
async def test_probabilities_whatever_the_objective(serve: Callable[..., Any], objective: str) -> None:
    model = classifier(objective=objective)
    with serve(model) as engine:
        found = await predict(engine, IRIS, "output-0", "predict", "predict_proba")
        np.testing.assert_array_equal(found["output-0"], model.get_booster().predict(xgboost.DMatrix(IRIS)))
        np.testing.assert_array_equal(found["predict"], model.predict(IRIS))
        np.testing.assert_allclose(found["predict_proba"], model.predict_proba(IRIS), rtol=1e-6)


@pytest.mark.parametrize("target", [SPECIES > 0, np.c_[SPECIES > 0, SPECIES > 1]], ids=["binary", "labels"])
async def test_two_classes_and_several_labels(serve: Callable[..., Any], target: Any) -> None:
    model = classifier(target.astype(int))
    with serve(model) as engine:
        found = await predict(engine, IRIS, "output-0", "predict", "predict_proba", "decision_function")
        np.testing.assert_array_equal(found["output-0"], model.get_booster().predict(xgboost.DMatrix(IRIS)))
        np.testing.assert_array_equal(found["predict"], model.predict(IRIS))
        np.testing.assert_allclose(found["predict_proba"], model.predict_proba(IRIS), rtol=1e-6)
        np.testing.assert_array_equal(found["decision_function"], model.predict(IRIS, output_margin=True))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
async def test_the_answer_can_be_chosen(serve: Callable[..., Any], method: str) -> None:
    with serve(classifier(), method=method) as engine:
        found = await predict(engine, IRIS, "output-0", method)
        np.testing.assert_array_equal(found["output-0"], found[method])
        assert engine.outputs[0].datatype == ("INT64" if method == "predict" else "FP32")


async def test_regressors_have_no_probabilities(serve: Callable[..., Any], tmp_path: Path) -> None:
    model = xgboost.XGBRegressor(n_estimators=5, objective="count:poisson").fit(IRIS, SPECIES)
    with serve(model) as engine:
        assert [one.name for one in engine.outputs] == ["output-0", "predict", "decision_function"]
        found = await predict(engine, IRIS, "predict", "decision_function")
        np.testing.assert_array_equal(found["predict"], model.predict(IRIS))
        np.testing.assert_array_equal(found["decision_function"], model.predict(IRIS, output_margin=True))
    said = not_loaded(Engine(), tmp_path, Options(method="predict_proba"))
    assert said == "model.ubj holds no classifier: options.method may be booster, predict, decision_function"


async def test_early_stopping_is_the_librarys(serve: Callable[..., Any]) -> None:
    model = xgboost.XGBClassifier(n_estimators=40, early_stopping_rounds=2, learning_rate=1.0)
    model.fit(IRIS[::2], SPECIES[::2], eval_set=[(IRIS[1::2], SPECIES[1::2])], verbose=False)
    whole = model.get_booster().num_boosted_rounds()
    assert model.best_iteration + 1 < whole
    with serve(model) as engine:
        found = await predict(engine, IRIS, "output-0", "predict_proba")
        np.testing.assert_array_equal(found["predict_proba"], model.predict_proba(IRIS))
        np.testing.assert_array_equal(found["output-0"], model.get_booster().predict(xgboost.DMatrix(IRIS)))
        assert engine.explained().num_boosted_rounds() == model.best_iteration + 1


async def test_named_columns_as_tensors_rows_and_tables(serve: Callable[..., Any]) -> None:
    model = classifier(table=TABLE)
    expected = model.predict_proba(TABLE[:3])
    with serve(model, method="predict_proba") as engine:
        assert engine.columns == tuple(NAMES)
        columns = {name: TABLE[name].to_numpy()[:3] for name in reversed(NAMES)}
        np.testing.assert_array_equal((await predict(engine, columns))["output-0"], expected)
        standing = {name: array.reshape(-1, 1).astype(np.float32) for name, array in columns.items()}
        np.testing.assert_array_equal((await predict(engine, standing))["output-0"], expected)
        for instances in (
            IRIS[:3].tolist(),
            TABLE[:3].to_dict("records"),
            [TABLE[:3].to_dict()],
            [TABLE[:3].to_dict("list")],
        ):
            instances = [{k: ({str(i): v for i, v in c.items()} if isinstance(c, dict) else c) for k, c in one.items()}
                         if isinstance(one, dict) else one for one in instances]  # fmt: skip
            np.testing.assert_allclose(await v1(engine, instances), expected, rtol=1e-6)
        answer = await v2(engine, *(tensor(name, "FP64", array) for name, array in columns.items()))
        np.testing.assert_allclose(answer.json()["outputs"][0]["data"], expected.reshape(-1), rtol=1e-6)


async def test_missing_values_and_categories(serve: Callable[..., Any]) -> None:
    table = TABLE.assign(colour=pd.Categorical(np.array(["red", "blue"])[np.arange(150) % 2]))
    table.loc[::3, "petal width"] = np.nan
    model = classifier(table=table, enable_categorical=True)
    codes = table.assign(colour=table["colour"].cat.codes)
    with serve(model, method="predict_proba") as engine:
        found = await predict(engine, codes.to_numpy(np.float32))
        np.testing.assert_array_equal(found["output-0"], model.predict_proba(table))
        first = [None if value != value else value for value in codes.iloc[0].tolist()]
        np.testing.assert_allclose(await v1(engine, [first]), model.predict_proba(table[:1]), rtol=1e-6)


async def test_requests_that_wait_are_computed_together(serve: Callable[..., Any]) -> None:
    model = classifier()
    with serve(model) as engine:
        rows = counted(engine)
        requests = [IRIS[at : at + 1 + at % 2].astype(np.float32) for at in range(64)]
        found = await all_at_once(engine, requests, "predict_proba")
        assert sum(rows) == sum(len(one) for one in requests)
        assert len(rows) < 10
        for request, one in zip(requests, found, strict=True):
            np.testing.assert_array_equal(one["predict_proba"], model.predict_proba(request))


async def test_bad_input_is_a_400_that_names_it(serve: Callable[..., Any]) -> None:
    with serve(classifier(table=TABLE)) as engine:
        assert "'x' has shape [1, 3]; the model takes [-1, 4]" in await refused(
            engine, tensor("x", "FP32", [[1, 2, 3]])
        )
        assert "'x' is BYTES; the model takes FP32" in await refused(engine, tensor("x", "BYTES", [["a"] * 4]))
        columns = {name: tensor(name, "FP32", [1.0]) for name in NAMES}
        assert "no column petal width" in await refused(engine, *list(columns.values())[:3])
        assert "unknown column 'smell'" in await refused(engine, *columns.values(), tensor("smell", "FP32", [1.0]))
        wrong = columns | {"petal width": tensor("petal width", "BYTES", ["a"])}
        assert "column 'petal width' is BYTES" in await refused(engine, *wrong.values())
        wrong = columns | {"petal width": tensor("petal width", "FP32", [[1.0, 2.0]])}
        assert "column 'petal width' has shape [1, 2]" in await refused(engine, *wrong.values())
        wrong = columns | {"petal width": tensor("petal width", "FP64", [1e300])}
        assert "column 'petal width' has a number that the model cannot hold" in await refused(engine, *wrong.values())
        with pytest.raises(BadRequest, match="column 'sepal width' has an infinite number"):
            await predict(engine, np.array([[1, np.inf, 1, 1]], np.float32))
        with pytest.raises(BadRequest, match="unknown output 'nope'; have: output-0, predict"):
            await predict(engine, IRIS, "nope")


async def test_pickles_need_trust(tmp_path: Path) -> None:
    model = classifier()
    joblib.dump(model, tmp_path / "model.joblib")
    said = not_loaded(Engine(), tmp_path, Options())
    assert "options: {trust: true}; or save the model with save_model as .ubj" in said
    with loaded(Engine(), tmp_path, Options(trust=True)) as engine:
        np.testing.assert_array_equal((await predict(engine, IRIS, "predict"))["predict"], model.predict(IRIS))
    joblib.dump([1], tmp_path / "model.joblib")
    assert "a list, which is no model of XGBoost's" in not_loaded(Engine(), tmp_path, Options(trust=True))


async def test_which_file_is_the_model(tmp_path: Path) -> None:
    assert "no file that ends in .ubj, .json, .bst, .model" in not_loaded(Engine(), tmp_path, Options())
    for version, depth in (("1", 1), ("10", 3), ("9", 2)):
        (tmp_path / version).mkdir()
        xgboost.XGBClassifier(n_estimators=2, max_depth=depth).fit(IRIS, SPECIES).save_model(
            tmp_path / version / "xgboost.json"
        )
    with loaded(Engine(), tmp_path, Options()) as engine:
        latest = xgboost.Booster(model_file=tmp_path / "10" / "xgboost.json")
        np.testing.assert_array_equal((await predict(engine, IRIS))["output-0"], latest.predict(xgboost.DMatrix(IRIS)))


def test_what_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model.json", "model.bst"):
        file = tmp_path / name
        file.write_bytes(b"nonsense")
        assert f"cannot read {name}: " in not_loaded(Engine(), tmp_path, Options(file=name))
        file.unlink()
    assert "this XGBoost has no CUDA" in not_loaded(Engine(), tmp_path, Options(device="cuda"), gpus=1)
    monkeypatch.setitem(sys.modules, "xgboost", None)
    assert "xgboost is not installed: install serve-app[xgboost]" in not_loaded(Engine(), tmp_path, Options())


def test_threads_and_device_are_the_boosters(serve: Callable[..., Any]) -> None:
    import json

    with serve(classifier(), threads=1) as engine:
        said = json.loads(engine._model.save_config())["learner"]["generic_param"]
        assert (said["nthread"], said["device"]) == ("1", "cpu")
        assert engine.alive()
