"""A model's life in its replica: one background task that brings up the version that is wanted.

    unloaded → loading → ready → unloaded   a version is loaded and answers, until its memory is wanted
                  ↘ failed(reason)          none is; tried again with growing pauses

A new version is loaded beside the old one where memory allows, else in its place. The old one
answers until the new one can, and stays, or comes back, if the new one cannot load. Nothing here
raises to Ray Serve. Knows nothing of Ray, HTTP or engines: it is given a function that loads.
"""

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from deployments.errors import ModelFailed, ModelLoading

log = logging.getLogger(__name__)
State = Literal["unloaded", "loading", "ready", "failed"]
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 120.0


class Closable(Protocol):
    def close(self) -> None: ...


Loaded = TypeVar("Loaded", bound=Closable)
Made = TypeVar("Made")


@dataclass(eq=False)
class Version(Generic[Loaded]):
    """One loaded version, and how many requests use it. Within a `with` block it stays loaded."""

    settings: dict[str, Any]
    loaded: Loaded
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> Loaded:
        self.users += 1
        self.idle.clear()
        return self.loaded

    def __exit__(self, *_: object) -> None:
        self.users -= 1
        if not self.users:
            self.idle.set()


def in_thread(call: Callable[[], Made]) -> "asyncio.Future[Made]":
    """What `call` returns, from a thread of its own.

    Not one of the loop's: those are few, and a load that waits in all of them for something else that needs
    one would wait for ever.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Made] = loop.create_future()

    def settle(set_done: Callable[[Any], None], made: Any) -> None:
        if not done.cancelled():
            set_done(made)

    def run() -> None:
        try:
            made = call()
        except BaseException as error:
            outcome: tuple[Callable[[Any], None], Any] = (done.set_exception, error)
        else:
            outcome = (done.set_result, made)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="life", daemon=True).start()
    return done


class Life(Generic[Loaded]):
    """Keeps one model loaded as its settings say.

    `load(settings, progress)` blocks, runs in a thread, and returns what answers requests or raises.
    `fits_beside()` says whether a second version may be loaded while the first one answers. `tidy()` is called
    when a version has come or gone, and blocks.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[dict[str, Any], Callable[[str], None]], Loaded],
        fits_beside: Callable[[], bool],
        tidy: Callable[[], None] = lambda: None,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.name = name
        self.state: State = "unloaded"
        self.progress = ""
        self.failure: str | None = None
        """Why the version that is wanted is not loaded; None when it is, or is on its way."""
        self._load, self._fits_beside, self._first_pause_s = load, fits_beside, first_pause_s
        self._tidy = tidy
        self._wanted: dict[str, Any] | None = None
        self._version: Version[Loaded] | None = None
        self._task: asyncio.Task[None] | None = None
        self._loading: asyncio.Future[Loaded] | None = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._let_go = asyncio.Event()
        self._began_s = 0.0

    def want(self, settings: dict[str, Any]) -> None:
        """Make these settings the wanted ones and return at once; the background task does the rest."""
        if settings == self._wanted:
            return
        self._wanted = settings
        self._let_go.set()
        if self._version is None:
            self._wait_for_it()
        self._work()

    def _work(self) -> None:
        """Have the background task see what has changed."""
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._converge())

    async def ready(self, timeout_s: float) -> Version[Loaded]:
        """What is loaded, to be held at once by a `with` block.

        Waits for a model that is loading. Raises `ModelLoading` when that takes longer than
        `timeout_s`, and `ModelFailed` at once when no version could be loaded.
        """
        if self._version:
            return self._version
        try:
            async with asyncio.timeout(timeout_s):
                while self._version is None:
                    if self.state in ("failed", "unloaded"):
                        raise self._unavailable()
                    await self._settled.wait()
        except TimeoutError:
            raise self._unavailable() from None
        return self._version

    async def settled(self) -> None:
        """Wait until it is loaded or could not be, if it is on its way."""
        while self.state == "loading":
            await self._settled.wait()

    def check(self) -> None:
        """Return if a version answers; else raise why not: `ModelLoading` or `ModelFailed`."""
        if self._version is None:
            raise self._unavailable()

    def held(self) -> Version[Loaded] | None:
        """What answers now, if anything does, to be held at once by a `with` block."""
        return self._version

    def loaded(self) -> Loaded | None:
        """What answers now, if anything does."""
        return self._version.loaded if self._version else None

    async def unload(self) -> None:
        """Have the background task give the memory back once no request uses it, and wait for that.

        It is given back also if this is cancelled. Settings that are wanted meanwhile end the wait, and are loaded
        then.
        """
        if self._wanted is None and self.state == "unloaded":
            return
        self._wanted = None
        self._let_go.clear()
        self._work()
        await self._let_go.wait()

    async def close(self) -> None:
        """Stop trying, and give the memory back."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        made = [self._version.loaded] if self._version else []
        if self._loading:
            with contextlib.suppress(Exception):  # a load that fails leaves nothing to close
                made.append(await self._loading)
        self._version, self.state = None, "unloaded"
        for loaded in made:
            await in_thread(loaded.close)

    def _unavailable(self) -> ModelLoading | ModelFailed:
        sentence = f"Model with name {self.name} is not ready."
        if self.state == "failed":
            return ModelFailed(f"{sentence} It could not be loaded: {self.failure}", retry_after_s=30)
        waited_s = time.monotonic() - self._began_s
        return ModelLoading(f"{sentence} It is loading since {waited_s:.0f} s: {self.progress}", retry_after_s=10)

    async def _converge(self) -> None:
        """Until what is loaded is what is wanted: load it, or say why not and try again later."""
        pause_s, tried = self._first_pause_s, None
        while not self._is_as_wanted():
            self._changed.clear()
            wanted = self._wanted
            if wanted is None:
                await self._empty()
                continue
            if await self._bring_up(wanted, again=wanted == tried):
                continue
            tried = wanted
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            pause_s = self._first_pause_s if self._changed.is_set() else min(pause_s * 2, LONGEST_PAUSE_S)
        self.failure = None

    def _is_as_wanted(self) -> bool:
        if self._wanted is None:
            return self._version is None and self._let_go.is_set()
        return self._version is not None and self._version.settings == self._wanted

    async def _empty(self) -> None:
        """Hold nothing."""
        version, self._version = self._version, None
        self._settle("unloaded")
        if version:
            await self._drain(version)
            await in_thread(self._tidy)
        self._let_go.set()

    async def _bring_up(self, wanted: dict[str, Any], again: bool) -> bool:
        old = self._version
        in_place = old is not None and not self._fits_beside()
        if in_place and again:
            # Trying again in the place of a version that answers would interrupt it each time.
            return False
        if old and in_place:
            log.info("%s: no memory for two versions; the new one takes the old one's place", self.name)
            await self._retire(old)
        error = await self._try(wanted)
        if error is None:
            if old and not in_place:
                await self._drain(old)
            await in_thread(self._tidy)
            return True
        log.error("%s: cannot load: %s", self.name, error)
        if old and in_place and (lost := await self._try(old.settings)):
            error = f"{error} (and the previous version did not come back: {lost})"
        self.failure = error
        if self._version is None and not self._changed.is_set():
            self._settle("failed")
        return False

    async def _try(self, settings: dict[str, Any]) -> str | None:
        """Load one version and put it in service; the reason when it cannot."""
        self.progress = "starting"
        try:
            self._loading = in_thread(functools.partial(self._load_here, settings))
            loaded = await asyncio.shield(self._loading)
            self._loading = None
        except Exception as error:
            self._loading = None
            log.debug("loading failed", exc_info=True)
            return f"{type(error).__name__}: {error}" if not hasattr(error, "message") else str(error)
        self._version = Version(settings, loaded)
        self.failure = None
        self._settle("ready")
        return None

    def _load_here(self, settings: dict[str, Any]) -> Loaded:
        try:
            return self._load(settings, self._report)
        except StopIteration as error:  # which a future cannot hold
            raise RuntimeError(f"loading ended early: {error!r}") from error

    def _report(self, progress: str) -> None:
        self.progress = progress

    def _wait_for_it(self) -> None:
        """From now on requests wait. A retry of settings that failed before leaves them refused instead."""
        self.state, self._began_s = "loading", time.monotonic()
        self._settled.clear()

    def _settle(self, state: State) -> None:
        self.state, self.progress = state, ""
        self._settled.set()

    async def _retire(self, version: Version[Loaded]) -> None:
        """Take a version out of service and close it once nothing uses it."""
        self._version = None
        self._wait_for_it()
        await self._drain(version)

    async def _drain(self, version: Version[Loaded]) -> None:
        if version.users:
            await version.idle.wait()
        await in_thread(version.loaded.close)
