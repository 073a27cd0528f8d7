"""Reads scikit-learn estimators from files: skops, whose types are checked first, or pickles, which must be trusted.

Knows nothing of what an estimator is for.
"""

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployments.errors import LoadError

log = logging.getLogger(__name__)
SKOPS = (".skops",)
PICKLES = (".joblib", ".pkl", ".pickle")
_recording = threading.Lock()
"""Held while warnings are recorded, which is a setting of the whole process."""


def find(path: Path, file: str | None) -> Path:
    """The file of a source: the one named `file`; or the source itself; or the folder's only one, skops before pickles.

    Where there are several, the one called `model`. Raises `LoadError` naming what is there.
    """
    if file is not None:
        named = (path if path.is_dir() else path.parent) / file
        if not named.is_file():
            raise LoadError(f"options.file: there is no file {file!r} in {named.parent}; have: {_listed(named.parent)}")
        return named
    if path.is_file():
        return path
    for suffixes in (SKOPS, PICKLES):
        found = sorted(one for one in path.iterdir() if one.suffix in suffixes and one.is_file())
        found = [one for one in found if one.stem == "model"] or found
        if len(found) > 1:
            names = ", ".join(one.name for one in found)
            raise LoadError(f"{path} has several models: {names}; name one of them: options: {{file: {found[0].name}}}")
        if found:
            return found[0]
    raise LoadError(f"{path} has no file that ends in {', '.join(SKOPS + PICKLES)}; have: {_listed(path)}")


def read(file: Path, trust: bool, trusted_types: Sequence[str]) -> Any:
    """What is in the file. Raises `LoadError` for a file that would run code and is not trusted, before it is read."""
    if file.suffix not in SKOPS and not trust:
        raise LoadError(
            f"{file.name} is a pickle, and loading a pickle runs whatever code is in it. If you trust where it comes "
            "from, write options: {trust: true}; or save the model with skops.io.dump, which needs no trust"
        )
    try:
        with _versions_told(file):
            return _read_skops(file, trust, trusted_types) if file.suffix in SKOPS else _read_pickle(file)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"cannot read {file.name}: {said(error)}") from error


def said(error: BaseException) -> str:
    """An error in one line: its type, and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _read_skops(file: Path, trust: bool, trusted_types: Sequence[str]) -> Any:
    import skops.io

    found = skops.io.get_untrusted_types(file=file)
    unknown = sorted(set(found) - set(trusted_types))
    if unknown and not trust:
        raise LoadError(
            f"{file.name} has types that skops does not know to be safe: {', '.join(unknown)}. If you trust "
            f"them, write options: {{trusted_types: [{', '.join(unknown)}]}}, or {{trust: true}} for any type"
        )
    return skops.io.load(file, trusted=found)


def _read_pickle(file: Path) -> Any:
    import joblib

    return joblib.load(file)


@contextmanager
def _versions_told(file: Path) -> Iterator[None]:
    """Log once, of all parts of a model, that another version of scikit-learn saved it; pass other warnings on."""
    from sklearn.exceptions import InconsistentVersionWarning

    with _recording, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", InconsistentVersionWarning)
        yield
    versions = [one.message for one in told if isinstance(one.message, InconsistentVersionWarning)]
    if versions:
        log.warning(
            "%s was saved by scikit-learn %s and is read by %s: its answers may differ, or it may not work",
            file.name,
            versions[0].original_sklearn_version,
            versions[0].current_sklearn_version,
        )
    for one in told:
        if not isinstance(one.message, InconsistentVersionWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _listed(folder: Path) -> str:
    return ", ".join(sorted(one.name for one in folder.iterdir())[:20]) or "nothing"
