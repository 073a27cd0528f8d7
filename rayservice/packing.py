"""Shares of GPUs, CPUs and memory onto machines: exactly, where there are few enough of them.

Pure: numbers in, places out. Knows nothing of catalogs or of how machines are described.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

UNIT = 10_000
"""Parts of one GPU or CPU: Ray counts them to the ten-thousandth."""
MAX_STEPS = 20_000
"""Attempts after which the search gives up: seconds."""
MAX_SEARCHED = 400
"""Replicas beyond which only the first attempt is made, which is at the limit of Python's stack."""


@dataclass(frozen=True)
class Machines:
    """Like machines; `cpu` in units of `UNIT`, `memory` in bytes, each for one of them."""

    name: str
    nodes: int
    gpus: int
    cpu: int
    memory: int


@dataclass(frozen=True)
class Demand:
    """What replicas of one deployment each need; all of them are on one pool.

    `gpu` are units by pool: fewer than `UNIT` share a GPU, else they are that many whole ones, on one machine.
    A pool that is not in it will not do.
    """

    name: str
    replicas: int
    cpu: int
    memory: int
    gpu: dict[str, int]


@dataclass(frozen=True)
class Place:
    """One replica's: `gpus` are indexes on that machine, of each of which it takes `units`."""

    name: str
    pool: str
    node: int
    gpus: tuple[int, ...]
    units: int


@dataclass
class Node:
    """What is left of one machine."""

    pool: str
    index: int
    cpu: int
    memory: int
    gpus: list[int]

    def choices(self, units: int) -> Iterator[tuple[int, ...]]:
        """The GPUs on which so much fits, fullest first, one of those that are alike."""
        if not units:
            yield ()
        elif units >= UNIT:
            whole = [at for at, left in enumerate(self.gpus) if left == UNIT]
            if len(whole) * UNIT >= units:
                yield tuple(whole[: units // UNIT])
        else:
            distinct = {left: at for at, left in reversed(list(enumerate(self.gpus))) if left >= units}
            yield from ((distinct[left],) for left in sorted(distinct))

    def take(self, demand: Demand, gpus: tuple[int, ...], sign: int = 1) -> None:
        """Reserve it there; with `sign` -1 give it back."""
        units = demand.gpu[self.pool]
        self.cpu -= sign * demand.cpu
        self.memory -= sign * demand.memory
        for at in gpus:
            self.gpus[at] -= sign * min(units, UNIT)

    @property
    def state(self) -> tuple[str, int, int, tuple[int, ...]]:
        """Machines with the same are alike."""
        return self.pool, self.cpu, self.memory, tuple(sorted(self.gpus))


@dataclass
class Packing:
    """Where everything is; `unplaced` is what is nowhere, and then the places are of a best effort."""

    places: list[Place]
    unplaced: list[Demand]
    nodes: list[Node]
    exhaustive: bool = True
    """Whether there is no other way where something is unplaced."""


def pack(demands: Sequence[Demand], machines: Sequence[Machines]) -> Packing:
    """Places for every replica; where there are none for all, for as many deployments as come first."""
    ordered = sorted(demands, key=lambda d: (-max(d.gpu.values(), default=0), -d.cpu, -d.memory, d.name))
    search = _Search(ordered, machines)
    if sum(demand.replicas for demand in demands) <= MAX_SEARCHED and search.place(0, ""):
        return Packing(search.places, [], search.nodes)
    best = _Search(ordered, machines)
    unplaced = [demand for demand in ordered if not best.place_alone(demand)]
    return Packing(best.places, unplaced, best.nodes, exhaustive=search.steps <= MAX_STEPS)


@dataclass
class _Search:
    """Depth first, the tightest fit first; what failed once is not tried again."""

    demands: Sequence[Demand]
    machines: Sequence[Machines]
    places: list[Place] = field(default_factory=list)
    failed: set[tuple[object, ...]] = field(default_factory=set)
    steps: int = 0

    @cached_property
    def nodes(self) -> list[Node]:
        """Every machine, empty at first."""
        return [
            Node(one.name, index, one.cpu, one.memory, [UNIT] * one.gpus)
            for one in self.machines
            for index in range(one.nodes)
        ]

    @cached_property
    def replicas(self) -> list[Demand]:
        """One entry for each replica."""
        return [demand for demand in self.demands for _ in range(demand.replicas)]

    def place(self, at: int, pool: str) -> bool:
        """Whether all replicas from that one on find a place; `pool` is where its siblings are, if any."""
        if at == len(self.replicas):
            return True
        demand = self.replicas[at]
        key = (at, pool, *sorted(node.state for node in self.nodes))
        if key in self.failed or self.steps > MAX_STEPS:
            return False
        for node, gpus in self._candidates(demand, pool):
            self.steps += 1
            self._put(demand, node, gpus)
            last = at + 1 == len(self.replicas) or self.replicas[at + 1] is not demand
            if self.place(at + 1, "" if last else node.pool):
                return True
            node.take(demand, gpus, sign=-1)
            self.places.pop()
        self.failed.add(key)
        return False

    def place_alone(self, demand: Demand) -> bool:
        """Whether this deployment finds places among what is left, each replica where it fits most tightly."""
        for pool in demand.gpu:
            taken: list[tuple[Node, tuple[int, ...]]] = []
            while len(taken) < demand.replicas and (found := next(self._candidates(demand, pool), None)):
                self._put(demand, *found)
                taken.append(found)
            if len(taken) == demand.replicas:
                return True
            for node, gpus in taken:
                node.take(demand, gpus, sign=-1)
                self.places.pop()
        return False

    def _put(self, demand: Demand, node: Node, gpus: tuple[int, ...]) -> None:
        node.take(demand, gpus)
        self.places.append(Place(demand.name, node.pool, node.index, gpus, min(demand.gpu[node.pool], UNIT)))

    def _candidates(self, demand: Demand, pool: str) -> Iterator[tuple[Node, tuple[int, ...]]]:
        """Where a replica fits, one of those places that are alike; on that pool, or on any that will do."""
        alike = {
            node.state: node
            for node in reversed(self.nodes)
            if node.pool in ((pool,) if pool else demand.gpu)
            and node.cpu >= demand.cpu
            and node.memory >= demand.memory
        }
        found = [(node, gpus) for node in alike.values() for gpus in node.choices(demand.gpu[node.pool])]
        # Machines without GPUs first for what needs none, then whose GPUs, CPUs and memory are most taken.
        yield from sorted(found, key=lambda one: (_left(one[0], one[1]), one[0].cpu, one[0].memory, one[0].index))


def _left(node: Node, gpus: tuple[int, ...]) -> int:
    return node.gpus[gpus[0]] if gpus else sum(node.gpus)
