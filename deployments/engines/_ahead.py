"""The libraries of engines, imported before a model needs them.

Knows nothing of models.
"""

import importlib
import logging
import threading
from collections.abc import Iterable

from deployments.engines import find

log = logging.getLogger(__name__)


def import_ahead(names: Iterable[str]) -> threading.Thread:
    """Import what loading models of these engines will import, in a thread that has begun.

    A library that cannot be imported is an error when a model of its engine is loaded, not here.
    """
    libraries = dict.fromkeys(library for name in names for library in find(name).libraries)

    def run() -> None:
        for library in libraries:
            try:
                importlib.import_module(library)
            except Exception as error:  # whatever its code raises
                log.info("%s cannot be imported ahead: %s", library, error)

    thread = threading.Thread(target=run, name="import-ahead", daemon=True)
    thread.start()
    return thread
