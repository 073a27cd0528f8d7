"""Which of many models in one replica are loaded: those asked for last, within a budget.

As ModelMesh does it: the least recently used model that no request uses makes room for the one that is
asked for, and the request waits for that. Knows nothing of what models do.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
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
        """Size of its files; 0 until it was loaded once."""

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
        self._users: Counter[str] = Counter()
        self._deciding = asyncio.Lock()
        self._freed = asyncio.Event()

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
                busy = f"all {len(self._loaded)} models that may be loaded at once are in use"
                raise ModelUnavailable(f"Model with name {model.name} is not ready: {busy}.", retry_after_s=5) from None
            yield
        finally:
            self._users[model.name] -= 1
            self._freed.set()
            if model.failed():
                await self.drop(model)

    async def drop(self, model: Cached) -> None:
        """Unload a model, unless a request uses it."""
        async with self._deciding:
            if model.name in self._loaded and not self._users[model.name]:
                del self._loaded[model.name]
                await model.unload()

    async def _admit(self, model: Cached) -> None:
        if model.name not in self._loaded:
            async with self._deciding:
                if model.name not in self._loaded:
                    await self._make_room(model)
                    self._loaded[model.name] = model
                    model.load()
        self._loaded.move_to_end(model.name)

    async def _make_room(self, model: Cached) -> None:
        """Unload models, least recently used first, until another fits; waits while all are in use."""
        while self._loaded and not self._fits(model):
            idle = next((one for name, one in self._loaded.items() if not self._users[name]), None)
            if idle is None:
                self._freed.clear()
                await self._freed.wait()
                continue
            del self._loaded[idle.name]
            await idle.unload()

    def _fits(self, model: Cached) -> bool:
        sizes = sum(one.file_bytes for one in self._loaded.values()) + model.file_bytes
        within = self.budget.memory is None or sizes <= self.budget.memory
        return within and len(self._loaded) < self.budget.max_loaded
