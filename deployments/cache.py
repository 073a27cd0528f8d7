"""Which of many models in one replica are loaded: those asked for last, within a budget.

As ModelMesh does it: the least recently used model that no request uses makes room for the one that is
asked for, and the request waits for that. Knows nothing of what models do.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from pydantic import ByteSize, Field

from deployments.errors import ModelUnavailable
from deployments.settings import Frozen


class Budget(Frozen):
    """How much may be loaded at once."""

    max_loaded: int = Field(20, gt=0, description="on-demand models loaded at once")
    memory: ByteSize | None = Field(None, description="size of the files of those together")


class Cached(Protocol):
    """A model as the cache sees it."""

    @property
    def name(self) -> str: ...

    @property
    def file_bytes(self) -> int:
        """Size of its files, as far as it is known."""

    async def measure(self) -> None:
        """Learn `file_bytes` where that needs no fetching."""

    def load(self) -> None:
        """Begin to load it."""

    async def unload(self) -> None:
        """Give its memory back."""

    def failed(self) -> bool:
        """Whether it could not be loaded."""


class ModelCache:
    """Holds models loaded while requests use them, and as long after as the budget allows."""

    def __init__(self) -> None:
        self.budget = Budget()
        self._loaded: OrderedDict[str, Cached] = OrderedDict()
        self._leaving: dict[str, tuple[Cached, asyncio.Task[None]]] = {}
        self._unwanted: set[str] = set()
        self._users: Counter[str] = Counter()
        self._news = asyncio.Event()

    def holds(self, model: Cached) -> bool:
        """Whether a model is loaded, or loading, and not about to be unloaded."""
        return model.name in self._loaded

    @contextlib.asynccontextmanager
    async def hold(self, model: Cached, timeout_s: float) -> AsyncIterator[None]:
        """Keep a model loaded, or loading, until the end of the block.

        Raises `ModelUnavailable` when no room is made within `timeout_s`.
        """
        self._users[model.name] += 1
        try:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._admit(model)
            except TimeoutError:
                busy = f"no room was made for it beside the {len(self._loaded)} that are loaded"
                raise ModelUnavailable(f"Model with name {model.name} is not ready: {busy}.", retry_after_s=5) from None
            yield
        finally:
            self._users[model.name] -= 1
            self._release(model)

    async def drop(self, model: Cached) -> None:
        """Have a model unloaded once no request uses it, and wait for that."""
        if model.name in self._loaded:
            self._unwanted.add(model.name)
            self._release(model)
        while model.name in self._unwanted or model.name in self._leaving:
            await self._news.wait()

    def _release(self, model: Cached) -> None:
        """See what may go now that a request has ended."""
        if not self._users[model.name] and (model.name in self._unwanted or model.failed()):
            self._unload(model.name)
        while not self._within(list(self._loaded.values())) and (idle := self._idle()):
            self._unload(idle)
        self._tell()

    async def _admit(self, model: Cached) -> None:
        """Have a model loaded, or loading, as the one used last; waits while there is no room."""
        if self.budget.memory is not None:
            await model.measure()
        while model.name not in self._loaded:
            # A model that is on its way out comes back when it is gone.
            held = [*self._loaded.values(), *(one for one, _ in self._leaving.values())]
            fits = not held or self._within([*held, model])
            if fits and model.name not in self._leaving:
                self._loaded[model.name] = model
                model.load()
                break
            if not self._leaving and (idle := self._idle()):
                self._unload(idle)
            await self._news.wait()
        self._loaded.move_to_end(model.name)

    def _within(self, models: Sequence[Cached]) -> bool:
        """Whether these together are within the budget."""
        sizes = sum(one.file_bytes for one in models)
        return len(models) <= self.budget.max_loaded and (self.budget.memory is None or sizes <= self.budget.memory)

    def _idle(self) -> str | None:
        """The least recently used model that no request uses."""
        return next((name for name in self._loaded if not self._users[name]), None)

    def _unload(self, name: str) -> None:
        model = self._loaded.pop(name, None)
        self._unwanted.discard(name)
        if model:
            self._leaving[name] = (model, asyncio.create_task(self._leave(model)))

    async def _leave(self, model: Cached) -> None:
        try:
            await model.unload()
        finally:
            del self._leaving[model.name]
            self._tell()

    def _tell(self) -> None:
        """Wake all who wait, to look again."""
        self._news.set()
        self._news = asyncio.Event()
