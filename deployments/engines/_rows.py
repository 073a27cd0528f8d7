"""Requests of rows, as models of tables take them, computed together: their rows are put under each other in one batch.

For models that judge each row by itself. Knows nothing of what is computed.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from deployments.batcher import Batcher, Item
from deployments.errors import BadRequest, EngineError
from deployments.specs import Array

Tensors = Mapping[str, Array]
Wanted = tuple[str, ...]


class _Asked(NamedTuple):
    """One request: tensors of as many rows, and the outputs that are wanted."""

    tensors: Tensors
    wanted: Wanted
    rows: int

    def group(self) -> Hashable:
        """What requests must have in common to be computed together."""
        kinds = ((name, one.dtype.str, one.shape[1:]) for name, one in sorted(self.tensors.items()))
        return (self.wanted, *kinds)


class Rows:
    """Runs `compute(tensors, wanted)` on the rows of all requests that wait and are alike, in one thread at a time.

    `compute` gets tensors of any number of rows, which it may write to, and returns the wanted outputs, each of as
    many rows. Requests that want other outputs, or give tensors of other names, datatypes or lengths, are computed
    apart. At most `max_rows` rows are computed together, but for a request that has more; 1 keeps requests apart.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[Tensors, Wanted], dict[str, Array]],
        *,
        max_rows: int,
        max_queue: Callable[[], int],
    ) -> None:
        self._compute = compute
        self._batcher: Batcher[_Asked, dict[str, Array]] = Batcher(
            name,
            lambda requests: [Item(one, one.rows, one.group()) for one in requests],
            self._together,
            max_cost=max_rows,
            max_items=max_rows,
            max_padding=1.0,  # rows are not padded
            max_queue=max_queue,
            label="inputs",
            short_here=True,
        )

    async def predict(self, tensors: Tensors, wanted: Wanted) -> dict[str, Array]:
        """The wanted outputs of these tensors. Cancelling it drops what has not been computed.

        Raises `QueueFull`; `BadRequest` for no rows or different numbers of them; and what `compute` raises
        for this request alone, whatever it was computed with.
        """
        counts = {name: len(one) if one.ndim else 0 for name, one in tensors.items()}
        rows = next(iter(counts.values()), 0)
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise BadRequest(f"inputs have different numbers of rows: {found}", param="inputs")
        if not rows:
            raise BadRequest("the inputs have no rows; at least one is needed", param="inputs")
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
        ends = [0, *accumulate(one.rows for one in batch)]
        for name, array in made.items():
            if len(array) != ends[-1]:
                raise EngineError(f"the model answered {ends[-1]} rows with {len(array)} rows of {name}")
        return [{name: array[begin:end] for name, array in made.items()} for begin, end in pairwise(ends)]


def _merge(parts: Sequence[Array]) -> Array:
    """The rows of all parts, in memory that is ours: requests' own may be read-only or not aligned."""
    return np.concatenate(parts) if len(parts) > 1 else np.require(parts[0], requirements=("C", "A", "W"))
