"""The libraries of engines, imported before a model needs them.

Knows nothing of models.
"""

import importlib
import logging
import threading
from collections.abc import Iterable

from deployments.engines import find

log = logging.getLogger(__name__)
_importing: list[threading.Thread] = []


def import_ahead(names: Iterable[str]) -> None:
    """Begin to import, in a thread, what loading models of these engines will import, in their order.

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
    _importing.append(thread)
    thread.start()


def await_imports() -> None:
    """Wait until what was begun is done: an import in another thread may find a package that is only half there."""
    for thread in list(_importing):
        thread.join()
