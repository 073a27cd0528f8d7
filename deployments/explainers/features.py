"""The numbers that a model of a table judges by: their names, and the model's tensors as one matrix of them.

Also background data: a matrix of the same features from a file. Knows no explainer.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from deployments.engines import PredictEngine
from deployments.engines._loading import find_file
from deployments.engines._rows import check_columns, column_of
from deployments.errors import LoadError
from deployments.specs import Array, TensorSpec
from deployments.tensors import DTYPES


class Features(NamedTuple):
    """What a model takes in each row; `names` are empty where it has none."""

    names: tuple[str, ...]
    width: int
    inputs: tuple[TensorSpec, ...]
    """One that is a matrix, or one for each feature."""

    @classmethod
    def of(cls, engine: PredictEngine) -> Self:
        """Those of an engine. Raises `LoadError` for a model that does not take rows of numbers."""
        inputs = tuple(engine.inputs)
        if all(one.datatype != "BYTES" for one in inputs):
            if len(inputs) == 1 and len(inputs[0].shape) == 2 and inputs[0].shape[1] > 0:
                return cls(tuple(engine.columns), inputs[0].shape[1], inputs)
            if inputs and all(one.shape in ((-1,), (-1, 1)) for one in inputs):
                return cls(tuple(one.name for one in inputs), len(inputs), inputs)
        takes = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in inputs) or "anything"
        raise LoadError(
            f"SHAP explains models of rows of numbers, and this one takes {takes}; give explainer.class, a class "
            "of your own"
        )

    def matrix(self, tensors: Mapping[str, Array]) -> Array:
        """The model's tensors, or its columns, as float64 `[n, width]`. Raises `BadRequest` naming a wrong column."""
        if not self.names or tensors.keys() == {self.inputs[0].name}:
            matrix: Array = tensors[self.inputs[0].name].astype(np.float64).reshape(-1, self.width)
            return matrix
        check_columns(tensors, self.names, self.names)
        return np.stack([column_of(name, tensors[name], np.float64) for name in self.names], axis=1)

    def tensors(self, matrix: Array) -> dict[str, Array]:
        """A matrix `[n, width]` as the model's tensors."""
        whole = len(self.inputs) == 1
        given = [matrix] if whole else list(matrix.T)
        return {
            one.name: array.reshape([-1, *(self.width if whole else 1 for _ in one.shape[1:])]).astype(
                DTYPES[one.datatype]
            )
            for one, array in zip(self.inputs, given, strict=True)
        }

    def read(self, path: Path) -> Array:
        """Background data from an npy file `[n, width]`, or a csv file, with a first line of names if there are such.

        Of a csv file with names, the columns of the features are taken. Raises `LoadError`.
        """
        file = find_file(path, None, (".npy",), (".csv",))
        try:
            data = np.load(file, allow_pickle=False) if file.suffix == ".npy" else self._read_csv(file)
            matrix: Array = np.asarray(data, np.float64)
        except (OSError, ValueError) as error:
            raise LoadError(f"explainer.background: cannot read {file.name} as numbers: {error}") from error
        if matrix.ndim != 2 or not len(matrix) or matrix.shape[1] != self.width:
            shape = list(matrix.shape)
            raise LoadError(f"explainer.background: {file.name} has shape {shape}; the model takes [-1, {self.width}]")
        return matrix

    def _read_csv(self, file: Path) -> list[list[float]]:
        with file.open(newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
        if not rows or all(_is_number(cell) for cell in rows[0]):
            return [[float(cell or "nan") for cell in row] for row in rows]
        header, *rows = rows
        names = self.names if set(self.names) & set(header) else header
        if missing := [name for name in names if name not in header]:
            have = ", ".join(header[:20])
            raise LoadError(f"explainer.background: {file.name} has no column {missing[0]!r}; have: {have}")
        places = [header.index(name) for name in names]
        return [[float(row[at] or "nan") for at in places] for row in rows]


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True
