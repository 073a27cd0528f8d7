"""`:explain`: SHAP's values against the library's own, users' classes, and what is said of what is wrong."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import shap
import xgboost
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from deployments import engines, explainers
from deployments.asgi import Head, run_unary
from deployments.engines import LoadContext
from deployments.errors import LoadError
from deployments.explainers import Question
from deployments.model import Model
from deployments.settings import ExplainerSettings, ModelIdentity
from serve_app import catalog as catalogs
from tests.engines.graphs import make_iris_onnx
from tests.protocols.engines import Embed, Predict, Rerank, ask
from tests.protocols.fakes import Served

EXPLAIN, EXPLAIN_V2, INFER = "/v1/models/m:explain", "/v2/models/m/explain", "/v2/models/m/infer"
IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]
BACKGROUND = IRIS[::5]
ROWS = IRIS[[0, 60, 120]]


def save(name: str, model: Any, folder: Path) -> dict[str, Any]:
    """Save a model for the engine of that name, and return the engine's options."""
    if name == "xgboost":
        model.save_model(folder / "model.ubj")
    elif name == "lightgbm":
        model.booster_.save_model(folder / "model.txt")
    elif name == "onnx":
        make_iris_onnx(folder)
        return {"answer": ["probabilities"]}
    else:
        joblib.dump(model, folder / "model.joblib")
        return {"trust": True}
    return {}


@asynccontextmanager
async def serving(name: str, path: Path, explainer: dict[str, Any], **options: Any) -> AsyncIterator[Served[Any]]:
    """Model `m` on the engine of that name, with an explainer, as a replica loads them."""
    made = engines.find(name)()
    context = LoadContext("m", 2, 0, lambda: 100_000, lambda _: None, asyncio.get_running_loop())
    await asyncio.to_thread(made.load, path, made.options_type.model_validate(options), context)
    try:
        settings = ExplainerSettings.model_validate(explainer)
        found = await asyncio.to_thread(explainers.load, settings, made, path, context)
        served = Served(made)
        served.explainer = found
        yield served
        await asyncio.to_thread(found.close)
    finally:
        await asyncio.to_thread(made.close)


async def explained(served: Served[Any], instances: Any, **more: Any) -> dict[str, Any]:
    answer = await ask(served, EXPLAIN, json={"instances": instances, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def output(served: Served[Any], name: str, rows: Any) -> Any:
    """What the model answers for one of its outputs."""
    engine = served.loaded()
    return (await engine.predict({engine.inputs[0].name: np.asarray(rows, np.float32)}, [name], {}))[name]


def trees(kind: Any = xgboost.XGBClassifier, target: Any = SPECIES, **how: Any) -> Any:
    quiet = {"verbose": -1} if kind is lightgbm.LGBMClassifier else {}
    return kind(n_estimators=8, max_depth=3, random_state=0, **quiet, **how).fit(IRIS, target)


def booster(model: Any) -> Any:
    return model.get_booster() if isinstance(model, xgboost.XGBModel) else getattr(model, "booster_", model)


def tree(model: Any, background: Any) -> Any:
    return shap.TreeExplainer(booster(model), background)(ROWS)


def tree_probability(model: Any, background: Any) -> Any:
    return shap.TreeExplainer(booster(model), background, model_output="probability")(ROWS)


def linear(model: Any, background: Any) -> Any:
    return shap.LinearExplainer(model, shap.maskers.Independent(background))(ROWS)


def permutation(model: Any, background: Any) -> Any:
    """Each row by itself, from the same random numbers."""
    made = shap.PermutationExplainer(model.predict_proba, shap.maskers.Independent(background), max_evals=90)
    found = []
    for row in ROWS:
        np.random.seed(0)
        found.append(made(row[None], silent=True))
    values, base = (np.concatenate([getattr(one, name) for one in found]) for name in ("values", "base_values"))
    return shap.Explanation(values, base)


CASES: list[tuple[str, Callable[[], Any], dict[str, Any], Callable[..., Any], str]] = [
    ("xgboost", trees, {}, tree, "decision_function"),
    ("xgboost", lambda: trees(target=SPECIES > 0), {"background": True}, tree, "decision_function"),
    ("xgboost", lambda: trees(xgboost.XGBRegressor), {"kind": "tree"}, tree, "predict"),
    (
        "xgboost",
        lambda: trees(target=SPECIES > 0),
        {"background": True, "output": "predict_proba"},
        tree_probability,
        "predict_proba",
    ),
    ("lightgbm", lambda: trees(lightgbm.LGBMClassifier), {}, tree, "decision_function"),
    ("lightgbm", lambda: trees(lightgbm.LGBMClassifier, SPECIES > 1), {}, tree, "decision_function"),
    ("sklearn", lambda: trees(RandomForestClassifier), {}, tree, "predict_proba"),
    ("sklearn", lambda: trees(GradientBoostingClassifier, SPECIES > 0), {}, tree, "decision_function"),
    (
        "sklearn",
        lambda: LogisticRegression(max_iter=500).fit(IRIS, SPECIES),
        {"background": True},
        linear,
        "decision_function",
    ),
    ("sklearn", lambda: LinearRegression().fit(IRIS, SPECIES), {"background": True}, linear, "predict"),
    (
        "sklearn",
        lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS, SPECIES),
        {"background": True},
        permutation,
        "predict_proba",
    ),
    ("sklearn", lambda: trees(RandomForestClassifier), {"kind": "permutation", "background": True}, permutation,
     "predict_proba"),
    (
        "onnx",
        lambda: LogisticRegression(max_iter=500).fit(IRIS, SPECIES),
        {"background": True, "output": "probabilities"},
        permutation,
        "probabilities",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "make", "asked", "library", "name"), CASES)
@pytest.mark.slow
async def test_values_are_the_librarys_own_and_add_up_to_the_output(
    tmp_path: Path, engine: str, make: Any, asked: dict[str, Any], library: Any, name: str
) -> None:
    model = make()
    options = save(engine, model, tmp_path)
    np.save(tmp_path / "background.npy", BACKGROUND)
    background = f"file://{tmp_path}/background.npy" if asked.get("background") else None
    expected = library(model, BACKGROUND if background else None)
    async with serving(engine, tmp_path, {**asked, "background": background}, **options) as served:
        found = await explained(served, ROWS.tolist())
        values = np.array([one["values"] for one in found["explanations"]])
        base = np.array([one["base_values"] for one in found["explanations"]])
        assert found["output"] == name
        np.testing.assert_allclose(values, expected.values, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(base, np.broadcast_to(expected.base_values, base.shape), rtol=1e-5, atol=1e-6)
        said = await output(served, name, ROWS)
        said = said[:, 1] if said.ndim > values.ndim - 1 else said
        np.testing.assert_allclose(base + values.sum(axis=1), said, rtol=1e-4, atol=1e-5)
        predicted = await ask(served, "/v1/models/m:predict", json={"instances": ROWS.tolist()})
        assert found["predictions"] == predicted.json()["predictions"]
        assert await explained(served, ROWS.tolist()) == found


async def test_v2_has_a_document_and_tensors(tmp_path: Path) -> None:
    model = trees()
    save("xgboost", model, tmp_path)
    expected = tree(model, None)
    given = {"name": "x", "datatype": "FP64", "shape": [3, 4], "data": ROWS.tolist()}
    async with serving("xgboost", tmp_path, {}) as served:
        (one,) = (await ask(served, EXPLAIN_V2, json={"inputs": [given], "id": "7"})).json()["outputs"]
        assert (one["name"], one["datatype"], one["shape"]) == ("explanation", "BYTES", [1])
        document = json.loads(one["data"][0])
        assert document["meta"] == {"name": "TreeShap", "output": "decision_function"}
        data = document["data"]
        np.testing.assert_allclose(np.moveaxis(data["shap_values"], 0, 2), expected.values, rtol=1e-5)
        np.testing.assert_allclose(data["expected_value"], expected.base_values[0], rtol=1e-5)
        raw = await output(served, "decision_function", ROWS)
        np.testing.assert_allclose(data["raw"]["raw_prediction"], raw, rtol=1e-4)
        wanted = {"inputs": [given], "outputs": [{"name": "values"}, {"name": "base_values"}]}
        answer = (await ask(served, "/v2/models/m/versions/1/explain", json=wanted)).json()
        values, base = answer["outputs"]
        assert (values["shape"], base["shape"], values["datatype"]) == ([3, 4, 3], [3, 3], "FP64")
        np.testing.assert_allclose(values["data"], expected.values.reshape(-1), rtol=1e-5)
        answer = await ask(served, EXPLAIN_V2, json=wanted | {"outputs": [{"name": "nope"}]})
        assert answer.status_code == 400
        assert "unknown output 'nope'; an explanation has explanation, values, base_values" in answer.json()["error"]


async def test_columns_rows_and_tables_and_a_csv_with_names(tmp_path: Path) -> None:
    table = pd.DataFrame(IRIS, columns=NAMES)
    model = LogisticRegression(max_iter=500).fit(table, SPECIES)
    options = save("sklearn", model, tmp_path)
    file = tmp_path / "data" / "background.csv"
    file.parent.mkdir()
    table[::5].assign(species="setosa")[["species", *reversed(NAMES)]].to_csv(file, index=False)
    expected = shap.LinearExplainer(model, shap.maskers.Independent(BACKGROUND))(ROWS)
    async with serving("sklearn", tmp_path, {"background": f"file://{file.parent}"}, **options) as served:
        records = [dict(zip(NAMES, row, strict=True)) for row in ROWS.tolist()]
        frame = {name: {str(at): row[name] for at, row in enumerate(records)} for name in reversed(NAMES)}
        for instances in (ROWS.tolist(), records, [frame]):
            found = await explained(served, instances)
            assert found["feature_names"] == NAMES
            np.testing.assert_allclose([one["values"] for one in found["explanations"]], expected.values, rtol=1e-6)
        columns = [{"name": name, "datatype": "FP64", "shape": [1, 1], "data": [1.0]} for name in NAMES]
        assert (await ask(served, EXPLAIN_V2, json={"inputs": columns})).status_code == 200
        for body, says in (
            ({"instances": [records[0] | {"smell": 1}]}, "unknown column 'smell'"),
            ({"instances": [{"petal width": 1}]}, "no column sepal length"),
            ({"instances": [[1, 2, 3]]}, "the model takes [-1, 4]"),
            ({"instances": [["a", 1, 2, 3]]}, "numbers"),
            ({"instances": "x"}, "list"),
        ):
            answer = await ask(served, EXPLAIN, json=body)
            assert answer.status_code == 400, answer.text
            assert says in answer.json()["error"]
        answer = await ask(served, EXPLAIN_V2, json={"inputs": [columns[0] | {"datatype": "BYTES", "data": ["a"]}]})
        assert answer.status_code == 400


async def test_concurrent_requests_are_explained_together(tmp_path: Path) -> None:
    model = trees()
    save("xgboost", model, tmp_path)
    expected = shap.TreeExplainer(model.get_booster())(IRIS[:40]).values
    async with serving("xgboost", tmp_path, {}) as served:
        explainer: Any = served.explainer
        calls: list[int] = []
        compute = explainer._batcher._compute

        def counting(rows: Any) -> Any:
            calls.append(threading.get_ident())
            return compute(rows)

        explainer._batcher._compute = counting
        found = await asyncio.gather(*(explainer.explain(question(row)) for row in IRIS[:40]))
        np.testing.assert_allclose([one.tensors["values"][0] for one in found], expected, rtol=1e-5)
        assert len(calls) < 10
        assert threading.get_ident() not in calls


@pytest.mark.slow  # the first permutations are compiled
async def test_rows_of_a_request_that_was_cancelled_are_not_explained(tmp_path: Path) -> None:
    options = save("sklearn", LogisticRegression(max_iter=500).fit(IRIS, SPECIES), tmp_path)
    np.save(tmp_path / "b.npy", BACKGROUND)
    settings = {"kind": "permutation", "background": f"file://{tmp_path}/b.npy"}
    async with serving("sklearn", tmp_path, settings, **options) as served:
        explainer: Any = served.explainer
        compute, begun, go_on = explainer._batcher._compute, threading.Event(), threading.Event()
        calls: list[int] = []

        def waiting(rows: Any) -> Any:
            calls.append(len(rows))
            begun.set()
            assert go_on.wait(10)
            return compute(rows)

        explainer._batcher._compute = waiting
        task = asyncio.create_task(explainer.explain(question(*IRIS[:9])))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.wait([task])
        go_on.set()
        assert (await explainer.explain(question(IRIS[0]))).tensors["values"].shape == (1, 4, 3)
        assert calls == [1, 1]


def question(*rows: Any) -> Question:
    """Of a model with a matrix; nothing is said of predictions, which SHAP only repeats."""

    async def predict(_instances: Any) -> Any:
        raise AssertionError("SHAP asks the engine")

    return Question({"input-0": np.stack(rows)}, list, [], predict)


async def test_no_explainer_is_a_501_that_says_how_to_declare_one() -> None:
    for path, body in ((EXPLAIN, {"instances": ["a"]}), (EXPLAIN_V2, {"inputs": []})):
        answer = await ask(Served(Embed(), "embed"), path, json=body)
        assert answer.status_code == 501
        assert answer.json()["error"].startswith("Model with name m has no explainer. Declare one in the catalog: ")


async def refusal(engine: str, path: Path, explainer: dict[str, Any], **options: Any) -> str:
    with pytest.raises(LoadError) as error:
        async with serving(engine, path, explainer, **options):
            pass
    assert "\n" not in error.value.message
    return error.value.message


async def test_explainers_that_cannot_be_made_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = save("sklearn", make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS, SPECIES), tmp_path)
    said = await refusal("sklearn", tmp_path, {}, **options)
    assert said == "explainer: kind permutation needs background: the source of an npy or csv file of rows"
    data = tmp_path / "data.npy"
    np.save(data, IRIS[:, :3])
    background = {"background": f"file://{data}"}
    assert "has shape [150, 3]; the model takes [-1, 4]" in await refusal("sklearn", tmp_path, background, **options)
    np.save(data, np.array([object()]), allow_pickle=True)
    assert "cannot read data.npy as numbers" in await refusal("sklearn", tmp_path, background, **options)
    np.save(data, IRIS)
    said = await refusal("sklearn", tmp_path, background | {"kind": "tree"}, **options)
    assert "explainer: kind tree does not explain this model: InvalidModelError" in said
    said = await refusal("sklearn", tmp_path, background | {"output": "nope"}, **options)
    have = "predict_proba, decision_function, predict, output-0"
    assert said == f"explainer.output: there is no 'nope'; outputs of numbers are {have}"
    save("sklearn", IsolationForest(n_estimators=4, random_state=0).fit(IRIS), tmp_path)
    assert "adds up to no output; use kind permutation" in await refusal("sklearn", tmp_path, {}, **options)
    words = np.array([["a"], ["b"]], object)
    save("sklearn", make_pipeline(OneHotEncoder(), LogisticRegression()).fit(words, [0, 1]), tmp_path)
    said = await refusal("sklearn", tmp_path, {}, **options)
    assert "this one takes input-0 BYTES [-1, 1]; give explainer.class" in said
    monkeypatch.setitem(sys.modules, "shap", None)
    assert "shap is not installed: install serve-app[explain]" in await refusal("sklearn", tmp_path, {}, **options)


async def test_probabilities_of_trees_need_background(tmp_path: Path) -> None:
    save("xgboost", trees(target=SPECIES > 0), tmp_path)
    assert "background" in await refusal("xgboost", tmp_path, {"output": "predict_proba"})


async def test_a_csv_without_the_columns_is_refused(tmp_path: Path) -> None:
    options = save("sklearn", LogisticRegression().fit(pd.DataFrame(IRIS, columns=NAMES), SPECIES), tmp_path)
    file = tmp_path / "b.csv"
    file.write_text("sepal length,petal length\n1,2\n")
    said = await refusal("sklearn", tmp_path, {"background": f"file://{file}"}, **options)
    assert said == "explainer.background: b.csv has no column 'sepal width'; have: sepal length, petal length"


OWN = """
    import threading
    import numpy as np
    from deployments.errors import BadRequest

    class Explainer:
        def __init__(self, times=1):
            self.times = times

        def load(self, path):
            self.name = path.name

        def explain(self, instances, predict, parameters):
            if instances == ["bad"]:
                raise BadRequest("this will not do")
            if instances == ["worse"]:
                raise RuntimeError("as it was told")
            if instances == ["set"]:
                return {1, 2}
            again = predict(instances)
            made = {"asked": instances, "predicted": np.asarray(again).T * self.times, "with": parameters}
            return made | {"thread": threading.current_thread().name, "from": self.name}
"""


@asynccontextmanager
async def own(engine: Any, task: Any, folder: Path, **arguments: Any) -> AsyncIterator[Served[Any]]:
    """A model with an explainer of the class `OWN`."""
    (folder / "mine.py").write_text(dedent(OWN))
    context = LoadContext("m", 1, 0, lambda: 10, lambda _: None, asyncio.get_running_loop())
    settings = ExplainerSettings.model_validate({"class": "mine:Explainer", "arguments": arguments})
    served = Served(engine, task)
    served.explainer = await asyncio.to_thread(explainers.load, settings, engine, folder, context)
    yield served
    await asyncio.to_thread(served.explainer.close)


async def test_a_class_of_ones_own_explains_a_model_of_any_task(tmp_path: Path) -> None:
    async with own(Embed(), "embed", tmp_path, times=2) as served:
        assert await explained(served, ["ab", "c"], parameters={"dimensions": 2}) == {
            "asked": ["ab", "c"],
            "predicted": [[4, 2]] * 3,
            "with": {"dimensions": 2},
            "thread": "engine-m-explainer-0",
            "from": tmp_path.name,
        }
        body = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["abc"]}]}
        (one,) = (await ask(served, EXPLAIN_V2, json=body)).json()["outputs"]
        document = json.loads(one["data"][0])
        assert (document["asked"], document["predicted"]) == (["abc"], [[6]] * 3)
        for instance, status, says in (
            ("bad", 400, "this will not do"),
            ("worse", 500, "the explainer failed: RuntimeError: as it was told (mine.py, line "),
            ("set", 500, "the explainer's answer is no JSON"),
        ):
            answer = await ask(served, EXPLAIN, json={"instances": [instance]})
            assert answer.status_code == status, answer.text
            assert says in answer.json()["error"]


async def test_an_event_is_answered_with_one(tmp_path: Path) -> None:
    event = {
        "ce-specversion": "1.0",
        "ce-id": "7",
        "ce-type": "t",
        "ce-source": "s",
        "content-type": "application/json",
    }
    async with own(Embed(), "embed", tmp_path) as served:
        answer = await ask(served, EXPLAIN, json={"instances": ["ab"]}, headers=event)
        assert (answer.status_code, answer.headers["ce-type"]) == (200, "io.kserve.inference.response")
        assert answer.json()["asked"] == ["ab"]


async def test_tensors_without_common_rows_are_for_v1(tmp_path: Path) -> None:
    query = {"name": "query", "datatype": "BYTES", "shape": [1], "data": ["q"]}
    documents = {"name": "documents", "datatype": "BYTES", "shape": [2], "data": ["a", "bb"]}
    async with own(Rerank(), "rerank", tmp_path) as served:
        found = await explained(served, [{"query": "q", "documents": ["a", "bb"]}])
        assert found["predicted"] == [[1.0], [0.5]]
        answer = await ask(served, EXPLAIN_V2, json={"inputs": [query, documents]})
        assert (answer.status_code, "ask for the explanation by V1" in answer.json()["error"]) == (400, True)


async def test_tensors_are_instances_to_a_class(tmp_path: Path) -> None:
    async with own(Predict(lambda got: {"y": next(iter(got.values())).sum(axis=1)}), "predict", tmp_path) as served:
        given = {"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]}
        (one,) = (await ask(served, EXPLAIN_V2, json={"inputs": [given]})).json()["outputs"]
        assert json.loads(one["data"][0])["asked"] == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("class Other: pass", "explainer.class: module 'mine' has no class 'Explainer'"),
        ("class Explainer: pass", "needs a method explain"),
        ("class Explainer:\n    async def explain(self, instances, predict): pass", "needs a method explain"),
        ("1 / 0", "module mine cannot be imported: ZeroDivisionError"),
    ],
)
async def test_classes_that_cannot_explain_say_why(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    settings = ExplainerSettings.model_validate({"class": "mine:Explainer"})
    context = LoadContext("m", 1, 0, lambda: 10, lambda _: None, asyncio.get_running_loop())
    with pytest.raises(LoadError) as error:
        await asyncio.to_thread(explainers.load, settings, Embed(), tmp_path, context)
    assert says.replace("'mine'", "mine") in error.value.message


async def asked(model: Model, path: str, body: Any) -> tuple[int, Any]:
    answer = await run_unary(model.app, Head("POST", path, "", b"", [], None, 30.0), json.dumps(body).encode())
    return answer.status, json.loads(answer.body)


async def test_an_explainer_comes_and_goes_with_the_models_settings(tmp_path: Path) -> None:
    save("xgboost", trees(), tmp_path)
    model = Model(ModelIdentity(name="m", engine="xgboost"), cpus=1, gpus=0)
    settings: dict[str, Any] = {"source": f"file://{tmp_path}"}
    try:
        model.configure(settings)
        assert (await asked(model, EXPLAIN, {"instances": ROWS.tolist()}))[0] == 501
        given = catalogs.parse(
            {"models": [{"name": "m", "engine": "xgboost", "explainer": {"kind": "tree"}, **settings}]}
        )
        model.configure(given.models[0].settings.model_dump(mode="json"))
        while model.settings.explainer is None or not model._life.loaded() or not model._life.loaded().explainer:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        status, found = await asked(model, EXPLAIN, {"instances": ROWS.tolist()})
        assert (status, len(found["explanations"])) == (200, 3)
        assert model.alive()
        model.configure(settings)
        assert (await asked(model, EXPLAIN, {"instances": ROWS.tolist()}))[0] == 501
    finally:
        await model.close()


@pytest.mark.parametrize(
    ("engine", "explainer", "says"),
    [
        (
            "xgboost",
            {"kind": "deep"},
            "models[0] (m).explainer.kind: Input should be 'tree', 'linear' or 'permutation'",
        ),
        ("xgboost", {"color": 1}, "models[0] (m).explainer.color: unknown key; valid here: kind, background"),
        ("xgboost", {"class": "a:B", "kind": "tree"}, "class and kind exclude each other"),
        ("xgboost", {"arguments": {"a": 1}}, "arguments is for a class of your own"),
        ("bi_encoder", {}, "engine bi_encoder does rerank; give a class of your own"),
    ],
)
def test_catalogs_that_are_wrong_say_so(engine: str, explainer: Any, says: str) -> None:
    given = {"models": [{"name": "m", "engine": engine, "source": "file:///x", "explainer": explainer}]}
    with pytest.raises(catalogs.CatalogError) as error:
        catalogs.parse(given)
    assert says in error.value.message


def test_an_own_class_is_told_to_replicas_as_the_catalog_says_it() -> None:
    explainer = {"class": "a:B", "arguments": {"n": 1}}
    given = {"models": [{"name": "m", "engine": "bi_encoder", "source": "file:///x", "explainer": explainer}]}
    told = catalogs.parse(given).models[0].settings.model_dump(mode="json")
    read = ExplainerSettings.model_validate(told["explainer"])
    assert (read.class_, read.arguments) == ("a:B", {"n": 1})
