"""What is measured of each model, in the Prometheus endpoint that Ray exports (each name behind `ray_`).

Streams are timed where their bytes pass, in the model's replica. Knows nothing of what is answered.
"""

import math
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.histogram import Count, Histogram

STREAM = b"text/event-stream"
FIRST_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
PREDICT_S = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0]
BETWEEN_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]


class TokenTimes:
    """Times of one model's server-sent events, of which a language model sends one for each token, or few.

    Names are vLLM's, after its `vllm:`. Tokens per second are the rate of `generation_tokens_total`.
    """

    def __init__(self, model: str) -> None:
        tags = {"model_name": model}
        self._first = Histogram("time_to_first_token_seconds", "From a request to its first token", FIRST_S, tags)
        self._between = Histogram("inter_token_latency_seconds", "From a token to the next one", BETWEEN_S, tags)
        self._tokens = Count("generation_tokens", "Tokens streamed, as events", tags)

    def measured(self, app: ASGIApp) -> ASGIApp:
        """The app, with the events of its streams timed on their way."""

        async def timed(scope: Scope, receive: Receive, send: Send) -> None:
            began_s = last_s = time.monotonic()
            streamed = False
            seen = 0

            async def passed(message: MutableMapping[str, Any]) -> None:
                nonlocal streamed, seen, last_s
                if message["type"] == "http.response.start":
                    streamed = any(name == b"content-type" and STREAM in value for name, value in message["headers"])
                elif streamed and (events := _events(message.get("body", b""))):
                    now_s = time.monotonic()
                    if not seen:
                        self._first.observe(now_s - began_s)
                    else:
                        self._between.observe((now_s - last_s) / events)
                    self._tokens.add(events)
                    seen, last_s = seen + events, now_s
                await send(message)

            await app(scope, receive, passed)

        return timed


class Marks:
    """When the parts of one request began, in seconds of the monotonic clock; one that does not begin has no length.

    `ended(marks, failed)` is called at the end of its `with` block. `explained` says that it is one for an explanation.
    """

    def __init__(self, ended: Callable[["Marks", bool], None], explained: bool) -> None:
        self._ended, self.explained = ended, explained
        self.began_s = time.monotonic()
        self.predicting_s = self.writing_s = self.end_s = math.inf

    def predicting(self) -> None:
        """The request is read."""
        self.predicting_s = time.monotonic()

    def writing(self) -> None:
        """The model has answered."""
        self.writing_s = time.monotonic()

    def __enter__(self) -> "Marks":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end_s = time.monotonic()
        self.predicting_s, self.writing_s = min(self.predicting_s, self.end_s), min(self.writing_s, self.end_s)
        self._ended(self, kind is not None)


class PredictTimes:
    """Counts and times of one model's V1 and V2 requests: KServe's metrics, and what Triton's statistics say."""

    def __init__(self, model: str) -> None:
        tags = {"model_name": model}

        def histogram(name: str, says: str) -> Histogram:
            return Histogram(name, says, PREDICT_S, tags)

        self._read = histogram("request_preprocess_seconds", "Reading a V1 or V2 request")
        self._predict = histogram("request_predict_seconds", "The model's answer to a V1 or V2 request")
        self._explain = histogram("request_explain_seconds", "Predicting and explaining for a V1 or V2 request")
        self._write = histogram("request_postprocess_seconds", "Writing the answer to a V1 or V2 request")
        self._whole = histogram("kserve_inference_duration_seconds", "A V1 or V2 request, in the model's replica")
        self._load = histogram("kserve_model_load_duration_seconds", "Loading the model")
        self._count = Count("kserve_inference_count", "V1 and V2 requests", tags)
        self.done = self.failed = 0
        self.done_s = self.failed_s = self.predict_s = 0.0
        self.last_s = 0.0
        """When the last request came, in seconds since 1970."""

    def request(self, explained: bool = False) -> Marks:
        """Measures a `with` block, which marks its parts; one that raises, or is cancelled, counts as failed."""
        return Marks(self._ended, explained)

    def _ended(self, marks: Marks, failed: bool) -> None:
        took_s = marks.end_s - marks.began_s
        self._count.add(1)
        self.last_s = max(self.last_s, time.time() - took_s)
        if failed:
            self.failed += 1
            self.failed_s += took_s
            return
        self.done += 1
        self.done_s += took_s
        self.predict_s += marks.writing_s - marks.predicting_s
        self._read.observe(marks.predicting_s - marks.began_s)
        (self._explain if marks.explained else self._predict).observe(marks.writing_s - marks.predicting_s)
        self._write.observe(marks.end_s - marks.writing_s)
        self._whole.observe(took_s)

    def loaded(self, took_s: float) -> None:
        """The model was loaded."""
        self._load.observe(took_s)


def _events(body: bytes) -> int:
    """How many events with content a piece of a stream has."""
    return body.count(b"data: ") - body.count(b"data: [DONE]")
