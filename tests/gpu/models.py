"""What is checked of every model: the interface that `encoders`, `llms` and `whisper` implement, one class per model.

Instances are told to child processes, so they hold nothing but how large things are. Know nothing of processes.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from deployments import engines
from deployments.engines import LoadContext

Arrays = dict[str, npt.NDArray[Any]]
Kind = Literal["precise", "serving", "pressed"]
"""How a model is loaded: in float32; as one serves it; so, and with no bound on a batch but memory."""
Bound = Literal["torch", "vllm", "none"]


class Finding(NamedTuple):
    """One thing that was looked at, in words with its numbers, and whether it is as it should be."""

    text: str
    passed: bool


class Checked(ABC):
    """One model: how its checkpoint is made, what it is asked, and how its answers are judged."""

    name: ClassVar[str]
    engine: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """What it needs beyond torch and transformers, by the names that are imported."""
    checkpoint: ClassVar[str]
    """Models of the same checkpoint share its folder and what the CPU made of it."""
    memory_gib: ClassVar[float]
    """GPU memory that it asks for."""
    unit: ClassVar[str]
    """What its throughput counts."""
    clients: ClassVar[int]
    """Requests at once while throughput is measured."""
    bound: ClassVar[Bound]
    """What keeps it within its share: torch's allocator, vLLM's own, or nothing but its batches."""

    def __init__(self, tiny: bool) -> None:
        self.tiny = tiny

    @abstractmethod
    def make(self, folder: Path) -> None:
        """Write the checkpoint."""

    @abstractmethod
    def options(self, kind: Kind, on_gpu: bool) -> dict[str, Any]:
        """The engine's options."""

    @abstractmethod
    async def outputs(self, engine: Any) -> Arrays:
        """What the engine makes of inputs that are always the same."""

    @abstractmethod
    def judge(self, reference: Arrays, found: Arrays, kind: Kind) -> list[Finding]:
        """Compare `outputs` with those of the CPU in float32."""

    @abstractmethod
    async def ask(self, engine: Any, done: Callable[[float], None]) -> None:
        """One request of usual size; tells `done` how much of `unit` is done, as it is done."""

    @abstractmethod
    async def press(self, engine: Any, turn: int) -> int:
        """Ask for much at once, each turn for more. Returns how many inputs."""

    async def reference(self, folder: Path, cpus: int) -> Arrays:
        """What the CPU makes of the inputs of `outputs`, in float32."""
        engine = self.load(folder, "precise", context(self.name, cpus))
        try:
            return await self.outputs(engine)
        finally:
            engine.close()

    def load(self, folder: Path, kind: Kind, where: LoadContext) -> Any:
        """The engine, loaded as a replica loads it. Blocks."""
        engine = engines.find(self.engine)()
        options = engine.options_type.model_validate(self.options(kind, where.gpus > 0))
        engine.load(folder, options, where)
        return engine


def context(name: str, cpus: float, gpus: float = 0.0, **more: Any) -> LoadContext:
    """A `LoadContext` without a bound on what waits, which tells nobody."""
    return LoadContext(name, cpus, gpus, lambda: 1 << 40, **{"progress": lambda _: None, **more})


@functools.lru_cache(maxsize=8)  # clients ask over and over
def texts(count: int, shortest: int, longest: int, words: int, seed: int) -> list[str]:
    """So many texts of the tokenizers' words, `shortest` to `longest` of them each. Always the same ones."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(shortest, longest + 1, count)
    return [" ".join(f"w{i}" for i in chance.integers(0, words, length)) for length in lengths]


def within(what: str, value: float, most: float) -> Finding:
    """Whether a number is at most another one."""
    return Finding(f"{what} {value:.2g} (at most {most:g})", value <= most)
