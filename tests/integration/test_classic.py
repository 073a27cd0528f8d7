"""XGBoost in a replica and ONNX inside the gateway, by Triton's client over HTTP; an explanation by SHAP."""

from pathlib import Path

import httpx
import numpy as np
import shap
import xgboost
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from tests.engines.estimators import IRIS_ROWS, make_fraud
from tests.engines.graphs import make_iris_onnx

ROWS = np.array(IRIS_ROWS, np.float32)


def rows(name: str) -> InferInput:
    return InferInput(name, list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)


def test_xgboost_says_what_it_takes_and_answers(triton_http: InferenceServerClient, url: str, tmp_path: Path) -> None:
    model = make_fraud(tmp_path)
    said = triton_http.get_model_metadata("fraud")
    assert said["platform"] == "serve-app-xgboost"
    assert said["inputs"] == [{"name": "input-0", "datatype": "FP32", "shape": [-1, 4]}]
    assert [(one["name"], one["datatype"], one["shape"]) for one in said["outputs"]] == [
        ("output-0", "FP32", [-1]),
        ("predict", "INT64", [-1]),
        ("predict_proba", "FP32", [-1, 2]),
        ("decision_function", "FP32", [-1]),
    ]
    expected = model.get_booster().predict(xgboost.DMatrix(ROWS, feature_names=list("abcd")))
    np.testing.assert_array_equal(triton_http.infer("fraud", [rows("x")]).as_numpy("output-0"), expected)
    table = [{name: {"0": float(value)} for name, value in zip("abcd", row, strict=True)} for row in ROWS]
    answer = httpx.post(f"{url}/v1/models/fraud:predict", json={"instances": table})
    np.testing.assert_allclose(answer.json()["predictions"], expected, rtol=1e-6)
    refused = httpx.post(f"{url}/v1/models/fraud:predict", json={"instances": [{"a": 1, "b": 2, "c": 3}]})
    assert (refused.status_code, "no column d" in refused.json()["error"]) == (400, True)


def test_onnx_says_what_it_takes_and_answers(triton_http: InferenceServerClient, tmp_path: Path) -> None:
    estimator = make_iris_onnx(tmp_path)
    said = triton_http.get_model_metadata("inline-onnx")
    assert said["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]
    wanted = [InferRequestedOutput("probabilities", binary_data=True), InferRequestedOutput("label")]
    found = triton_http.infer("inline-onnx", [rows("X")], outputs=wanted)
    np.testing.assert_array_equal(found.as_numpy("label"), estimator.predict(ROWS))
    np.testing.assert_allclose(found.as_numpy("probabilities"), estimator.predict_proba(ROWS), atol=1e-6)


def test_an_explanation(url: str, tmp_path: Path) -> None:
    expected = shap.TreeExplainer(make_fraud(tmp_path).get_booster())(ROWS)
    answer = httpx.post(f"{url}/v1/models/fraud:explain", json={"instances": IRIS_ROWS}, timeout=60).json()
    assert answer["feature_names"] == list("abcd")
    np.testing.assert_allclose([one["values"] for one in answer["explanations"]], expected.values, rtol=1e-5)
    given = {"name": "x", "datatype": "FP32", "shape": [3, 4], "data": IRIS_ROWS}
    body = {"inputs": [given], "outputs": [{"name": "values"}]}
    (values,) = httpx.post(f"{url}/v2/models/fraud/explain", json=body, timeout=60).json()["outputs"]
    np.testing.assert_allclose(values["data"], expected.values.reshape(-1), rtol=1e-5)
    refused = httpx.post(f"{url}/v1/models/iris:explain", json={"instances": IRIS_ROWS})
    assert (refused.status_code, "Declare one in the catalog" in refused.json()["error"]) == (501, True)
