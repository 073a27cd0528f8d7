"""Small scikit-learn models in folders, as people would save them."""

from pathlib import Path
from typing import Any

import numpy as np

IRIS_ROWS = [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [6.3, 3.3, 6.0, 2.5]]
"""An iris of each kind."""


def make_iris(folder: Path) -> Any:
    """A classifier of irises, and its folder."""
    import skops.io
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    made = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))
    folder.mkdir(parents=True, exist_ok=True)
    skops.io.dump(made, folder / "model.skops")
    return made


def make_fraud(folder: Path) -> Any:
    """An XGBoost classifier of irises that are virginica, and its folder; its features have names."""
    import pandas as pd
    import xgboost
    from sklearn.datasets import load_iris

    irises, species = load_iris(return_X_y=True)
    table = pd.DataFrame(irises, columns=["a", "b", "c", "d"])
    made = xgboost.XGBClassifier(n_estimators=5, n_jobs=1).fit(table, species == 2)
    folder.mkdir(parents=True, exist_ok=True)
    made.save_model(folder / "model.ubj")
    return made


def make_constants(folder: Path, count: int) -> None:
    """Folders `0`, `1`... with regressors that answer their number to everything."""
    import skops.io
    from sklearn.linear_model import LinearRegression

    for number in range(count):
        made = LinearRegression().fit(np.zeros((2, 1)), np.full(2, float(number)))
        (folder / str(number)).mkdir(parents=True)
        skops.io.dump(made, folder / str(number) / "model.skops")


def make_identity(folder: Path) -> None:
    """A class that answers what it is given, fails where it is told to, and has an app of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(IDENTITY)


IDENTITY = """
from starlette.responses import PlainTextResponse

from deployments.errors import BadRequest


class Model:
    def predict(self, tensors, parameters):
        if parameters.get("fail") == "bad":
            raise BadRequest("this will not do")
        if parameters.get("fail"):
            raise RuntimeError("as it was told")
        return tensors

    async def app(self, scope, receive, send):
        if scope["type"] == "http":
            await PlainTextResponse("at " + scope["path"])(scope, receive, send)
"""


def make_flowers(folder: Path) -> None:
    """A transformer around iris: millimetres in, names out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flowers.py").write_text(FLOWERS)


FLOWERS = """
NAMES = ["setosa", "versicolor", "virginica"]


class Flowers:
    def preprocess(self, payload, headers):
        if "inputs" in payload:
            (given,) = payload["inputs"]
            shrunk = [one / 10 for one in given["data"]]
            return {"inputs": [{**given, "name": "input-0", "data": shrunk}]}
        return {"instances": [[one / 10 for one in row] for row in payload["mm"]]}

    async def postprocess(self, result, headers):
        if "outputs" in result:
            (found,) = result["outputs"]
            named = [NAMES[one] for one in found["data"]]
            return {**result, "outputs": [{**found, "name": "kind", "datatype": "BYTES", "data": named}]}
        named = [NAMES[one] for one in result["predictions"]]
        return {"predictions": named, "garden": headers.get("x-garden")}
"""
