"""An object that is read field by field, so that what nobody read is known. Knows nothing of KServe."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayservice.documents import Document, DocumentError

Key = str | int
SERVERS_OWN = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink", "finalizers")
"""Fields of metadata that the API server writes."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Reading:
    """One object of a file."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._read: set[tuple[Key, ...]] = {("apiVersion",), ("kind",), ("status",)}
        self._read |= {("metadata", key) for key in ("name", "namespace", *SERVERS_OWN)}
        self._read |= {("metadata", "annotations", LAST_APPLIED)}

    def take(self, *path: Key) -> Any:
        """The value there, with all that is in it counted as read; None where there is none."""
        value: Any = self.document.data
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        self._read.add(path)
        return value

    def text(self, *path: Key) -> str | None:
        """The same as text."""
        value = self.take(*path)
        return None if value is None else str(value)

    def values(self, *path: Key) -> list[Any]:
        """A list; empty where there is none. Raises `DocumentError` for anything else."""
        value = self.take(*path)
        if not isinstance(value, list | None):
            raise DocumentError(f"{self.where(*path)}: {value!r} is not a list")
        return value or []

    def objects(self, *path: Key) -> list[dict[str, Any]]:
        """A list of objects. Raises `DocumentError` for anything else."""
        found = self.values(*path)
        for index, value in enumerate(found):
            if not isinstance(value, dict):
                raise DocumentError(f"{self.where(*path, index)}: {value!r} is not an object, of keys and values")
        return found

    def where(self, *path: Key) -> str:
        """A field's place, for people."""
        one = self.document
        return f"{Path(one.file).name}: {one.kind} {one.name}" + (f", {dotted(path)}" if path else "")

    def left(self) -> Iterator[tuple[str, Any]]:
        """Places and values of what was not read, each as far up as nothing in it was."""
        yield from self._left(self.document.data, ())

    def _left(self, value: Any, path: tuple[Key, ...]) -> Iterator[tuple[str, Any]]:
        if path in self._read or value in (None, {}, []):
            return
        inside = any(one[: len(path)] == path for one in self._read)
        if path and (not inside or not isinstance(value, dict | list)):
            yield self.where(*path), value
            return
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from self._left(one, (*path, key))


def dotted(path: tuple[Key, ...]) -> str:
    """`spec.containers[0].image`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
