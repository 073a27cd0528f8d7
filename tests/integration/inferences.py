"""Inputs as Triton's clients take them."""

from typing import Any

import numpy as np


def made(form: Any, tensors: dict[str, list[str | bytes]], **options: Any) -> list[Any]:
    """Inputs of `form`, tritonclient's gRPC or HTTP."""
    inputs = []
    for name, values in tensors.items():
        array = np.array([one.encode() if isinstance(one, str) else one for one in values], object)
        inputs.append(form.InferInput(name, list(array.shape), "BYTES").set_data_from_numpy(array, **options))
    return inputs


def texts(form: Any, *values: str, name: str = "input") -> list[Any]:
    return made(form, {name: [*values]})
