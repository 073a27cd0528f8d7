"""Which of a refused request's values scikit-learn's words are about: it counts columns, and people name them.

Knows nothing of how estimators are called.
"""

from collections.abc import Iterator, Sequence
from reprlib import repr as show
from typing import Any

import numpy as np

from deployments.engines._estimators import first_step, read_texts, readers
from deployments.engines._rows import Tensors
from deployments.errors import listed
from deployments.specs import INPUT, TensorSpec


def blame(estimator: Any, inputs: Sequence[TensorSpec], columns: Sequence[str], tensors: Tensors, said: str) -> str:
    """What is wrong with tensors that an estimator refused with what it `said`; that itself where nothing is found."""
    if wrong := next(_wrong_kinds(inputs, tensors), None):
        return wrong
    if "unknown categories" in said:
        return next(_unknown(estimator, columns, tensors), said)
    if "NaN" in said or "infinity" in said:
        place = next(_not_finite(tensors), None)
        return f"{said.rstrip('.')}; the first is {place}" if place else said
    return said


def _wrong_kinds(inputs: Sequence[TensorSpec], tensors: Tensors) -> Iterator[str]:
    declared = {one.name: one.datatype for one in inputs}
    for name, array in tensors.items():
        takes, texts = declared.get(name, inputs[0].datatype), array.dtype.kind == "O"
        if texts and takes != "BYTES":
            yield f"column {show(name)} is BYTES; the model takes numbers"
        elif takes == "BYTES" and not texts:
            yield f"column {show(name)} is not BYTES; the model takes texts"


def _unknown(estimator: Any, columns: Sequence[str], tensors: Tensors) -> Iterator[str]:
    """Values that none of the encoders in the first step knows."""
    first = first_step(estimator)
    matrix = tensors.get(INPUT)
    count = len(columns) if matrix is None else matrix.shape[-1]
    for reader, places in readers(first, count):
        for at, known in zip(places, getattr(reader, "categories_", ()), strict=False):
            given = tensors[columns[at]].reshape(-1) if matrix is None else matrix[:, at]
            name = f"column {show(columns[at])}" if columns else f"column {at} of {INPUT}"
            for value in read_texts(given).tolist():
                if value not in known:
                    have = listed([show(one) for one in known.tolist()])
                    yield f"{name} has {show(value)}, which the model does not know; it knows {have}"


def _not_finite(tensors: Tensors) -> Iterator[str]:
    """Places of values that are none, or too large for the float32 that many estimators compute with."""
    for name, array in tensors.items():
        if array.dtype.kind == "f":
            for place in np.argwhere(~(np.abs(array) <= np.finfo(np.float32).max)):
                yield f"{name}{place.tolist()}"
