"""Classes of the user's that a model's settings name: whether they are there, as far as it shows without running them.

Knows nothing of what the classes are for.
"""

import ast
import importlib.util
import symtable
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deployments import engines, sources
from deployments.settings import ModelSettings


class _Named(NamedTuple):
    """A class, the key that names it, and the source whose folder it is looked for in."""

    key: str
    name: str
    """`module:Name`."""
    source: str


def looked_for(settings: ModelSettings, engine: str | None) -> tuple[list[str], list[str]]:
    """What is wrong with the classes of a model on that engine; and of which that cannot be said from here, and why.

    Each names the key of its class. The model's options must be valid. Where the engine is None, the settings are those
    of a transformer that has a deployment of its own.
    """
    wrong, unchecked = [], []
    for one in _named(settings, engine):
        path = sources.at_hand(one.source)
        if path is None:
            unchecked.append(f"{one.key} {one.name}: {one.source} is not on this machine")
        elif said := _missing(one.name, path if path.is_dir() else path.parent):
            wrong.append(f"{one.key}: {said}")
    return wrong, unchecked


def _named(settings: ModelSettings, engine: str | None) -> Iterator[_Named]:
    """The classes of a model's options, of its explainer and of its transformer."""
    if engine == "python":
        options = engines.find(engine).options_type.model_validate(settings.options)
        yield _Named("options.class", options.model_dump()["class_"], settings.source)
    if engine and settings.explainer and settings.explainer.class_:
        yield _Named("explainer.class", settings.explainer.class_, settings.explainer.source or settings.source)
    if settings.transformer:
        yield _Named("transformer.class", settings.transformer.class_, settings.transformer.source or settings.source)


def _missing(name: str, folder: Path) -> str | None:
    """Why `module:Name` is found neither in that folder nor installed; None where it is, or where only a run can tell.

    Nothing is imported: of a module in the folder the source is read.
    """
    module, _, wanted = name.partition(":")
    top = module.partition(".")[0]
    if not any((folder / f"{top}{suffix}").exists() for suffix in ("", ".py", ".so")):
        if importlib.util.find_spec(top) is None:
            return f"there is no module {top!r} in {folder}, nor is one installed here"
        return None
    file = folder / (module.replace(".", "/") + ".py")
    try:
        source = file.read_text()
        tree, table = ast.parse(source), symtable.symtable(source, str(file), "exec")
    except (SyntaxError, ValueError) as error:
        return f"{file} is not Python: {error}"
    except OSError:
        return None  # a package, or something compiled
    names = {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}
    stars = any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(tree))
    if wanted in names or stars or "__getattr__" in names:
        return None
    classes = [one.get_name() for one in table.get_children() if one.get_type() == "class"]
    return f"module {module} in {folder} has no {wanted}; its classes: {', '.join(classes) or 'none'}"
