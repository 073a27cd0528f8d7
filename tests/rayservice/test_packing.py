"""The packing never gives what is not there, and finds a place wherever there is one."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayservice.packing import UNIT, Demand, Machines, Packing, pack

HALF, WHOLE = UNIT // 2, UNIT


def machines(name: str, nodes: int = 1, gpus: int = 1, cpu: int = 100, memory: int = 100) -> Machines:
    return Machines(name, nodes, gpus, cpu * UNIT, memory)


def demand(name: str, units: int, on: str = "a", replicas: int = 1, cpu: int = 0, memory: int = 0) -> Demand:
    return Demand(name, replicas, cpu * UNIT, memory, dict.fromkeys(on, units))


def assert_never_over_committed(packing: Packing, demands: list[Demand], pools: list[Machines]) -> None:
    wanted, sizes = {one.name: one for one in demands}, {one.name: one for one in pools}
    gpus: Counter[tuple[str, int, int]] = Counter()
    cpu: Counter[tuple[str, int]] = Counter()
    memory: Counter[tuple[str, int]] = Counter()
    for place in packing.places:
        one, pool = wanted[place.name], sizes[place.pool]
        assert 0 <= place.node < pool.nodes
        assert all(0 <= at < pool.gpus for at in place.gpus)
        assert len(set(place.gpus)) == len(place.gpus) == -(-one.gpu[place.pool] // UNIT)
        gpus.update({(place.pool, place.node, at): place.units for at in place.gpus})
        cpu[place.pool, place.node] += one.cpu
        memory[place.pool, place.node] += one.memory
    assert all(units <= UNIT for units in gpus.values())
    assert all(taken <= sizes[pool].cpu for (pool, _), taken in cpu.items())
    assert all(taken <= sizes[pool].memory for (pool, _), taken in memory.items())
    placed = Counter(place.name for place in packing.places)
    left = {one.name for one in packing.unplaced}
    assert placed == {one.name: one.replicas for one in demands if one.name not in left and one.replicas}
    for one in demands:
        assert len({place.pool for place in packing.places if place.name == one.name}) <= 1


BY_HAND: list[tuple[str, list[Machines], list[Demand], list[str]]] = [
    ("halves share", [machines("a")], [demand("x", HALF), demand("y", HALF)], []),
    ("1.2 of one", [machines("a")], [demand("x", 6000), demand("y", 6000)], ["y"]),
    ("1.0001 of one", [machines("a")], [demand("x", HALF), demand("y", HALF + 1)], ["x"]),
    ("whole beside a fraction", [machines("a")], [demand("x", WHOLE), demand("y", 1)], ["y"]),
    ("two whole on one machine", [machines("a", gpus=2)], [demand("x", 2 * WHOLE)], []),
    ("two whole not on two machines", [machines("a", nodes=2)], [demand("x", 2 * WHOLE)], ["x"]),
    ("another pool", [machines("a"), machines("b")], [demand("x", WHOLE, "ab"), demand("y", WHOLE, "a")], []),
    ("its own pool only", [machines("a"), machines("b")], [demand("x", WHOLE), demand("y", WHOLE)], ["y"]),
    ("replicas in one pool", [machines("a"), machines("b")], [demand("x", WHOLE, "ab", replicas=2)], ["x"]),
    ("replicas on two machines", [machines("a", nodes=2)], [demand("x", WHOLE, replicas=2)], []),
    ("CPUs", [machines("a", cpu=4)], [demand("x", 0, cpu=3), demand("y", 0, cpu=2)], ["y"]),
    ("memory", [machines("a", memory=4)], [demand("x", 1, memory=3), demand("y", 1, memory=2)], ["y"]),
    # First fit, and best fit, put 0.4 beside 0.5 and leave 0.6 out: 0.6 + 0.4 and 0.5 + 0.5 is the only way.
    (
        "the only way",
        [machines("a", gpus=2)],
        [demand("u", 6000), demand("v", 5000), demand("w", 5000), demand("x", 4000)],
        [],
    ),
    (
        "backtracking over two resources",
        [machines("a", nodes=2, cpu=4)],
        [demand("u", 6000, cpu=1), demand("v", 5000, cpu=3), demand("w", 4000, cpu=3), demand("x", 3000, cpu=1)],
        [],
    ),
]


@pytest.mark.parametrize(("pools", "demands", "unplaced"), [case[1:] for case in BY_HAND], ids=[c[0] for c in BY_HAND])
def test_cases_worked_out_by_hand(pools: list[Machines], demands: list[Demand], unplaced: list[str]) -> None:
    packing = pack(demands, pools)
    assert_never_over_committed(packing, demands, pools)
    assert [one.name for one in packing.unplaced] == unplaced
    assert packing.exhaustive


def brute_force(demands: list[Demand], pools: list[Machines]) -> bool:
    """Whether all can be placed: every way to give every replica a machine and, if it shares one, a GPU."""
    slots = [(pool.name, node, gpu) for pool in pools for node in range(pool.nodes) for gpu in range(max(1, pool.gpus))]
    sizes = {pool.name: pool for pool in pools}
    replicas = [one for one in demands for _ in range(one.replicas)]
    ways = product(slots, repeat=len(replicas))
    return any(_holds(list(zip(replicas, chosen, strict=True)), sizes) for chosen in ways)


def _holds(chosen: list[tuple[Demand, tuple[str, int, int]]], sizes: dict[str, Machines]) -> bool:
    shared: Counter[tuple[str, int, int]] = Counter()
    whole: Counter[tuple[str, int]] = Counter()
    cpu: Counter[tuple[str, int]] = Counter()
    memory: Counter[tuple[str, int]] = Counter()
    pools: dict[str, set[str]] = {}
    for one, (pool, node, gpu) in chosen:
        if pool not in one.gpu:
            return False
        units = one.gpu[pool]
        if units >= UNIT:
            whole[pool, node] += units // UNIT
        else:
            shared[pool, node, gpu] += units
        cpu[pool, node] += one.cpu
        memory[pool, node] += one.memory
        pools.setdefault(one.name, set()).add(pool)
    for (pool, node), taken in cpu.items():
        started = sum(1 for key, units in shared.items() if key[:2] == (pool, node) and units)
        if started + whole[pool, node] > sizes[pool].gpus or taken > sizes[pool].cpu:
            return False
        if memory[pool, node] > sizes[pool].memory:
            return False
    return max(shared.values(), default=0) <= UNIT and all(len(one) == 1 for one in pools.values())


small_pools = st.lists(
    st.builds(
        machines, st.sampled_from("ab"), st.integers(1, 2), st.integers(0, 2), st.integers(1, 4), st.integers(1, 4)
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda one: one.name,
)
small_demands = st.lists(
    st.builds(
        demand,
        st.sampled_from("uvwxyz"),
        st.sampled_from([0, 2000, 3000, 4000, 5000, 6000, 7000, UNIT, 2 * UNIT]),
        st.sampled_from(["a", "b", "ab"]),
        st.integers(1, 2),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one.name,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(small_pools, small_demands)
def test_what_brute_force_can_place_is_placed_and_nothing_is_over_committed(
    pools: list[Machines], demands: list[Demand]
) -> None:
    there = {pool.name for pool in pools}
    demands = [
        Demand(d.name, d.replicas, d.cpu, d.memory, {k: v for k, v in d.gpu.items() if k in there}) for d in demands
    ]
    packing = pack(demands, pools)
    assert_never_over_committed(packing, demands, pools)
    slots = sum(pool.nodes * max(1, pool.gpus) for pool in pools)
    if slots ** sum(one.replicas for one in demands) <= 50_000:
        assert (not packing.unplaced) == brute_force(demands, pools)


def test_many_alike_are_packed_at_once() -> None:
    pools = [machines("a", nodes=20, gpus=8)]
    demands = [demand(f"m{i}", 3300, cpu=1, replicas=8) for i in range(50)]
    packing = pack(demands, pools)
    assert_never_over_committed(packing, demands, pools)
    assert not packing.unplaced


def test_what_cannot_be_searched_through_is_said() -> None:
    pools = [machines("a", nodes=10, cpu=10)]
    demands = [demand(f"m{i}", 1000 + 37 * i, cpu=i % 3) for i in range(70)]
    packing = pack(demands, pools)
    assert_never_over_committed(packing, demands, pools)
    assert packing.unplaced
    assert not packing.exhaustive
