"""LitServe with an iris classifier, in the shape of KServe's V1. `python litserve_server.py HTTP_PORT GRPC_PORT`."""

import sys
from typing import Any

import litserve
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


class Iris(litserve.LitAPI):  # type: ignore[misc]  # the peer is not installed here
    def setup(self, device: str) -> None:
        self._estimator = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))

    def decode_request(self, request: dict[str, Any]) -> Any:
        return request["instances"]

    def predict(self, rows: Any) -> Any:
        return self._estimator.predict(rows)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    api = Iris(api_path="/v1/models/iris:predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
