"""Counts and histograms of many values a second, kept here and told to Ray once a second.

Ray's own `Histogram` costs the process some 6 µs for each value and Ray's agent up to 20, and its sums are of its
buckets' middles, not of the values. Knows nothing of what is measured.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from ray.util.metrics import Counter, CythonSum

TELL_S = 1.0
"""How long after the first value since the last time."""


class _Told:
    """Has `_tell` called `TELL_S` after the first `_changed`; at once where no event loop runs."""

    _due = False

    def _changed(self) -> None:
        """Call it where `_due` is not set yet."""
        self._due = True
        try:
            asyncio.get_running_loop().call_later(TELL_S, self._telling)
        except RuntimeError:
            self._telling()

    def _telling(self) -> None:
        self._due = False
        self._tell()

    def _tell(self) -> None:
        raise NotImplementedError


class Count(_Told):
    """A Prometheus counter; its series is called `<name>_total`."""

    def __init__(self, name: str, says: str, tags: Mapping[str, str]) -> None:
        self._counter, self._tags = Counter(name, says, tuple(tags)), dict(tags)
        self._new = 0

    def add(self, count: int) -> None:
        """So many more."""
        self._new += count
        if not self._due:
            self._changed()

    def _tell(self) -> None:
        self._counter.inc(self._new, self._tags)
        self._new = 0


class Histogram(_Told):
    """A Prometheus histogram: the series `<name>_bucket` by `le`, `<name>_sum` and `<name>_count`.

    `bounds` are the buckets' upper ones, ascending, without infinity. The series are of what Ray's `Counter` was before
    it added `_total` to names.
    """

    def __init__(self, name: str, says: str, bounds: Sequence[float], tags: Mapping[str, str]) -> None:
        self._bounds, self._tags = bounds, dict(tags)
        self._buckets = CythonSum(f"{name}_bucket", says, (*tags, "le"))
        self._sum = CythonSum(f"{name}_sum", says, tuple(tags))
        self._count = CythonSum(f"{name}_count", says, tuple(tags))
        self._clear()

    def _clear(self) -> None:
        self._new, self._new_sum = [0] * (len(self._bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self._new[bisect_left(self._bounds, value)] += 1
        self._new_sum += value
        if not self._due:
            self._changed()

    def _tell(self) -> None:
        up_to = 0
        for bound, new in zip([*self._bounds, "+Inf"], self._new, strict=True):
            up_to += new
            self._buckets.record(up_to, {**self._tags, "le": str(bound)})  # also 0: each bucket has to be there
        self._sum.record(self._new_sum, self._tags)
        self._count.record(up_to, self._tags)
        self._clear()
