"""The protocols a model speaks, each a router of its own.

Bytes in, arrays to the engine, bytes out. A protocol knows its engine's interface and nothing of
Ray; which requests reach it is decided elsewhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter

from deployments.engines import Task
from deployments.protocols import audio, embeddings, generate, hosted, rerank, speech_tasks, tasks, v1, v2, v2_generate
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

_OWN: dict[Task, tuple[Router, ...]] = {
    "embed": (embeddings.router,),
    "rerank": (rerank.router,),
    "transcribe": (audio.transcribe_router,),
    "speak": (audio.speak_router,),
    "generate": (v2_generate.router, generate.router, hosted.router),
    "predict": (hosted.router,),
}
ROUTERS: dict[Task, tuple[Router, ...]] = {
    task: (partial(v1.router, PREDICTIONS[task]), partial(v2.router, PREDICTIONS[task]), *own)
    for task, own in _OWN.items()
}
"""The protocols of each task, KServe's first; one that takes whatever path is left comes last."""

STREAMED = ("/v1/audio/speech", "/generate_stream", "/infer_stream")
"""The ends of paths whose answers are streams whatever the body says."""
