"""The check: every model alone on its share, then all together, then each asked for more than its share has room for.

Every model has a process of its own on the one GPU, as replicas do. What one fails at is a finding; the others go on.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.gpu.child import Job
from tests.gpu.meter import Meter
from tests.gpu.models import Finding, Kind
from tests.gpu.processes import END_S, HURRY_S, Child, Failed, answers, ask
from tests.gpu.report import GIB, Report, Row
from tests.gpu.shares import Share

PREPARE_S, LOAD_S, COMPARE_S, PRESS_S = 900.0, 600.0, 120.0, 240.0
"""How long each may take; CPUs may be few, and vLLM compiles."""
SPARE_S = 60.0
"""How much longer than asked a measurement may take: warming up, and ending what was begun."""
WARM_S = 2.0
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
HOW: dict[Kind, str] = {"precise": "float32", "serving": "as served", "pressed": "asked for too much"}


class Check:
    """One run over these models. `folder` is for checkpoints and logs, of which nothing is kept."""

    def __init__(self, shares: Sequence[Share], meter: Meter, folder: Path, seconds: float) -> None:
        self._shares, self._meter, self._folder, self._seconds = shares, meter, folder, seconds
        self._began_s = time.monotonic()
        self._started: list[Child] = []
        self._children: dict[str, Child] = {}
        """Those that are up, by model."""
        self.rows = {
            one.model.name: Row(one.model.name, one.model.engine, one.model.unit, one.part, one.bytes) for one in shares
        }

    def run(self, report: Report) -> None:
        """Do all of it, and leave no process behind."""
        report.rows, patience_s = list(self.rows.values()), HURRY_S
        try:
            for share in self._prepare():
                self._begin(share)
            self._together()
            for name in self.rows:
                if name in self._children:  # another may have brought it down
                    self._press(name)
            patience_s = END_S
        finally:
            for child in self._started:
                child.end(patience_s)
        report.basis, report.took_s = self._meter.basis, time.monotonic() - self._began_s

    def _prepare(self) -> list[Share]:
        """Have the checkpoints made, and the CPU's answers. Returns the models whose are there."""
        first = {one.model.checkpoint: one for one in reversed(self._shares)}
        cpus = max(1, (os.cpu_count() or 1) // len(first))
        children = {name: self._start(one, cpus, NO_GPU, share=0.0) for name, one in first.items()}
        for child in children.values():
            self._tell(child.name, "making a checkpoint")
            child.say("prepare")
        answered = dict(answers(list(children.values()), PREPARE_S))
        failures = {name: answered[child] for name, child in children.items() if isinstance(answered[child], Failed)}
        for child in children.values():
            child.end()
        for one in self._shares:
            if one.model.checkpoint in failures:
                self._fail(one.model.name, "checkpoint", failures[one.model.checkpoint])
                print(children[one.model.checkpoint].last_lines(), flush=True)
        return [one for one in self._shares if one.model.checkpoint not in failures]

    def _begin(self, share: Share) -> None:
        """Start a model's process, compare what it answers, and measure it alone."""
        name = share.model.name
        child = self._children[name] = self._start(share, os.cpu_count() or 1, {}, share.part)
        self._meter.follow(name, child.pid)
        with self._noting(name, "alone"), self._meter.alone(name):
            for kind in ("precise", "serving"):
                self._tell(name, f"loading, {HOW[kind]}")
                ask(child, "load", kind, limit_s=LOAD_S)
                self.rows[name].add(HOW[kind], *ask(child, "compare", kind, limit_s=COMPARE_S))
            self._tell(name, f"measuring alone, {self._seconds:g} s")
            asked = ("measure", time.time() + WARM_S, self._seconds)
            self.rows[name].alone = ask(child, *asked, limit_s=WARM_S + self._seconds + SPARE_S)
            self._note_rate(name, "alone", self.rows[name].alone)

    def _together(self) -> None:
        """Measure all at once."""
        begin_s = time.time() + WARM_S
        for child in self._children.values():
            self._tell(child.name, f"measuring together, {self._seconds:g} s")
            child.say("measure", begin_s, self._seconds)
        for child, answer in answers(list(self._children.values()), WARM_S + self._seconds + SPARE_S):
            if isinstance(answer, Failed):
                self._fail(child.name, "together", answer)
            else:
                self.rows[child.name].together = answer
                self._note_rate(child.name, "together", answer)
        peaks = self._meter.peaks()
        for name in self._children:
            self.rows[name].peak_bytes = self._note_share(name, "in use", peaks.get(name))

    def _press(self, name: str) -> None:
        """Ask a model for too much, and see that it, and all others, answer as before."""
        row = self.rows[name]
        self._tell(name, "asking for more than its share has room for")
        with self._noting(name, HOW["pressed"]), self._meter.alone(name):
            row.add(HOW["pressed"], *ask(self._children[name], "press", limit_s=PRESS_S))
        row.pressed_bytes = self._note_share(name, HOW["pressed"], self._meter.peaks().get(name))
        others = [child for child in self._children.values() if child.name != name and self.rows[child.name].passed]
        for child in others:
            child.say("compare", "serving")
        wrong: list[Finding] = []
        for child, answer in answers(others, COMPARE_S):
            if isinstance(answer, Failed):
                self._fail(child.name, f"while {name} was asked for too much", answer)
            else:
                wrong += [Finding(f"{child.name} then: {one.text}", False) for one in answer if not one.passed]
        row.add(HOW["pressed"], *wrong or [Finding(f"the others ({len(others)}) answer as before", True)])

    def _note_rate(self, name: str, when: str, rate: float | None) -> None:
        done = f"{rate:.1f} {self.rows[name].unit}" if rate else f"nothing was done in {self._seconds:g} s"
        self.rows[name].add(when, Finding(done, bool(rate)))

    def _note_share(self, name: str, when: str, held: int | None) -> int | None:
        """Whether what was held is within the share, where there is a GPU. Returns it where it was seen."""
        row = self.rows[name]
        if not row.share:
            return None
        seen = f"{held / GIB:.2f} GiB" if held else "an unseen amount"
        found = f"{seen} held, of a share of {row.share_bytes / GIB:.2f} GiB"
        row.add(when, Finding(found, 0 < (held or 0) <= row.share_bytes))
        return held

    def _start(self, one: Share, cpus: int, environment: dict[str, str], share: float) -> Child:
        model = one.model
        folder, log = self._folder / model.checkpoint, self._folder / f"{model.name}.log"
        child = Child(Job(model, folder, log, cpus, share, {**ENVIRONMENT, **environment}), self._tell)
        self._started.append(child)
        return child

    @contextlib.contextmanager
    def _noting(self, name: str, when: str) -> Iterator[None]:
        try:
            yield
        except Failed as error:
            self._fail(name, when, error)

    def _fail(self, name: str, when: str, error: Failed) -> None:
        """Note what a model failed at, show what its libraries said, and end its process."""
        self._tell(name, f"FAILED: {error}")
        self.rows[name].add(when, Finding(str(error), False))
        child = self._children.pop(name, None)
        if child:
            print(child.last_lines(), flush=True)
            child.end()

    def _tell(self, name: str, what: str) -> None:
        print(f"[{time.monotonic() - self._began_s:4.0f} s] {name}: {what}", flush=True)
