"""Histograms and counts that are told to Ray in sums: the series that Prometheus expects."""

import asyncio

import pytest

from deployments import histogram
from deployments.histogram import Count, Histogram

Told = list[tuple[str, float, dict[str, str]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What Ray was told: name, value and tags."""
    found: Told = []

    class Series:
        def __init__(self, name: str, _says: str, _tags: tuple[str, ...]) -> None:
            self._name = name

        def record(self, value: float, tags: dict[str, str]) -> None:
            found.append((self._name, value, tags))

        inc = record

    monkeypatch.setattr(histogram, "CythonSum", Series)
    monkeypatch.setattr(histogram, "Counter", Series)
    monkeypatch.setattr(histogram, "TELL_S", 0.01)
    return found


async def test_buckets_hold_all_up_to_their_bound(told: Told) -> None:
    times = Histogram("took", "says", [0.1, 1.0], {"model_name": "m"})
    for value in (0.05, 0.1, 0.5, 7):
        times.observe(value)
    assert told == []
    await asyncio.sleep(0.05)
    assert [(name, value, tags.get("le")) for name, value, tags in told] == [
        ("took_bucket", 2, "0.1"),
        ("took_bucket", 3, "1.0"),
        ("took_bucket", 4, "+Inf"),
        ("took_sum", pytest.approx(7.65), None),
        ("took_count", 4, None),
    ]
    assert all(tags["model_name"] == "m" for _, _, tags in told)


async def test_each_value_is_told_once(told: Told) -> None:
    times, count = Histogram("took", "says", [1.0], {}), Count("requests", "says", {})
    for _ in range(2):
        times.observe(0.5)
        count.add(1)
        count.add(2)
        await asyncio.sleep(0.05)
    assert [value for name, value, _ in told if name == "took_count"] == [1, 1]
    assert [value for name, value, _ in told if name == "requests"] == [3, 3]


def test_without_an_event_loop_it_is_told_at_once(told: Told) -> None:
    Histogram("took", "says", [1.0], {}).observe(0.5)
    assert ("took_count", 1, {}) in told
