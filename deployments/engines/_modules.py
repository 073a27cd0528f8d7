"""Python modules from a folder, kept apart from those of every other folder in the process, and of its other versions.

Each folder's modules are submodules of a package of their own, so that any number of folders may have modules of
the same names. Within them everything finds its siblings first:

    import helpers                  anywhere, also in functions that run later
    from . import helpers           just as well
    pickle, joblib, torch.load      of classes that the file says are in `helpers`: within `plainly_named()`, if
                                    `helpers` has been imported by then

Not found are siblings that are named as text (`importlib.import_module("helpers")`), by pickles later on, or in another
process (`multiprocessing` with spawn); such code belongs in an installed package. The source is read each time, never
bytecode, so that what was loaded is what is there. Knows nothing of models.
"""

import builtins
import functools
import importlib
import importlib.util
import itertools
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

_serials = itertools.count(1)
_naming = threading.Lock()
"""Held while one folder's modules go by their plain names, which all of the process shares."""


class Folder:
    """The modules of a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._package = f"serve_app_python_{next(_serials)}"
        package = ModuleType(self._package, f"The modules in {path}.")
        package.__path__ = [str(path)]
        sys.modules[self._package] = package
        self._own: dict[str, bool] = {}
        _Finder.folders[self._package] = self

    def load(self, name: str) -> ModuleType:
        """The module of that name (`model`, `parts.model`) in the folder, or else the installed one.

        Raises `ModuleNotFoundError`, and whatever the module itself raises.
        """
        return importlib.import_module(f"{self._package}.{name}" if self._has(name) else name)

    def plain(self, text: str) -> str:
        """A text with the names of modules as the folder's own code writes them."""
        return text.replace(f"{self._package}.", "")

    @contextmanager
    def plainly_named(self) -> Iterator[None]:
        """Within the block all of the process finds the folder's modules by their plain names, as pickles have them.

        Those that are imported by now, and that no installed module is called like. One folder at a time.
        """
        with _naming:
            mine = {self.plain(name): module for name, module in self._loaded().items()}
            mine = {name: module for name, module in mine.items() if name not in sys.modules}
            sys.modules.update(mine)
            try:
                yield
            finally:
                for name in mine:
                    sys.modules.pop(name, None)

    def close(self) -> None:
        """Forget the modules; what still holds their objects keeps these."""
        for name in self._loaded():
            sys.modules.pop(name, None)
        sys.modules.pop(self._package, None)
        _Finder.folders.pop(self._package, None)

    def find(self, name: str, path: Sequence[str]) -> ModuleSpec | None:
        """Where the module of that full name is, looked for now."""
        source = functools.partial(_Source, self._import)
        for entry in path:
            finder = FileFinder(entry, (ExtensionFileLoader, EXTENSION_SUFFIXES), (source, SOURCE_SUFFIXES))  # type: ignore[arg-type]  # whatever makes a loader
            if spec := finder.find_spec(name):
                return spec
        return None

    def _loaded(self) -> dict[str, ModuleType]:
        # A copy is made in one step; a list of the items lets the collector, and so other threads' imports, in between.
        return {name: module for name, module in sys.modules.copy().items() if name.startswith(f"{self._package}.")}

    def _has(self, name: str) -> bool:
        """Whether an imported name begins in the folder; a folder of data there hides no installed package."""
        top = name.partition(".")[0]
        if top not in self._own:
            spec = self.find(f"{self._package}.{top}", [str(self.path)])
            self._own[top] = spec is not None and (spec.loader is not None or not _is_installed(top))
        return self._own[top]

    def _import(
        self,
        name: str,
        globals_: Mapping[str, object] | None = None,
        locals_: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """What `import` calls in the folder's modules (see `builtins.__import__`)."""
        if level or not self._has(name):
            return builtins.__import__(name, globals_, locals_, fromlist, level)
        module = builtins.__import__(f"{self._package}.{name}", globals_, locals_, fromlist, 0)
        return module if fromlist else sys.modules[f"{self._package}.{name.partition('.')[0]}"]


class _Source(SourceFileLoader):
    """Runs a module's source with builtins of its own, whose `__import__` knows the module's siblings."""

    def __init__(self, import_: Any, name: str, path: str) -> None:
        super().__init__(name, path)
        self._import = import_

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = vars(builtins) | {"__import__": self._import}
        super().exec_module(module)

    def path_stats(self, path: Any) -> NoReturn:
        """Raises `OSError`, by which importlib neither reads nor writes bytecode.

        It would take bytecode for that of a source which was changed within a second to as many characters.
        """
        raise OSError(f"no bytecode for {path}")


class _Finder:
    """The entry in `sys.meta_path` for the modules of all folders."""

    folders: dict[str, Folder] = {}  # noqa: RUF012 - one for the process, as sys.meta_path is

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        folder = cls.folders.get(name.partition(".")[0])
        return folder.find(name, path) if folder and path else None


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


sys.meta_path.insert(0, _Finder)
