"""Medians, ratios with their spread, exponents of growth, and whether targets are met. Knows nothing of files."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.scenario import Figures, Target

Round = dict[str, Figures]
"""What one round measured: side → figures."""


class Spread(NamedTuple):
    """A median, or a ratio of medians, with the lowest and the highest that a round gave."""

    middle: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Verdict:
    """What was found of a target: `found` and `met` are None where a side was not measured."""

    target: Target
    found: Spread | None
    met: bool | None


def cases_and_metrics(rounds: Sequence[Round]) -> list[tuple[str, str]]:
    """Every pair of case and metric, in the order in which they were measured first."""
    pairs: dict[tuple[str, str], None] = {}
    for one in rounds:
        for figures in one.values():
            for case, metrics in figures.items():
                pairs.update(dict.fromkeys((case, metric) for metric in metrics))
    order = {case: at for at, case in enumerate(dict.fromkeys(case for case, _ in pairs))}
    return sorted(pairs, key=lambda pair: order[pair[0]])


def values(rounds: Sequence[Round], side: str, case: str, metric: str) -> list[float]:
    """That figure of that side in every round that has it."""
    found = (one.get(side, {}).get(case, {}).get(metric) for one in rounds)
    return [value for value in found if value is not None]


def median(rounds: Sequence[Round], side: str, case: str, metric: str) -> Spread | None:
    """The median over rounds; None where no round has the figure."""
    found = values(rounds, side, case, metric)
    return Spread(statistics.median(found), min(found), max(found)) if found else None


def ratio(rounds: Sequence[Round], ours: str, peer: str, case: str, metric: str) -> Spread | None:
    """Our median over the peer's; the spread is of ratios within one round each, taken minutes apart at most."""
    mine, theirs = median(rounds, ours, case, metric), median(rounds, peer, case, metric)
    if mine is None or theirs is None or not theirs.middle:
        return None
    pairs = [
        one[ours][case][metric] / one[peer][case][metric]
        for one in rounds
        if values([one], ours, case, metric) and any(values([one], peer, case, metric))
    ]
    middle = mine.middle / theirs.middle
    return Spread(middle, min([*pairs, middle]), max([*pairs, middle]))


def difference(rounds: Sequence[Round], ours: str, peer: str, case: str, metric: str) -> Spread | None:
    """Our median less the peer's, with the spread of differences within one round each."""
    mine, theirs = median(rounds, ours, case, metric), median(rounds, peer, case, metric)
    if mine is None or theirs is None:
        return None
    pairs = [
        one[ours][case][metric] - one[peer][case][metric]
        for one in rounds
        if values([one], ours, case, metric) and values([one], peer, case, metric)
    ]
    middle = mine.middle - theirs.middle
    return Spread(middle, min([*pairs, middle]), max([*pairs, middle]))


def exponent(places: Sequence[float], heights: Sequence[float]) -> float:
    """The `b` of `a * x**b` that fits best, by least squares of the logarithms.

    Raises `ValueError` for fewer than two different places, and for a place or height that is not positive.
    """
    if any(value <= 0 for value in (*places, *heights)) or len(set(places)) < 2:
        raise ValueError("growth needs two places at least, and positive figures")
    return statistics.linear_regression([math.log(x) for x in places], [math.log(y) for y in heights]).slope


def growth(rounds: Sequence[Round], side: str, metric: str, axis: dict[str, float]) -> float | None:
    """The exponent with which that side's metric grows along the axis; None where under two cases have it."""
    found = {x: median(rounds, side, case, metric) for case, x in axis.items()}
    points = [(x, spread.middle) for x, spread in found.items() if spread and spread.middle > 0]
    return exponent(*zip(*points, strict=True)) if len(points) > 1 else None


def judge(rounds: Sequence[Round], target: Target, axis: dict[str, float]) -> Verdict:
    """What was found of that target, and whether it is met."""
    if target.kind == "ratio":
        found = ratio(rounds, target.of, target.peer, target.case, target.metric)
    elif target.kind == "difference":
        found = difference(rounds, target.of, target.peer, target.case, target.metric)
    elif target.kind == "value":
        found = median(rounds, target.of, target.case, target.metric)
    else:
        grown = growth(rounds, target.of, target.metric, axis)
        found = None if grown is None else Spread(grown, grown, grown)
    if found is None:
        return Verdict(target, None, None)
    enough = target.least is None or found.middle >= target.least
    return Verdict(target, found, enough and (target.most is None or found.middle <= target.most))
