"""The protocols a model speaks, each a router of its own.

Bytes in, arrays to the engine, bytes out. A protocol knows its engine's interface and nothing of
Ray; which requests reach it is decided elsewhere.
"""

from collections.abc import Callable

from fastapi import APIRouter

from deployments.engines import Task
from deployments.protocols import audio, embeddings, generate, rerank, v1, v2_generate
from deployments.protocols.app import Served

Router = Callable[[Served | None], APIRouter]
"""Makes a protocol's router around a model; around None, for its documentation only."""

ROUTERS: dict[Task, tuple[Router, ...]] = {
    "embed": (embeddings.router,),
    "rerank": (rerank.router,),
    "transcribe": (audio.transcribe_router, v1.transcribe_router),
    "speak": (audio.speak_router, v1.speak_router),
    "generate": (v1.generate_router, v2_generate.router, generate.router),
    "predict": (),
}
"""The protocols of each task; one that takes whatever path is left comes last."""

STREAMED = ("/v1/audio/speech", "/generate_stream")
"""The ends of paths whose answers are streams whatever the body says."""
