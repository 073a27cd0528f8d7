"""The protocols a model speaks, each a router of its own.

Bytes in, arrays to the engine, bytes out. A protocol knows its engine's interface and nothing of
Ray; which requests reach it is decided elsewhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter

from deployments.engines import Task
from deployments.protocols import (
    audio,
    embeddings,
    explanations,
    generate,
    hosted,
    rerank,
    speech_tasks,
    tasks,
    v1,
    v2,
    v2_generate,
)
from deployments.protocols.app import Served
from deployments.protocols.predictions import Prediction

Router = Callable[[Served | None], APIRouter]
"""Makes a protocol's router around a model; around None, for its documentation only."""

PREDICTIONS: dict[Task, Prediction[Any, Any]] = {
    "embed": tasks.Embed(),
    "rerank": tasks.Rerank(),
    "transcribe": speech_tasks.Transcribe(),
    "speak": speech_tasks.Speak(),
    "generate": tasks.Generate(),
    "predict": tasks.Predict(),
}
"""What each task is in KServe's protocols."""

KSERVE: dict[Task, tuple[Router, ...]] = {
    task: tuple(partial(make, prediction) for make in (v1.router, v2.router, explanations.router))
    for task, prediction in PREDICTIONS.items()
}
"""KServe's protocols, which every task has."""
OWN: dict[Task, tuple[Router, ...]] = {
    "embed": (embeddings.router,),
    "rerank": (rerank.router,),
    "transcribe": (audio.transcribe_router,),
    "speak": (audio.speak_router,),
    "generate": (v2_generate.router, generate.router, hosted.router),
    "predict": (hosted.router,),
}
"""The protocols that a task has of its own; one that takes whatever path is left comes last."""
ROUTERS: dict[Task, tuple[Router, ...]] = {task: (*KSERVE[task], *OWN[task]) for task in OWN}
"""All protocols of each task."""

STREAMED = ("/v1/audio/speech", "/generate_stream", "/infer_stream")
"""The ends of paths whose answers are streams whatever the body says."""
