"""What the engines of classic models need to load one: the library, the file, a pickle that is trusted, the device.

Knows nothing of what is in the files.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from deployments.errors import LoadError

PICKLES = (".joblib", ".pkl", ".pickle")
Device = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="auto, cpu, cuda, cuda:0; auto is the replica's GPU where it has one",
    ),
]


def library(module: str, extra: str) -> Any:
    """The module of that name. Raises `LoadError` that names the extra which installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LoadError(f"{module} is not installed: install serve-app[{extra}] ({error})") from error


def find_file(path: Path, file: str | None, *kinds: Sequence[str]) -> Path:
    """The file of a source: the one named `file`; or the source itself; or the folder's only one of the first kind.

    `kinds` are groups of suffixes, in the order in which they are looked for. Where there are several files of a
    kind, the one called `model`. A folder without any may have them in one for each version, as Triton's
    repositories: the highest number. Raises `LoadError` naming what is there.
    """
    if file is not None:
        named = (path if path.is_dir() else path.parent) / file
        if not named.is_file():
            raise LoadError(f"options.file: there is no file {file!r} in {named.parent}; have: {listed(named.parent)}")
        return named
    if path.is_file():
        return path
    for folder in (path, *version_folders(path)[:1]):
        for suffixes in kinds:
            if found := _only(folder, suffixes):
                return found
    suffixes = [suffix for group in kinds for suffix in group]
    raise LoadError(f"{path} has no file that ends in {', '.join(suffixes)}; have: {listed(path)}")


def version_folders(path: Path) -> list[Path]:
    """The folders in `path` that are named by numbers, the highest first."""
    found = [one for one in path.iterdir() if one.name.isdecimal() and one.is_dir()]
    return sorted(found, key=lambda one: int(one.name), reverse=True)


def _only(folder: Path, suffixes: Sequence[str]) -> Path | None:
    found = sorted(one for one in folder.iterdir() if one.suffix in suffixes and one.is_file())
    found = [one for one in found if one.stem == "model"] or found
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise LoadError(f"{folder} has several models: {names}; name one of them: options: {{file: {found[0].name}}}")
    return found[0] if found else None


def read_pickle(file: Path, trust: bool, instead: str) -> Any:
    """What a pickle holds, by joblib, which reads plain ones too.

    Raises `LoadError`, before it is read, for one that is not trusted, saying `instead` which form needs no trust.
    """
    if not trust:
        raise LoadError(
            f"{file.name} is a pickle, and loading a pickle runs whatever code is in it. If you trust where it comes "
            f"from, write options: {{trust: true}}; or {instead}, which needs no trust"
        )
    return library("joblib", "classic").load(file)


def said(error: BaseException) -> str:
    """An error in one line: its type, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def listed(folder: Path) -> str:
    """What is in a folder, for a sentence."""
    return ", ".join(sorted(one.name for one in folder.iterdir())[:20]) or "nothing"
