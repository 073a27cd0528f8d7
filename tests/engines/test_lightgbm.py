"""LightGBM's boosters behind the engine, against the library called directly."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from deployments.engines import LoadContext, PredictEngine
from deployments.engines.lightgbm import Engine, Options
from tests.engines.asking import all_at_once, counted, metadata, not_loaded, predict, refused, tensor, v1, v2
from tests.engines.loading import loaded

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
TABLE = pd.DataFrame(IRIS, columns=NAMES)
MANY = np.repeat(IRIS, 7, axis=0)[:1000]
WORDS = np.array(["setosa", "versicolor", "virginica"])


def classifier(target: Any = SPECIES, table: Any = IRIS, **how: Any) -> Any:
    return lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1, **how).fit(table, target)


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """An engine on a model that is saved in a file of that name."""

    @contextmanager
    def start(model: Any, file: str = "model.txt", **options: Any) -> Iterator[PredictEngine]:
        model.booster_.save_model(tmp_path / file)
        with loaded(Engine(), tmp_path, Options(**options)) as engine:
            yield engine

    return start


@pytest.mark.parametrize("file", ["model.txt", "churn.txt", "model.bst"])
@pytest.mark.parametrize("rows", [IRIS[:1], MANY])
async def test_a_classifier_answers_as_the_library_does(serve: Callable[..., Any], file: str, rows: Any) -> None:
    model = classifier()
    with serve(model, file) as engine:
        found = await predict(engine, rows)
        assert list(found) == ["output-0"]
        np.testing.assert_array_equal(found["output-0"], model.booster_.predict(rows))
        found = await predict(engine, rows, "predict", "predict_proba", "decision_function")
        np.testing.assert_array_equal(found["predict"], model.predict(rows))
        np.testing.assert_array_equal(found["predict_proba"], model.predict_proba(rows))
        np.testing.assert_array_equal(found["decision_function"], model.predict(rows, raw_score=True))


async def test_what_it_takes_and_gives_is_the_models_own(serve: Callable[..., Any]) -> None:
    with serve(classifier(), method="predict") as engine:
        assert (engine.named, engine.columns) == (False, ())
        assert await metadata(engine) == [
            ("input-0", "FP64", [-1, 4]),
            ("output-0", "INT64", [-1]),
            ("predict", "INT64", [-1]),
            ("predict_proba", "FP64", [-1, 3]),
            ("decision_function", "FP64", [-1, 3]),
        ]


async def test_two_classes(serve: Callable[..., Any]) -> None:
    model = classifier(SPECIES > 1)
    with serve(model) as engine:
        found = await predict(engine, IRIS, "output-0", "predict", "predict_proba", "decision_function")
        np.testing.assert_array_equal(found["output-0"], model.booster_.predict(IRIS))
        np.testing.assert_array_equal(found["predict"], model.predict(IRIS))
        np.testing.assert_array_equal(found["predict_proba"], model.predict_proba(IRIS))
        np.testing.assert_array_equal(found["decision_function"], model.predict(IRIS, raw_score=True))


async def test_regressors(serve: Callable[..., Any], tmp_path: Path) -> None:
    model = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1, objective="poisson").fit(IRIS, SPECIES)
    with serve(model) as engine:
        found = await predict(engine, IRIS, "predict", "decision_function")
        np.testing.assert_array_equal(found["predict"], model.predict(IRIS))
        np.testing.assert_array_equal(found["decision_function"], model.predict(IRIS, raw_score=True))
    assert "model.txt holds no classifier" in not_loaded(Engine(), tmp_path, Options(method="predict_proba"))


async def test_columns_rows_tables_and_missing_values(serve: Callable[..., Any]) -> None:
    table = TABLE.copy()
    table.loc[::3, "petal_width"] = np.nan
    model = classifier(table=table)
    expected = model.predict_proba(table[:3])
    with serve(model, method="predict_proba") as engine:
        assert engine.columns == tuple(NAMES)
        rows = [[None if value != value else value for value in row] for row in table[:3].to_numpy().tolist()]
        records = [dict(zip(NAMES, row, strict=True)) for row in rows]
        frame = {name: {str(at): row[name] for at, row in enumerate(records)} for name in reversed(NAMES)}
        for instances in (rows, records, [frame], [{name: list(column.values()) for name, column in frame.items()}]):
            np.testing.assert_allclose(await v1(engine, instances), expected)
        answer = await v2(engine, *(tensor(name, "FP64", [column["1"]]) for name, column in frame.items()))
        np.testing.assert_allclose(answer.json()["outputs"][0]["data"], expected[1])
        assert "no column petal_width" in await refused(engine, *(tensor(name, "FP64", [1.0]) for name in NAMES[:3]))
        assert "shape [1, 5]; the model takes [-1, 4]" in await refused(engine, tensor("x", "FP64", [[1.0] * 5]))


async def test_requests_that_wait_are_computed_together(serve: Callable[..., Any]) -> None:
    model = classifier()
    with serve(model) as engine:
        rows = counted(engine)
        requests = [IRIS[at : at + 1 + at % 2] for at in range(64)]
        found = await all_at_once(engine, requests)
        assert sum(rows) == sum(len(one) for one in requests)
        assert len(rows) < 10
        for request, one in zip(requests, found, strict=True):
            np.testing.assert_array_equal(one["output-0"], model.booster_.predict(request))


async def test_pickles_need_trust_and_know_what_classes_stand_for(tmp_path: Path) -> None:
    model = classifier(WORDS[SPECIES])
    joblib.dump(model, tmp_path / "model.pkl")
    assert "options: {trust: true}; or save the model with save_model as .txt" in not_loaded(
        Engine(), tmp_path, Options()
    )
    with loaded(Engine(), tmp_path, Options(trust=True, method="predict")) as engine:
        assert engine.outputs[0].datatype == "BYTES"
        found = (await predict(engine, IRIS))["output-0"]
        assert [word.decode() for word in found] == model.predict(IRIS).tolist()
        assert await v1(engine, IRIS[:2].tolist()) == ["setosa", "setosa"]


def test_what_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.txt").write_text("nonsense")
    assert "cannot read model.txt: LightGBMError" in not_loaded(Engine(), tmp_path, Options())
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert "lightgbm is not installed: install serve-app[lightgbm]" in not_loaded(Engine(), tmp_path, Options())


def test_a_gpu_is_no_use_to_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier().booster_.save_model(tmp_path / "model.txt")
    engine = Engine()
    with caplog.at_level(logging.WARNING):
        engine.load(tmp_path, Options(), LoadContext("test", 2, 0.5, lambda: 10, lambda _: None))
    engine.close()
    assert "LightGBM predicts on the CPU" in caplog.text
