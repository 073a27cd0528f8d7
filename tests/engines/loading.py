"""Loading an engine for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from deployments.engines import Engine, LoadContext

Any_ = TypeVar("Any_", bound=Engine)


@contextmanager
def loaded(engine: Any_, path: Path, options: Any, max_queue: int = 100_000) -> Iterator[Any_]:
    engine.load(path, options, LoadContext("test", 2, 0, lambda: max_queue, lambda _: None))
    try:
        yield engine
    finally:
        engine.close()
