"""A picture's tensor as binary data, in Open Inference's binary extension."""

import json
from functools import partial

import numpy as np

from benchmarks.ceiling import ceiling
from benchmarks.classic import ask, case, kserve, prepare
from benchmarks.load import Request
from benchmarks.scenario import OURS, Scenario, Side, Target
from benchmarks.serving import served


def image() -> Request:
    """A V2 request with a 1x3x224x224 FP32 tensor as binary data."""
    data = np.zeros((1, 3, 224, 224), np.float32).tobytes()
    given = {"name": "x", "shape": [1, 3, 224, 224], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Request("/v2/models/identity/infer", head + data, headers)


IMAGE = {"image": image()}

SCENARIO = Scenario(
    name="image",
    about=(
        "A 1×3×224×224 FP32 tensor (600 KB) as V2 binary data, to a model inside the gateway that gives it back, "
        "beside KServe's server with the same model. MLServer's scikit-learn runtime has no such model."
    ),
    sides=(
        Side(OURS, served, partial(ask, IMAGE)),
        Side("KServe", kserve, partial(ask, IMAGE)),
        ceiling(partial(ask, IMAGE), answer_bytes=602_300),
    ),
    targets=tuple(Target(case("image", clients), "requests/s", "KServe", least=5.0) for clients in (1, 32)),
    prepare=prepare,
)
