"""Requests of rows computed together: their rows are put under each other in one batch. What engines of such share.

For models that judge each row by itself. Knows nothing of what is computed.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from deployments.batcher import Batcher
from deployments.engines import Task
from deployments.errors import BadRequest, EngineError
from deployments.specs import Array, TensorSpec
from deployments.waiting import Item

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BATCH_ROWS = 1024
"""Rows of several requests that are computed together, unless an option says otherwise."""

Tensors = Mapping[str, Array]
Wanted = tuple[str, ...]


class _Asked(NamedTuple):
    """One request: tensors of as many rows, and the outputs that are wanted."""

    tensors: Tensors
    wanted: Wanted
    rows: int

    def group(self) -> Hashable:
        """What requests must have in common to be computed together."""
        kinds = [(name, one.dtype.str, one.shape[1:]) for name, one in self.tensors.items()]
        return (self.wanted, *sorted(kinds))


class Rows:
    """Runs `compute(tensors, wanted)` on the rows of all requests that wait and are alike, in one thread at a time.

    `compute` gets tensors of any number of rows, which it may write to, and returns the wanted outputs, each of as
    many rows. Requests that want other outputs, or give tensors of other names, datatypes or lengths, are computed
    apart. At most `max_rows` rows are computed together, but for a request that has more; 1 keeps requests apart.
    With `rowless`, requests are computed apart too, and their tensors and answers may have any shapes. `alike` says
    that as many rows always take about as long: where that is short, the event loop computes them.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[Tensors, Wanted], dict[str, Array]],
        *,
        max_rows: int,
        max_queue: Callable[[], int],
        rowless: bool = False,
        alike: bool = True,
    ) -> None:
        self._compute, self._rowless = compute, rowless
        self._batcher: Batcher[_Asked, dict[str, Array]] = Batcher(
            name,
            lambda requests: [Item(one, one.rows, one.group()) for one in requests],
            self._together,
            max_cost=1 if rowless else max_rows,
            max_items=1 if rowless else max_rows,
            max_padding=1.0,  # rows are not padded
            max_queue=max_queue,
            label="inputs",
            short_here=alike and not rowless,
        )

    async def predict(self, tensors: Tensors, wanted: Wanted) -> dict[str, Array]:
        """The wanted outputs of these tensors. Cancelling it drops what has not been computed.

        Raises `QueueFull`; `BadRequest` for no rows or different numbers of them; and what `compute` raises
        for this request alone, whatever it was computed with.
        """
        rows = 1 if self._rowless else _count_rows(tensors)
        return (await self._batcher.submit([_Asked(tensors, wanted, rows)]))[0]

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._batcher.alive()

    def close(self) -> None:
        """Stop the thread; what still waits fails with `EngineError`."""
        self._batcher.close()

    def _together(self, batch: list[_Asked]) -> Sequence[dict[str, Array]]:
        first = batch[0]
        merged = {name: _merge([one.tensors[name] for one in batch]) for name in first.tensors}
        made = self._compute(merged, first.wanted)
        if self._rowless:
            return [made]
        ends = [0, *accumulate(one.rows for one in batch)]
        for name, array in made.items():
            if len(array) != ends[-1]:
                raise EngineError(f"the model answered {ends[-1]} rows with {len(array)} rows of {name}")
        if len(batch) == 1:
            return [made]
        return [{name: array[begin:end] for name, array in made.items()} for begin, end in pairwise(ends)]


def _count_rows(tensors: Tensors) -> int:
    """How many rows each of the tensors has. Raises `BadRequest` for none, and for different numbers."""
    counts = {name: len(one) if one.ndim else 0 for name, one in tensors.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise BadRequest(f"inputs have different numbers of rows: {found}", param="inputs")
    rows = next(iter(counts.values()), 0)
    if not rows:
        raise BadRequest("the inputs have no rows; at least one is needed", param="inputs")
    return rows


def _merge(parts: Sequence[Array]) -> Array:
    """The rows of all parts, in memory that is ours: requests' own may be read-only or not aligned."""
    if len(parts) > 1:
        return np.concatenate(parts)
    return parts[0] if parts[0].flags.carray else parts[0].copy()


class RowsEngine:
    """What the predict engines share whose requests `Rows` computes: a subclass loads a model, and sets the rest."""

    task: ClassVar[Task] = "predict"
    note: ClassVar[str] = ""
    inputs: tuple[TensorSpec, ...]
    columns: tuple[str, ...] = ()
    outputs: tuple[TensorSpec, ...]
    named: bool
    app: "ASGIApp | None" = None
    _model: Any
    """The library's own model."""
    _rows: Rows
    _default: Wanted
    """The outputs of a request that names none."""

    def close(self) -> None:
        """Stop the thread and drop the model."""
        self._rows.close()
        del self._model

    def alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._rows.alive()

    def explained(self) -> Any | None:
        """See `deployments.engines.PredictEngine.explained`."""
        return None

    async def predict(
        self,
        tensors: Mapping[str, Array],
        outputs: Sequence[str],
        parameters: Mapping[str, Any],  # noqa: ARG002
    ) -> dict[str, Array]:
        """See `deployments.engines.PredictEngine.predict`. Parameters are not used.

        Raises `BadRequest` with the library's own words for values that the model refuses.
        """
        if outputs:
            have = [one.name for one in self.outputs]
            if unknown := [name for name in outputs if name not in have]:
                raise BadRequest(f"unknown output {unknown[0]!r}; have: {', '.join(have)}", param="outputs")
        declared = [one.name for one in self.inputs]
        if tensors.keys() != set(declared) or list(self.columns) == declared:
            check_columns(tensors, self.columns or declared, self.columns)
        return await self._rows.predict(tensors, tuple(outputs) or self._default)


def check_columns(tensors: Tensors, needed: Sequence[str], columns: Sequence[str]) -> None:
    """Raise `BadRequest` unless there are those that are needed and no others, and the columns are such."""
    wrong = [f"input {name!r} is missing" for name in needed if name not in tensors]
    wrong += [f"unknown input {name!r}" for name in tensors if name not in needed]
    if wrong:
        raise BadRequest(f"{wrong[0]}; this model takes: {', '.join(needed)}", param="inputs")
    for name in columns:
        if (shape := tensors[name].shape) and (len(shape) == 1 or shape[1:] == (1,)):
            continue
        raise BadRequest(f"column {name!r} has shape {list(shape)}; a column is [-1] or [-1, 1]", param=name)


def column_of(name: str, array: Array, dtype: Any) -> Array:
    """A column `[n]` or `[n, 1]` of numbers as `[n]` of that dtype. Raises `BadRequest` naming it."""
    if array.dtype.kind == "O":
        raise BadRequest(f"column {name!r} is BYTES; the model takes numbers", param=name)
    with np.errstate(over="ignore"):
        column: Array = array.reshape(-1).astype(dtype)
    if (np.isinf(column) & np.isfinite(array.reshape(-1).astype(np.float64))).any():
        raise BadRequest(f"column {name!r} has a number that the model cannot hold", param=name)
    return column
