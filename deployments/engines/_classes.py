"""A class of the user's: found, made and loaded from a folder, and what goes wrong in it put in one line.

Knows nothing of what the class is for, nor of HTTP.
"""

import asyncio
import difflib
import inspect
import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployments.engines import LoadContext
from deployments.engines._modules import Folder
from deployments.errors import EngineError, LoadError, ServeAppError

log = logging.getLogger(__name__)


class OwnClass:
    """A class in the modules of a source's folder, or of an installed package, and the one instance of it.

    It may have `__init__(**arguments)`, `load(path)` and `close()`, both of which may be coroutines, on the loop where
    requests come. `key` is what the catalog calls the place of its name.
    """

    def __init__(self, path: Path, context: LoadContext, key: str = "options.class") -> None:
        self._path, self._context, self._key = path, context, key
        self._folder = Folder(path if path.is_dir() else path.parent)
        self._model: Any = None

    def make(self, named: str, arguments: dict[str, Any]) -> Any:
        """An instance of the class `named` (`module:Name`), loaded. Blocks. Raises `LoadError`."""
        self._context.progress(f"importing {named}")
        made = self._find(named)
        self._context.progress("waiting until another model's class is loaded")
        with self._folder.plainly_named():
            self._context.progress("loading")
            with self.blamed(f"{named} cannot be made with the arguments {arguments}"):
                model = made(**arguments)
            if hasattr(model, "load"):
                with self.blamed(f"{named}.load failed"):
                    self._settle(model.load(self._path))
        self._model, self._named = model, named
        return model

    def _find(self, named: str) -> type[Any]:
        module_name, _, name = named.partition(":")
        try:
            module = self._folder.load(module_name)
        except ModuleNotFoundError as error:
            missing = self._folder.plain(error.name or "")
            if missing and f"{module_name}.".startswith(f"{missing}."):
                have = sorted(file.stem for file in self._folder.path.glob("*.py"))
                nearest = _nearest(module_name, have)
                where = f"in {self._folder.path}, nor is one installed"
                raise LoadError(f"{self._key}: there is no module {module_name!r} {where}{nearest}") from error
            raise LoadError(f"module {module_name} cannot be imported: {self.said(error)}") from error
        except (Exception, SystemExit) as error:
            raise LoadError(f"module {module_name} cannot be imported: {self.said(error)}") from error
        found = getattr(module, name, None)
        if not isinstance(found, type):
            classes = [key for key, one in vars(module).items() if isinstance(one, type) and not key.startswith("_")]
            raise LoadError(f"{self._key}: module {module_name} has no class {name!r}{_nearest(name, classes)}")
        return found

    def lacks(self, *names: str) -> LoadError:
        """The error for an instance that has none of these, of which it must have one."""
        have = ", ".join(name for name in dir(self._model) if not name.startswith("_")) or "nothing"
        return LoadError(f"{self._named} has neither {' nor '.join(names)}; it has: {have}")

    def alive(self) -> bool:
        """Whether the instance says that it can go on; one without `alive()` always can."""
        try:
            return bool(self._model.alive()) if hasattr(self._model, "alive") else True
        except Exception:
            log.exception("%s cannot say whether it is alive", self._context.name)
            return False

    def close(self) -> None:
        """Close the instance, if it has a way, and forget its modules. Raises nothing."""
        try:
            if hasattr(self._model, "close"):
                self._settle(self._model.close())
        except Exception:
            log.exception("%s did not close", self._context.name)
        self._model = None
        self._folder.close()

    @contextmanager
    def blamed(self, what: str) -> Iterator[None]:
        """What fails within the block, as a `LoadError` that begins with `what`."""
        try:
            yield
        except ServeAppError:
            raise
        except (Exception, SystemExit) as error:
            log.debug("%s", what, exc_info=True)
            raise LoadError(f"{what}: {self.said(error)}") from error

    @contextmanager
    def failing(self, what: str = "the model") -> Iterator[None]:
        """What the class raises within the block, as an error of ours."""
        try:
            yield
        except ServeAppError:
            raise
        except (Exception, SystemExit) as error:
            log.exception("%s failed", self._context.name)
            raise EngineError(f"{what} failed: {self.said(error)}") from error

    def said(self, error: BaseException) -> str:
        """An error in one line, and the last place in the folder that it came through."""
        lines = self._folder.plain(str(error)).strip().splitlines() or [""]
        text = f"{type(error).__name__}: {lines[0][:300]}" if lines[0] else type(error).__name__
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if Path(frame.filename).is_relative_to(self._folder.path)]
        return f"{text} ({Path(mine[-1].filename).name}, line {mine[-1].lineno})" if mine else text

    def _settle(self, value: Any) -> None:
        if inspect.isawaitable(value):
            self.on_loop(value)

    def on_loop(self, awaitable: Any) -> None:
        """Wait, in another thread, for something that runs on the loop where requests come."""
        assert self._context.loop is not None, (
            "this model has asyncio parts: LoadContext.loop must be where requests come"
        )

        async def run() -> None:
            await awaitable

        asyncio.run_coroutine_threadsafe(run(), self._context.loop).result()


def _nearest(name: str, have: Sequence[str]) -> str:
    """The end of a sentence that says which there are, and which was perhaps meant."""
    near = difflib.get_close_matches(name, have, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant} Have: {', '.join(have)}" if meant else f"; have: {', '.join(have) or 'none'}"
