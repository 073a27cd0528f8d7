"""What the engines of files with a graph of operations share: declared tensors in, declared tensors out.

Knows no library of such graphs.
"""

from collections.abc import Callable, Sequence

from pydantic import Field

from deployments.engines import LoadContext
from deployments.engines._loading import Device
from deployments.engines._rows import BATCH_ROWS, Rows, RowsEngine, Tensors, Wanted
from deployments.errors import BadRequest, LoadError
from deployments.settings import Frozen
from deployments.specs import INPUT, Array, TensorSpec, object_array


class Options(Frozen):
    answer: tuple[str, ...] = Field((), description="outputs of a request that names none; by default all of them")
    device: Device = "auto"
    threads: int | None = Field(None, gt=0, description="CPU threads; by default the replica's whole CPUs, else all")
    batch_rows: int = Field(
        BATCH_ROWS,
        gt=0,
        description="rows of several requests computed together, where all tensors have a first length that varies. "
        "1 computes requests alone, for a model whose first length is not that of a batch",
    )


class NetworkEngine(RowsEngine):
    """A subclass loads a model, sets its `inputs` and `outputs`, and calls `_begin`."""

    def _begin(
        self, options: Options, context: LoadContext, compute: Callable[[Tensors, Wanted], dict[str, Array]]
    ) -> None:
        """Compute requests, together where all inputs and outputs have rows. Raises `LoadError`."""
        have = [one.name for one in self.outputs]
        if unknown := [name for name in options.answer if have and name not in have]:
            raise LoadError(f"options.answer: there is no output {unknown[0]!r}; have: {', '.join(have)}")
        self.named = [one.name for one in self.inputs] != [INPUT]
        self._default = options.answer or tuple(have)
        whole = bool(self.outputs) and all(one.shape[:1] == (-1,) for one in (*self.inputs, *self.outputs))
        self._rows = Rows(
            context.name,
            compute,
            max_rows=options.batch_rows,
            max_queue=context.max_queue,
            rowless=not whole or options.batch_rows == 1,
            alike=all(one.datatype != "BYTES" and -1 not in one.shape[1:] for one in self.inputs),
        )


def texts_of(name: str, array: Array) -> Array:
    """BYTES as the texts that they are in UTF-8. Raises `BadRequest`."""
    try:
        return object_array([bytes(value).decode() for value in array.reshape(-1)]).reshape(array.shape)
    except UnicodeDecodeError as error:
        raise BadRequest(f"input {name!r} has a text that is not UTF-8: {error}", param=name) from None


def bytes_of(texts: Array) -> Array:
    """Texts, or bytes, of any shape as BYTES."""
    flat = [one.encode() if isinstance(one, str) else bytes(one) for one in texts.reshape(-1).tolist()]
    return object_array(flat).reshape(texts.shape)


def length(dimension: object) -> int:
    """A dimension as a model writes it: a name or nothing is a length that varies."""
    return dimension if isinstance(dimension, int) and dimension >= 0 else -1


def refusal(error: Exception, specs: Sequence[TensorSpec]) -> BadRequest:
    """The library's refusal of inputs that are as they are declared, in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    shapes = ", ".join(f"{one.name} {list(one.shape)}" for one in specs)
    return BadRequest(f"the model refuses these inputs ({shapes}): {lines[-1] if lines else error!r}"[:600])
