"""What is measured of each model, in the Prometheus endpoint that Ray exports (each name behind `ray_`).

Streams are timed where their bytes pass, in the model's replica. Knows nothing of what is answered.
"""

import time
from collections.abc import MutableMapping
from typing import Any

from ray.util.metrics import Counter, Histogram
from starlette.types import ASGIApp, Receive, Scope, Send

STREAM = b"text/event-stream"
FIRST_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
BETWEEN_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5]


class TokenTimes:
    """Times of one model's server-sent events, of which a language model sends one for each token, or few.

    Names are vLLM's, after its `vllm:`. Tokens per second are the rate of `generation_tokens_total`.
    """

    def __init__(self, model: str) -> None:
        tags = {"model_name": model}
        self._first = Histogram(
            "time_to_first_token_seconds", "From a request to its first token", FIRST_S, ("model_name",)
        )
        self._between = Histogram(
            "inter_token_latency_seconds", "From a token to the next one", BETWEEN_S, ("model_name",)
        )
        self._tokens = Counter("generation_tokens", "Tokens streamed, as events", ("model_name",))
        for metric in (self._first, self._between, self._tokens):
            metric.set_default_tags(tags)

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
                    self._tokens.inc(events)
                    seen, last_s = seen + events, now_s
                await send(message)

            await app(scope, receive, passed)

        return timed


def _events(body: bytes) -> int:
    """How many events with content a piece of a stream has."""
    return body.count(b"data: ") - body.count(b"data: [DONE]")
