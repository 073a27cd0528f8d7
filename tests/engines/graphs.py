"""Small ONNX graphs, as exporters write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

Declared = tuple[str, int, Sequence[int | str | None]]
"""A tensor's name, its type by ONNX's number, its shape."""


def save(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Declared], outputs: Sequence[Declared], **weights: Any
) -> Path:
    """A model of these nodes."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def identity(path: Path, kind: int, shape: Sequence[int | str | None]) -> Path:
    """A model that gives `x` back as `y`."""
    return save(path, [helper.make_node("Identity", ["x"], ["y"])], [("x", kind, shape)], [("y", kind, shape)])


def make_iris_onnx(folder: Path) -> Any:
    """A classifier of irises in `model.onnx`, with its probabilities as a matrix; the estimator that it was made of."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    irises, species = load_iris(return_X_y=True)
    made = LogisticRegression(max_iter=500).fit(irises, species)
    folder.mkdir(parents=True, exist_ok=True)
    exported = to_onnx(made, irises[:1].astype("float32"), options={"zipmap": False})
    (folder / "model.onnx").write_bytes(exported.SerializeToString())
    return made


FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
