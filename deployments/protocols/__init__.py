"""The protocols a model speaks, each a router of its own.

Bytes in, arrays to the engine, bytes out. A protocol knows its engine's interface and nothing of
Ray; which requests reach it is decided elsewhere.
"""

from collections.abc import Callable

from fastapi import APIRouter

from deployments.engines import Task
from deployments.protocols import embeddings, rerank
from deployments.protocols.app import Served

Router = Callable[[Served | None], APIRouter]
"""Makes a protocol's router around a model; around None, for its documentation only."""

ROUTERS: dict[Task, tuple[Router, ...]] = {"embed": (embeddings.router,), "rerank": (rerank.router,)}
"""The protocols of each task."""
