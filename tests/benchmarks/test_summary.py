"""The arithmetic of benchmarks: medians, ratios with spread, exponents, and what is asked."""

import pytest

from benchmarks import summary, tables
from benchmarks.results import Result
from benchmarks.scenario import Target
from benchmarks.summary import Round, Spread


def rounds_of(*pairs: tuple[float, float], metric: str = "requests/s") -> list[Round]:
    return [{"us": {"a": {metric: ours}}, "peer": {"a": {metric: theirs}}} for ours, theirs in pairs]


def test_a_median_comes_with_the_lowest_and_the_highest_round() -> None:
    assert summary.median(rounds_of((3, 1), (1, 1), (2, 1)), "us", "a", "requests/s") == Spread(2, 1, 3)


def test_a_ratio_is_of_medians_and_its_spread_of_rounds() -> None:
    found = summary.ratio(rounds_of((100, 50), (200, 100), (300, 50)), "us", "peer", "a", "requests/s")
    assert found == Spread(4.0, 2.0, 6.0)


def test_a_side_that_is_missing_has_no_ratio_and_its_target_is_not_measured() -> None:
    rounds: list[Round] = [{"us": {"a": {"requests/s": 1.0}}}]
    assert summary.ratio(rounds, "us", "peer", "a", "requests/s") is None
    target = Target("a", "requests/s", "peer", least=1.0, of="us")
    assert summary.judge(rounds, target, {}).met is None


@pytest.mark.parametrize(("least", "met"), [(1.9, True), (2.0, True), (2.1, False)])
def test_a_target_is_met_from_its_bound_on(least: float, met: bool) -> None:
    target = Target("a", "requests/s", "peer", least=least, of="us")
    assert summary.judge(rounds_of((2, 1)), target, {}).met is met


@pytest.mark.parametrize(("most", "met"), [(1.5, False), (2.0, True)])
def test_a_difference_is_in_the_metrics_own_unit(most: float, met: bool) -> None:
    target = Target("a", "p50 ms", "peer", most=most, kind="difference", of="us")
    found = summary.judge(rounds_of((3, 1), (3, 1), metric="p50 ms"), target, {})
    assert (found.found, found.met) == (Spread(2, 2, 2), met)


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power: float) -> None:
    places = [1.0, 10.0, 100.0]
    assert summary.exponent(places, [7 * x**power for x in places]) == pytest.approx(power)


@pytest.mark.parametrize(("places", "heights"), [([1.0], [1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 1.0])])
def test_growth_of_nothing_is_refused(places: list[float], heights: list[float]) -> None:
    with pytest.raises(ValueError, match="growth"):
        summary.exponent(places, heights)


def result_of(rounds: list[Round], targets: list[dict[str, object]]) -> Result:
    found = summary.ratio(rounds, "us", "peer", "a", "requests/s")
    rows = [
        {"case": "a", "metric": "requests/s", "side": side, "median": summary.median(rounds, side, "a", "requests/s")}
        for side in ("us", "peer")
    ]
    rows[1]["ratio"] = found
    return {"sides": ["us", "peer"], "summary": rows, "targets": targets}


def test_the_table_shows_the_peers_median_and_our_multiple_of_it() -> None:
    lines = tables.figures(result_of(rounds_of((1500, 1000)), [])).splitlines()
    assert lines[0] == "|  | us | peer |"
    assert lines[2] == "| a: requests/s | 1,500 | 1,000 (×1.50, 1.50–1.50) |"


def test_a_target_that_is_missed_says_no() -> None:
    target = {"case": "a", "metric": "requests/s", "peer": "peer", "least": 2.0, "most": None, "kind": "ratio"}
    missed = {**target, "of": "serve_app", "found": (1.5, 1.4, 1.6), "met": False}
    assert tables.targets(result_of([], [missed]) | {}).splitlines()[2] == (
        "| a: requests/s ≥ 2 × peer's | 1.50 (1.40–1.60) | **no** |"
    )


def test_what_is_worse_is_named_worst_first() -> None:
    rounds = rounds_of((50, 100))
    result = result_of(rounds, [])
    result["summary"].append({"case": "b", "metric": "p50 ms", "side": "peer", "ratio": (4.0, 4.0, 4.0)})
    result["summary"].append({"case": "c", "metric": "p50 ms", "side": "peer", "ratio": (0.5, 0.5, 0.5)})
    assert tables.losses(result) == ["b, p50 ms: 4.00 × peer's", "a, requests/s: 0.50 × peer's"]


def test_a_result_replaces_what_the_page_had_between_its_marks() -> None:
    page = tables.put(tables.put("# Page\n", "iris", "old"), "llm", "other")
    page = tables.put(page, "iris", "new")
    assert "old" not in page
    assert page.index("new") < page.index("## llm")
    assert page.count("<!-- results: iris -->") == 1
