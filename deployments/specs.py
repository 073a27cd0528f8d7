"""What a model says of its tensors: names, datatypes, shapes, as the Open Inference Protocol (V2) has them.

Apart from `deployments.tensors` because engines need no more than this, and it needs little installed.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from deployments.settings import Frozen

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "BF16",
    "FP32",
    "FP64",
    "BYTES",
]
Array = npt.NDArray[Any]
"""A tensor's values in its shape. BYTES are an object array of `bytes`; BF16 is `ml_dtypes.bfloat16`."""

INPUT, OUTPUT = "input-0", "output-0"
"""What the only input and the first output are called where a model has no names for them, as KServe calls them."""


class TensorSpec(Frozen):
    """What a model says of one of its inputs or outputs; -1 is a length that varies."""

    name: str
    datatype: Datatype
    shape: tuple[Annotated[int, Field(ge=-1)], ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether that is such a shape."""
        if len(shape) != len(self.shape):
            return False
        for want, got in zip(self.shape, shape, strict=True):  # noqa: SIM110 (a generator takes twice as long)
            if want not in (-1, got):
                return False
        return True


def object_array(values: Sequence[object]) -> Array:
    """A flat object array of these, whatever they are."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
