"""The check as a program, in a Python that lacks most of what is installed here, as a bare GPU machine does."""

import contextlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BARE = """
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else PathFinder.find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context):
        for found in PathFinder.find_distributions(*context):
            if found.name.lower().replace("-", "_") not in {names!r}:
                yield found

sys.meta_path[:] = [Bare if one is PathFinder else one for one in sys.meta_path]
"""
"""A sitecustomize.py for a Python where some packages are not installed."""
INSTALLED = ("torch", "transformers", "sentence-transformers", "pydantic", "psutil")
"""What a bare machine has, with what those need."""


def absent_on_a_bare_machine() -> list[str]:
    """Everything else that is installed here, by the names of modules and of distributions."""
    needed: set[str] = set()
    names = list(INSTALLED)
    while names:
        name = canonicalize_name(names.pop())
        if name not in needed:
            with contextlib.suppress(metadata.PackageNotFoundError):  # for other systems
                asked = [Requirement(one) for one in metadata.requires(name) or []]
                names += [one.name for one in asked if not one.marker or one.marker.evaluate({"extra": ""})]
            needed.add(name)
    by_module = metadata.packages_distributions()
    modules = [name for name, found in by_module.items() if not needed & {canonicalize_name(one) for one in found}]
    others = {canonicalize_name(one.name) for one in metadata.distributions()} - needed
    return [*modules, *(one.replace("-", "_") for one in others)]


def program(*arguments: str, site: Path | None = None, absent: list[str] | None = None) -> "subprocess.Popen[str]":
    """`python -m tests.gpu` without GPU, in a Python that cannot import what is `absent`, nor can its children."""
    path = [str(ROOT)]
    if site:
        (site / "sitecustomize.py").write_text(BARE.format(names=absent))
        path.insert(0, str(site))
    environment = {**os.environ, "PYTHONPATH": ":".join(path), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.gpu", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
