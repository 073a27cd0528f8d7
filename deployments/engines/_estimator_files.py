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

from deployments.engines._loading import read_pickle, said
from deployments.errors import LoadError

log = logging.getLogger(__name__)
SKOPS = (".skops",)
_recording = threading.Lock()
"""Held while warnings are recorded, which is a setting of the whole process."""


def read(file: Path, trust: bool, trusted_types: Sequence[str]) -> Any:
    """What is in the file. Raises `LoadError` for a file that would run code and is not trusted, before it is read."""
    try:
        with _versions_told(file):
            if file.suffix in SKOPS:
                return _read_skops(file, trust, trusted_types)
            return read_pickle(file, trust, "save the model with skops.io.dump")
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"cannot read {file.name}: {said(error)}") from error


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
