"""Catalogs made for tests, and the manifests rendered of them."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from rayservice.documents import Document
from rayservice.render import render
from serve_app import catalog as catalogs
from serve_app.catalog import Catalog

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared"
NVIDIA = {"name": "gpu", "kind": "nvidia", "gpu_memory": "24GiB", "cpu": 16, "memory": "64GiB"}


def shared(path: str) -> Path:
    """A file that lies beside the repository, not in it."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"{found} is not there: it comes beside the repository, not in it")
    return found


def model(name: str, **rest: Any) -> dict[str, Any]:
    return {"name": name, "engine": "espeak", "source": "pypi://espeakng-loader"} | rest


def catalog(*models: dict[str, Any], **rest: Any) -> Catalog:
    return catalogs.parse({"name": "stack", "models": list(models), **rest})


def parsed(text: str) -> Any:
    return copy.deepcopy(_parsed(text))


@functools.cache
def _parsed(text: str) -> Any:
    return YAML(typ="safe").load(text)


def documents(of: Catalog) -> list[Document]:
    """Everything that is rendered of a catalog, aliases too."""
    return [Document(name, parsed(text)) for files in render(of, "test") for name, text in files.items()]


def ray_service(of: Catalog) -> Any:
    return parsed(render(of, "test")[0]["rayservice.yaml"])
