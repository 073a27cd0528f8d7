"""The search of the catalog `voice-rag`: the questions nearest to a vector, among those that its LLM can answer.

`index.npz` holds them and their vectors by all-MiniLM-L6-v2; `scripts/index_questions.py` makes it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DIMENSIONS = 384
NEAREST = 5


class Model:
    """Vectors FP32 `[n, 384]` to the nearest questions BYTES `[n, 5]`, the nearest first."""

    inputs = ({"name": "vector", "datatype": "FP32", "shape": [-1, DIMENSIONS]},)
    outputs = ({"name": "questions", "datatype": "BYTES", "shape": [-1, NEAREST]},)

    def load(self, folder: Path) -> None:
        """Read the index."""
        with np.load(folder / "index.npz") as index:
            self._questions = np.array([text.encode() for text in index["questions"]], dtype=object)
            self._vectors = index["vectors"].astype(np.float32)

    def predict(self, tensors: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Cosine similarity; the vectors on both sides have length 1."""
        near = tensors["vector"] @ self._vectors.T
        found: npt.NDArray[Any] = self._questions[np.argsort(-near, axis=1)[:, :NEAREST]]
        return found
