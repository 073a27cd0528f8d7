"""The harness: who is measured when, and what one side's failure does to the others."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import harness, results, scenarios, summary
from benchmarks.processes import running
from benchmarks.scenario import Figures, Scenario, Server, Side, Unavailable

QUIET = Console(quiet=True)


class Recorded:
    """Sides that write down when they start, are measured and end."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def side(self, name: str, once: bool = False) -> Side:
        @contextmanager
        def start(folder: Path) -> Iterator[Server]:
            self.seen.append(f"+{name}")
            yield Server(folder)
            self.seen.append(f"-{name}")

        def measure(_: Server) -> Figures:
            self.seen.append(name)
            return {"case": {"p50 ms": float(len(self.seen))}}

        return Side(name, start, measure, once)


def test_sides_are_started_measured_and_ended_in_turn() -> None:
    recorded = Recorded()
    sides = (recorded.side("a"), recorded.side("b"), recorded.side("ceiling", once=True))
    outcome = harness.run(Scenario("x", "", sides), 2, QUIET)
    first = ["+a", "a", "-a", "+b", "b", "-b", "+ceiling", "ceiling", "-ceiling"]
    assert recorded.seen == [*first, "+a", "a", "-a", "+b", "b", "-b"]
    assert len(outcome.rounds) == 2


def test_a_peer_that_cannot_be_had_is_named_and_the_others_go_on() -> None:
    @contextmanager
    def absent(_: Path) -> Iterator[Server]:
        raise Unavailable("it could not be installed")
        yield

    recorded = Recorded()
    sides = (recorded.side("a"), Side("peer", absent, lambda _: {}), recorded.side("b"))
    outcome = harness.run(Scenario("x", "", sides), 2, QUIET)
    assert outcome.unavailable == {"peer": "it could not be installed"}
    assert all(set(one) == {"a", "b"} for one in outcome.rounds)


def test_a_server_that_ends_by_itself_says_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(Unavailable, match="no such model"),
        running(["sh", "-c", "echo no such model"], lambda: False, tmp_path / "log"),
    ):
        raise AssertionError("it was not ready")


def test_what_a_server_started_ends_with_it(tmp_path: Path) -> None:
    import psutil

    ready = tmp_path / "ready"
    script = f"sleep 60 & echo $! > {ready}.part; mv {ready}.part {ready}; wait"
    with running(["sh", "-c", script], ready.exists, tmp_path / "log"):
        child = psutil.Process(int(ready.read_text()))
        assert child.is_running()
    give_up_s = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < give_up_s, "it was not ended"
        time.sleep(0.01)


def test_every_scenario_is_found_by_its_file_and_judges_what_it_measures() -> None:
    found = harness.find()
    files = {file.stem for file in Path(scenarios.__file__ or "").parent.glob("*.py")} - {"__init__"}
    assert set(found) == files
    for scenario in found.values():
        names = {side.name for side in scenario.sides}
        assert {target.of for target in scenario.targets} <= names
        assert {target.peer for target in scenario.targets if target.peer} <= names


def test_results_are_kept_with_where_they_were_measured(tmp_path: Path) -> None:
    outcome = harness.run(Scenario("x", "about it", (Recorded().side("a"),)), 1, QUIET)
    results.write(outcome, tmp_path)
    kept = results.read(tmp_path)["x"]
    assert kept["machine"]["cores"] > 0
    assert kept["versions"]["python"]
    assert kept["summary"][0]["median"] == list(summary.Spread(2, 2, 2))
