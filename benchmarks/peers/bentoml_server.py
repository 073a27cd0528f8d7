"""BentoML with an iris classifier, in the shapes of KServe's V1 and of Open Inference. Served by `bentoml serve`."""

from typing import Any

import bentoml
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Iris:
    def __init__(self) -> None:
        self._estimator = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))

    @bentoml.api(route="/v1/models/iris:predict")  # type: ignore[untyped-decorator]
    def predict(self, instances: list[list[float]]) -> dict[str, Any]:
        return {"predictions": self._estimator.predict(instances).tolist()}

    @bentoml.api(route="/v2/models/iris/infer")  # type: ignore[untyped-decorator]
    def infer(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        (tensor,) = inputs
        count, width = tensor["shape"]
        rows = [tensor["data"][at * width : (at + 1) * width] for at in range(count)]
        found = self._estimator.predict(rows).tolist()
        output = {"name": "output-0", "shape": [count], "datatype": "INT64", "data": found}
        return {"model_name": "iris", "outputs": [output]}
