"""The process of one model, as a replica is one: loads the engine, and does what it is told through a pipe.

It is told `(verb, arguments)`, and says `("progress", text)` any number of times, then `("done", result)` or
`("failed", reason)`. It ends when the pipe does, and is killed, with what it has started, when its parent ends.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from deployments.engines._hosting import end_with_parent
from deployments.errors import EngineError
from tests.gpu.models import Checked, Finding, Kind, context

TURNS = 6
"""How often at most more is asked for, four times as much each time."""


@dataclass(frozen=True)
class Job:
    """What a process is for."""

    model: Checked
    folder: Path
    """Of the checkpoint."""
    log: Path
    """Where everything goes that libraries print."""
    cpus: int
    share: float
    """Of the GPU; 0 for the CPU."""
    environment: dict[str, str] = field(default_factory=dict)


def run(pipe: Connection, job: Job) -> None:
    """The body of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ |= job.environment
    with job.log.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    end_with_parent()
    asyncio.run(_serve(pipe, job))


async def _serve(pipe: Connection, job: Job) -> None:
    worker = Worker(job, lambda text: pipe.send(("progress", text)))
    verbs: dict[str, Callable[..., Awaitable[Any]]] = {
        "prepare": worker.prepare,
        "load": worker.load,
        "compare": worker.compare,
        "measure": worker.measure,
        "press": worker.press,
    }
    with contextlib.suppress(EOFError, BrokenPipeError):
        while (told := await asyncio.to_thread(pipe.recv)) is not None:
            verb, arguments = told
            try:
                answer = ("done", await verbs[verb](*arguments))
            except Exception as error:
                answer = ("failed", f"{type(error).__name__}: {error}")
            pipe.send(answer)
    await worker.close()


class Worker:
    """What the process can be told to do."""

    def __init__(self, job: Job, tell: Callable[[str], None]) -> None:
        self._job, self._model, self._tell = job, job.model, tell
        self._engine: Any = None
        self._options: dict[str, Any] = {}

    async def prepare(self) -> None:
        """Make the checkpoint, and keep beside it what the CPU makes of it in float32."""
        began_s = time.monotonic()
        await asyncio.to_thread(self._model.make, self._job.folder)
        self._tell(f"checkpoint made in {time.monotonic() - began_s:.0f} s; asking the CPU")
        arrays = await self._model.reference(self._job.folder, self._job.cpus)
        np.savez(self._reference, **arrays)  # type: ignore[arg-type]  # numpy's types forbid it since 2.3

    async def load(self, kind: Kind) -> None:
        """Load the engine, in the place of the one that is loaded, if that has other options."""
        options = self._model.options(kind, self._job.share > 0)
        if self._engine and options == self._options:
            return
        await self.close()
        self._options = options
        loop = asyncio.get_running_loop()
        where = context(self._model.name, self._job.cpus, self._job.share, progress=self._tell, loop=loop)
        self._engine = await asyncio.to_thread(self._model.load, self._job.folder, kind, where)

    async def close(self) -> None:
        """Close the engine, if one is loaded."""
        engine, self._engine = self._engine, None
        if engine:
            await asyncio.to_thread(engine.close)

    async def compare(self, kind: Kind) -> list[Finding]:
        """What the engine answers now beside what the CPU answered."""
        with np.load(self._reference) as reference:
            return self._model.judge(dict(reference), await self._model.outputs(self._engine), kind)

    async def measure(self, begin_s: float, seconds: float) -> float:
        """Units per second from `begin_s` (`time.time()`) on; what is asked before that warms up."""
        counted, end_s = 0.0, begin_s + seconds

        def done(units: float) -> None:
            nonlocal counted
            if begin_s <= time.time() < end_s:
                counted += units

        async def client() -> None:
            while True:
                await self._model.ask(self._engine, done)

        clients = [asyncio.create_task(client()) for _ in range(self._model.clients)]
        failed, _ = await asyncio.wait(clients, timeout=end_s - time.time(), return_when=asyncio.FIRST_EXCEPTION)
        for one in clients:
            one.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for one in failed:
            await one
        return counted / seconds

    async def press(self) -> list[Finding]:
        """Ask for more than the share has room for, then see whether all is as before."""
        await self.load("pressed")
        asked, before, refused = 0, self._failures(), ""
        for turn in range(TURNS if self._bounded else 1):
            try:
                asked = await self._model.press(self._engine, turn)
            except EngineError as error:
                refused = f"; refused: {error}"
            self._tell(f"asked for {asked} at once{refused}")
            if refused or self._failures() > before:
                break
        found = self._reached(asked, self._failures() - before, refused)
        return [found, *await self.compare("pressed")]

    @property
    def _bounded(self) -> bool:
        return self._model.bound == "torch" and self._job.share > 0

    def _reached(self, asked: int, failures: int, refused: str) -> Finding:
        if not self._bounded:
            bound = {"torch": "no GPU", "vllm": "vLLM's cache bounds it", "none": "its batches bound it"}
            return Finding(f"asked for {asked} at once{refused} ({bound[self._model.bound]})", not refused)
        answer = refused or "; all were answered, in smaller batches"
        found = f"{failures} allocations beyond the share failed at {asked} inputs at once{answer}"
        return Finding(found, failures > 0)

    @property
    def _reference(self) -> Path:
        return self._job.folder.with_suffix(".npz")

    def _failures(self) -> int:
        """How often torch's allocator has had no memory left in this process."""
        if not self._bounded:
            return 0
        import torch

        return int(torch.cuda.memory_stats().get("num_ooms", 0))
