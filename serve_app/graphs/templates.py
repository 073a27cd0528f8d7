"""Templates of requests: JSON in the catalog, in whose texts `${...}` stands for what a request or an answer holds.

    ${request}              the request that the node got          ${request.input.0}   what is at that path in it
    ${response...}          the answer of the step before          ${steps.hear...}     that of an earlier step
    $${...}                 is not replaced; one `$` is dropped

A text that is nothing but one of them becomes what it stands for, whatever that is; within a longer text it becomes
a text. What is put in is never looked into again. Knows nothing of where answers come from.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson
from gjson._gjson import NoResult

from serve_app.graphs.paths import Path

_PLACE = re.compile(r"\$(\$?)\{([^{}]*)\}")
ROOTS = ("request", "response", "steps")


class Reference(NamedTuple):
    """What `${...}` names: a root, for `steps` a step's name, and a path in it; None for all of it."""

    text: str
    root: str
    step: str
    path: Path | None


class Missing(Exception):
    """Nothing is where a reference points; `reference` says which."""

    def __init__(self, reference: Reference) -> None:
        super().__init__(f"there is nothing at ${{{reference.text}}}")
        self.reference = reference


class Template:
    """A request to be made. Raises `ValueError` for a reference that cannot be one."""

    def __init__(self, shape: Any) -> None:
        self._shape = shape
        texts = [text for found in _texts(shape) for escaped, text in _PLACE.findall(found) if not escaped]
        self._known = {text: _read(text) for text in texts}
        self.references = tuple(self._known.values())

    def fill(self, find: Callable[[Reference], Any]) -> Any:
        """The request, given what each reference stands for before its path. Raises `Missing`."""
        found = {text: _at(reference, find(reference)) for text, reference in self._known.items()}
        return _filled(self._shape, found)


def _read(text: str) -> Reference:
    root, _, rest = text.partition(".")
    step = ""
    if root not in ROOTS:
        raise ValueError(
            f"${{{text}}} is not known; a reference begins with {', '.join(ROOTS)}; for the text, write $$"
        )
    if root == "steps":
        step, _, rest = rest.partition(".")
        if not step:
            raise ValueError(f"${{{text}}} names no step; write ${{steps.<name>.<path>}}")
    if text.endswith("."):
        raise ValueError(f"${{{text}}} ends with a dot")
    return Reference(text, root, step, Path(rest) if rest else None)


def _texts(shape: Any) -> Iterator[str]:
    if isinstance(shape, str):
        yield shape
    elif isinstance(shape, dict):
        for value in shape.values():
            yield from _texts(value)
    elif isinstance(shape, list):
        for value in shape:
            yield from _texts(value)


def _at(reference: Reference, data: Any) -> Any:
    found = reference.path.find(data) if reference.path else data
    if isinstance(found, NoResult):
        raise Missing(reference)
    return found


def _filled(shape: Any, found: dict[str, Any]) -> Any:
    if isinstance(shape, dict):
        return {key: _filled(value, found) for key, value in shape.items()}
    if isinstance(shape, list):
        return [_filled(value, found) for value in shape]
    if not isinstance(shape, str):
        return shape
    whole = _PLACE.fullmatch(shape)
    if whole and not whole[1]:
        return found[whole[2]]
    return _PLACE.sub(lambda match: match[0][1:] if match[1] else _text(found[match[2]]), shape)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
