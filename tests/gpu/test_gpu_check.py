"""The check itself, without a GPU: with models that are made up, and as a program on a bare machine."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest

from deployments.engines import LoadContext
from deployments.errors import EngineError
from tests.gpu import shares
from tests.gpu.bare import absent_on_a_bare_machine, program
from tests.gpu.check import Check
from tests.gpu.device import GIB, Device
from tests.gpu.encoders import Embedder, Reranker
from tests.gpu.llms import Llm, VllmLlm
from tests.gpu.meter import NO_GPU, Driver, Meter
from tests.gpu.models import Arrays, Bound, Checked, Finding, Kind, within
from tests.gpu.report import Report, Row, columns, show
from tests.gpu.shares import MODELS, Share, choose
from tests.gpu.whisper import Whisper


class Fake(Checked):
    """A model that is quick to load and always right."""

    name = "fake"
    engine = "none"
    checkpoint = "fake"
    memory_gib = 1
    unit = "things/s"
    clients = 2
    bound: ClassVar[Bound] = "none"

    def make(self, folder: Path) -> None:
        folder.mkdir()

    def options(self, kind: Kind, on_gpu: bool) -> dict[str, Any]:
        return {"kind": kind}

    def load(self, folder: Path, kind: Kind, where: LoadContext) -> Any:
        where.progress("loading nothing")
        return SimpleNamespace(close=lambda: None)

    async def outputs(self, engine: Any) -> Arrays:
        return {"numbers": np.arange(3.0)}

    def judge(self, reference: Arrays, found: Arrays, kind: Kind) -> list[Finding]:
        return [within("difference", float(np.abs(reference["numbers"] - found["numbers"]).max()), 0.1)]

    async def ask(self, engine: Any, done: Callable[[float], None]) -> None:
        await asyncio.sleep(0.001)
        done(1)

    async def press(self, engine: Any, turn: int) -> int:
        return 10


class Wrong(Fake):
    """Answers otherwise than the CPU."""

    name = "wrong"
    checkpoint = "wrong"

    async def reference(self, folder: Path, cpus: int) -> Arrays:
        return {"numbers": np.arange(3.0) + 1}


class Dying(Fake):
    """Its process ends in the middle of the work."""

    name = "dying"
    checkpoint = "dying"

    async def ask(self, engine: Any, done: Callable[[float], None]) -> None:
        print("it was too much for me", flush=True)
        os._exit(3)


class Unmade(Fake):
    """Has no checkpoint."""

    name = "unmade"
    checkpoint = "unmade"

    def make(self, folder: Path) -> None:
        raise OSError("the disk is full")


class Refusing(Fake):
    """Has no memory when it is asked for much."""

    name = "refusing"
    checkpoint = "refusing"

    async def press(self, engine: Any, turn: int) -> int:
        raise EngineError("out of memory")


def checked(folder: Path, driver: Driver, *models: type[Checked], part: float = 0.0) -> dict[str, Row]:
    """The rows of a check of these models, on shares of so many bytes."""
    looking, report = Meter(driver), Report("nowhere")
    made = [Share(model(tiny=True), part, int(part * 10_000)) for model in models]
    try:
        Check(made, looking, folder, 0.1).run(report)
    finally:
        looking.end()
    assert not psutil.Process().children(recursive=True) or _only_trackers()
    show(report)
    return {row.model: row for row in report.rows}


def _only_trackers() -> bool:
    """Whether nothing is left but what Python itself keeps for spawned processes."""
    return all("resource_tracker" in " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True))


def failures(row: Row) -> list[str]:
    return [one.text for one in row.findings if not one.passed]


@pytest.mark.slow
def test_what_one_model_fails_at_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = checked(tmp_path, NO_GPU, Fake, Wrong, Dying, Unmade, Refusing)
    assert rows["fake"].passed
    assert "others (1) answer as before" in rows["fake"].findings[-1].text
    assert rows["fake"].alone
    assert rows["fake"].together
    assert failures(rows["wrong"])[:2] == [f"{how}: difference 1 (at most 0.1)" for how in ("float32", "as served")]
    assert failures(rows["dying"]) == ["alone: its process ended, with status 3"]
    assert failures(rows["unmade"]) == ["checkpoint: OSError: the disk is full"]
    assert "refused: out of memory" in failures(rows["refusing"])[0]
    printed = capsys.readouterr().out
    assert "it was too much for me" in printed
    assert "FAILED: wrong, dying, unmade, refusing" in printed


@pytest.mark.parametrize(("held", "fits"), [(900, True), (1100, False)])
@pytest.mark.slow
def test_a_model_that_holds_more_than_its_share_fails(tmp_path: Path, held: int, fits: bool) -> None:
    driver = Driver(lambda: {one.pid: held for one in psutil.Process().children()}, lambda: 0)
    row = checked(tmp_path, driver, Fake, part=0.1)["fake"]
    assert (row.peak_bytes, row.pressed_bytes) == (held, held)
    assert row.passed == fits


def test_shares_are_what_models_ask_for_and_those_without_room_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "missing", lambda _: [])
    monkeypatch.setattr(shares, "misfit", lambda *_: "")
    names = [one.name for one in MODELS]
    large, none = choose(names, False, Device(140 * GIB, 0))
    assert not none
    assert sum(one.part for one in large) < 0.3
    assert all(0 <= one.bytes - one.model.memory_gib * GIB < 2 * GIB for one in large)
    small, left_out = choose(names, False, Device(24 * GIB, GIB))
    assert [one.model.name for one in small] == ["embedder", "reranker", "llm", "whisper"]
    assert "asks for 12" in left_out["llm-vllm"]
    assert choose(names, False, Device(24 * GIB, 23 * GIB))[0] == []


def test_models_whose_packages_are_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "missing", lambda packages: [one for one in packages if one == "ctranslate2"])
    chosen, left_out = choose(["embedder", "whisper"], True, None)
    assert [one.model.name for one in chosen] == ["embedder"]
    assert left_out == {"whisper": "needs ctranslate2, not installed here"}


VECTORS = np.eye(4, dtype=np.float32)
TOKENS, MARGINS = np.arange(192).reshape(16, 12), np.ones((16, 12))
SCORES = np.linspace(0, 1, 24).reshape(2, 12)
HEARD, LIKELY = np.random.default_rng(0).standard_normal((2, 1, 9, 4)), np.full((2, 99), 0.01)


@pytest.mark.parametrize(
    ("model", "right", "wrong"),
    [
        (Embedder, {"vectors": VECTORS}, {"vectors": VECTORS[::-1]}),
        (Reranker, {"scores": SCORES}, {"scores": SCORES[:, ::-1]}),
        (Llm, {"tokens": TOKENS, "margins": MARGINS}, {"tokens": TOKENS + (TOKENS == 100)}),
        (VllmLlm, {"tokens": TOKENS, "margins": MARGINS}, {"tokens": TOKENS + (TOKENS == 0)}),
        (
            Whisper,
            {"encoded": HEARD, "languages": HEARD[:, 0, 0]},
            {"encoded": HEARD[::-1], "languages": HEARD[:, 0, 0]},
        ),
    ],
)
@pytest.mark.parametrize("kind", ["precise", "serving", "pressed"])
def test_wrong_answers_are_found(model: type[Checked], right: Arrays, wrong: Arrays, kind: Kind) -> None:
    assert all(one.passed for one in model(tiny=True).judge(right, right, kind))
    assert not all(one.passed for one in model(tiny=True).judge(right, wrong, kind))


def test_tokens_after_one_that_is_not_clear_do_not_count() -> None:
    margins = MARGINS.copy()
    margins[3, 5] = 0.005
    other = TOKENS.copy()
    other[3, 5:] = 0
    found = Llm(tiny=True).judge({"tokens": TOKENS, "margins": margins}, {"tokens": other}, "precise")
    assert all(one.passed for one in found)
    assert "185 of 185" in found[0].text


def test_few_clear_tokens_are_not_enough() -> None:
    answers = {"tokens": TOKENS, "margins": np.zeros((16, 12))}
    assert not all(one.passed for one in Llm(tiny=True).judge(answers, answers, "precise"))


def test_the_table_stands_without_rich() -> None:
    assert columns([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d"]


def test_what_the_check_needs_is_said_where_it_is_missing(tmp_path: Path) -> None:
    with program(site=tmp_path, absent=["pydantic", "psutil"]) as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "does not have: psutil, pydantic." in said
    assert "pip install pydantic psutil" in " ".join(said.split())


@pytest.mark.slow
def test_without_a_gpu_nothing_is_checked() -> None:
    with program() as running:
        _, said = running.communicate(timeout=120)
    assert running.returncode == 2
    assert "sees none" in " ".join(said.split())


def test_an_unknown_model_is_refused_with_the_names() -> None:
    with program("--models", "tts") as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "unknown model tts; have: embedder, reranker, llm, llm-vllm, whisper" in said


@pytest.mark.slow
def test_when_it_is_interrupted_nothing_is_left() -> None:
    with program("--cpu", "--tiny") as running:
        assert running.stdout
        assert "making a checkpoint" in running.stdout.readline()
        children = psutil.Process(running.pid).children(recursive=True)
        began_s = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "interrupted" in said
    assert time.monotonic() - began_s < 20
    assert not psutil.wait_procs(children, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_where_torch_transformers_and_sentence_transformers_are_all(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["--cpu", "--tiny", "--seconds", "0.5", "--json", str(out)]
    with program(*arguments, site=tmp_path, absent=absent_on_a_bare_machine()) as running:
        printed, said = running.communicate(timeout=560)
    assert running.returncode == 0, printed + said
    found = json.loads(out.read_text())
    assert found["passed"]
    assert [row["model"] for row in found["rows"]] == ["embedder", "reranker", "llm"]
    assert all(row["alone"] and row["together"] for row in found["rows"])
    assert set(found["left_out"]) == {"llm-vllm", "whisper"}
    assert "Left out: whisper: needs faster_whisper, ctranslate2, not installed here" in printed
