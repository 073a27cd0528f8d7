"""The prepared inputs that wait for a batcher: whose turn it is, and what is nearest to it in cost.

Knows nothing of threads: its user guards it.
"""

import bisect
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar


class Item(NamedTuple):
    """A prepared input: what the compute function takes, its cost, and the group it may share a batch with."""

    value: Any
    cost: int
    group: Hashable = None


class Request(Protocol):
    """One request, some of whose inputs wait."""

    waiting: deque[int]
    ended: bool


Asking = TypeVar("Asking", bound=Request)
Entry = tuple[Asking, int, Item]
"""A request, which of its inputs, and that input."""


class Waiting(Generic[Asking]):
    """Inputs of many requests, taken in batches.

    The cost of a batch is its longest item's cost times its length, as a padded tensor's is; it stays within
    `max_cost` (a single item may exceed it) and within `max_items`, and at most the share `max_padding` of it is
    padding.
    """

    def __init__(self, max_cost: int, max_items: int, max_padding: float) -> None:
        self._max_cost, self._max_items, self._max_padding = max_cost, max_items, max_padding
        self._turns: deque[Asking] = deque()
        self._by_cost: list[tuple[int, int, int]] = []
        self._entries: dict[int, Entry[Asking]] = {}
        self._serial = 0
        self.cost = 0
        """What all that waits would cost without padding."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, request: Asking, items: Sequence[Item]) -> None:
        """Have the inputs of a request wait for their turn."""
        for index, item in enumerate(items):
            self._serial += 1
            self._entries[self._serial] = (request, index, item)
            bisect.insort(self._by_cost, (hash(item.group), item.cost, self._serial))
            self.cost += item.cost
            request.waiting.append(self._serial)
        self._turns.append(request)

    def take(self, workers: int) -> list[Entry[Asking]]:
        """The next batch: the item whose turn it is, and its nearest neighbours in cost within the budget.

        It leaves the other free ones of so many workers their shares of what waits, so that one request uses all.
        """
        anchor = self._next_anchor()
        if anchor is None:
            return []
        first = self._entries[anchor][2]
        keys = self._by_cost
        high = bisect.bisect_left(keys, (hash(first.group), first.cost, anchor))
        low, chosen, cost, filled = high - 1, [anchor], first.cost, first.cost
        high += 1

        share = -(-self.cost // workers)

        def fits(longest: int, one: int) -> bool:
            padded, real = longest * (len(chosen) + 1), filled + one
            return padded <= self._max_cost and real <= share and padded - real <= self._max_padding * padded

        while len(chosen) < self._max_items:
            below = keys[low] if low >= 0 and keys[low][0] == hash(first.group) else None
            above = keys[high] if high < len(keys) and keys[high][0] == hash(first.group) else None
            nearer = above and (not below or above[1] - first.cost <= first.cost - below[1])
            if nearer and above and fits(above[1], above[1]):
                cost, filled, high = above[1], filled + above[1], high + 1
                chosen.append(above[2])
            elif below and fits(cost, below[1]):
                filled, low = filled + below[1], low - 1
                chosen.append(below[2])
            else:
                break
        del keys[low + 1 : high]
        entries = [self._entries.pop(serial) for serial in chosen]
        self.cost -= filled
        return entries

    def _next_anchor(self) -> int | None:
        """The first waiting item of the request whose turn it is; ended requests are dropped on the way."""
        while self._turns:
            request = self._turns.popleft()
            while request.waiting and request.waiting[0] not in self._entries:
                request.waiting.popleft()
            if request.ended:
                self._drop(request)
            elif request.waiting:
                self._turns.append(request)
                return request.waiting[0]
        return None

    def _drop(self, request: Asking) -> None:
        gone = [serial for serial, entry in self._entries.items() if entry[0] is request]
        for serial in gone:
            item = self._entries.pop(serial)[2]
            self.cost -= item.cost
            del self._by_cost[bisect.bisect_left(self._by_cost, (hash(item.group), item.cost, serial))]

    def requests(self) -> list[Asking]:
        """The requests that have not had all their turns."""
        return list(self._turns)
