"""Engines: one file each, found by its name. The interfaces they implement, one per task, are here.

An engine file defines a class `Engine`. It imports its heavy library inside `load()`, computes in
a thread of its own, and knows nothing of HTTP. Adding one is adding its file.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from deployments.errors import BadRequest
from deployments.settings import Frozen

Task = Literal["embed", "rerank"]
Truncate = Literal["end", "error"]
Text = str | list[int]
"""A text, or the ids of its tokens in the model's own vocabulary."""


@dataclass(frozen=True)
class LoadContext:
    """What an engine may know of where it runs: the model's name, the CPUs and GPUs that it reserves."""

    name: str
    cpus: float
    gpus: float
    max_queue: Callable[[], int]
    """How many inputs may wait for the engine now."""
    progress: Callable[[str], None]
    """Told what is being done now, for people who wait."""


class Engine(Protocol):
    """What every engine has, whatever its task."""

    task: ClassVar[Task]
    options_type: ClassVar[type[Frozen]]
    """The keys that `options:` may have in the catalog."""

    def load(self, path: Path, options: Any, context: LoadContext) -> None:
        """Read the model in folder `path` into memory. Blocks. Raises whatever the library raises."""

    def alive(self) -> bool:
        """Whether the engine can still compute; a replica whose engine cannot is replaced."""

    def close(self) -> None:
        """Stop computing, fail what still waits, and give the memory back. Blocks."""


class Embedded(NamedTuple):
    """`vectors` is float32 `[n, d]`; `tokens` counts what was read, special tokens included."""

    vectors: npt.NDArray[np.float32]
    tokens: int


class EmbedEngine(Engine, Protocol):
    dimensions: int
    """Length d of a vector."""

    async def embed(
        self,
        texts: Sequence[Text],
        *,
        prompt: str | None = None,
        truncate: Truncate | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
    ) -> Embedded:
        """Texts `[n]` to float32 `[n, d]`, in order.

        `prompt` names one of the model's prompts. `truncate` and `normalize` default to the model's
        options. `dimensions` keeps the first so many numbers of each vector and scales it back to
        length 1. Raises `BadRequest` for an unknown prompt, bad ids, bad dimensions or, under
        `truncate="error"`, a text over the model's limit, naming the input.
        """

    def decode_ids(self, ids: Sequence[int]) -> Text:
        """Token ids as a client sent them, in what `embed` takes. Raises `BadRequest`."""


class Reranked(NamedTuple):
    """`scores` is float32 `[n]` in 0..1; `logits` the same before the sigmoid."""

    scores: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    tokens: int


class RerankEngine(Engine, Protocol):
    async def rerank(self, query: str, documents: Sequence[str], *, truncate: Truncate | None = None) -> Reranked:
        """One query and documents `[n]` to float32 `[n]`, in order. Each score depends on its document alone."""


def names() -> list[str]:
    """The engines there are, by file name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> type[Engine]:
    """The engine class of that name. Raises `BadRequest` naming the engines there are."""
    if name not in names():
        raise BadRequest(f"unknown engine {name!r}; have: {', '.join(names())}", param="engine")
    engine: type[Engine] = importlib.import_module(f"{__name__}.{name}").Engine
    return engine
