"""YAML files of Kubernetes objects, one after the other. Knows nothing of any kind of object."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from deployments.errors import ServeAppError

KSERVE_LABEL = "serving.kserve.io/inferenceservice"
GRAPH_LABEL = "serving.kserve.io/inferencegraph"
"""The labels by which KServe finds what belongs to a model, or to a graph."""


class DocumentError(ServeAppError):
    """A file that holds no Kubernetes objects."""

    status = 400
    code = "invalid_manifest"


@dataclass(frozen=True)
class Document:
    """One object, and the file that it is in."""

    file: str
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        """What it is, as in `Service`."""
        return str(self.data.get("kind", ""))

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return str((self.data.get("metadata") or {}).get("name", ""))

    @property
    def namespace(self) -> str:
        """`metadata.namespace`, or `default`."""
        return str((self.data.get("metadata") or {}).get("namespace") or "default")

    def __str__(self) -> str:
        return f"{self.file}: {self.kind} {self.name}"


def read(files: Iterable[Path]) -> list[Document]:
    """Every object in these files; of a folder all its `.yaml` and `.yml` files, in order.

    Raises `DocumentError` naming the file and what is wrong with it.
    """
    found: list[Document] = []
    for given in files:
        inside = sorted(path for path in given.rglob("*") if path.suffix in (".yaml", ".yml")) if given.is_dir() else []
        if given.is_dir() and not inside:
            raise DocumentError(f"{given} is a folder without .yaml or .yml files")
        for path in inside or [given]:
            found += _objects(path)
    return found


def _objects(path: Path) -> list[Document]:
    try:
        with path.open() as file:  # not its text, or errors would not name it
            texts = list(YAML(typ="safe").load_all(file))
    except YAMLError as error:
        raise DocumentError(f"{path} is not valid YAML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"{path} cannot be read: {error}") from error
    found = []
    for data in texts:
        if data is None:
            continue
        if not isinstance(data, dict) or not isinstance(data.get("kind"), str) or "apiVersion" not in data:
            what = "a catalog, and no" if isinstance(data, dict) and "models" in data else "something that is no"
            raise DocumentError(f"{path} holds {what} Kubernetes object: it has no apiVersion and kind")
        if data["kind"] == "List" or (data["kind"].endswith("List") and "items" in data):
            items = data.get("items") or []
            if not isinstance(items, list):
                raise DocumentError(f"{path}: {data['kind']}: items: {items!r} is not a list of objects")
            found += [_document(path, one, f"items[{index}]") for index, one in enumerate(items)]
        else:
            found.append(_document(path, data))
    return found


def _document(path: Path, data: Any, place: str = "") -> Document:
    """An object whose parts that every object has are in their shape. Raises `DocumentError` naming the place."""
    where = ": ".join([str(path), place] if place else [str(path)])
    if not isinstance(data, dict):
        raise DocumentError(f"{where}: {data!r} is not a Kubernetes object")
    for key in ("metadata", "spec"):
        if not isinstance(data.get(key), dict | None):
            raise DocumentError(
                f"{where}: {data.get('kind')}: {key}: {data[key]!r} is not an object, of keys and values"
            )
    return Document(str(path), data)
