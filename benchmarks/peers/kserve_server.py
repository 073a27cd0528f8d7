"""KServe's Python server with an iris classifier, as its scikit-learn server has it, and a model that echoes.

Runs in an environment of its own: `python kserve_server.py HTTP_PORT GRPC_PORT`.
"""

import sys
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import get_predict_input, get_predict_response
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


class Iris(Model):  # type: ignore[misc]  # the peer is not installed here
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._estimator = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        return get_predict_response(payload, self._estimator.predict(get_predict_input(payload)), self.name)


class Identity(Model):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        array = payload.inputs[0].as_numpy()
        output = InferOutput("x", list(array.shape), "FP32")
        output.set_data_from_numpy(array)
        return InferResponse(payload.id or "1", self.name, [output])


if __name__ == "__main__":
    server = ModelServer(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), workers=1, access_log_format=None)
    server.start([Iris("iris"), Identity("identity")])
