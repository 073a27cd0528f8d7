"""What is measured of graphs and their steps, in the Prometheus endpoint that Ray exports (each name behind `ray_`).

Knows nothing of what goes through them.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from ray.util.metrics import Histogram

from deployments.metrics import PREDICT_S

CLIENT_GONE = 499
"""The status of what nobody waited for to the end, as nginx counts it."""


class Timing(NamedTuple):
    """One step's time in one request, and the status of its answer."""

    step: str
    took_s: float
    status: int


class GraphTimes:
    """Times of requests and of steps by status (`code`); their counts are the histograms' own, `_count`."""

    def __init__(self) -> None:
        self._requests = Histogram(
            "inference_graph_request_duration_seconds",
            "A request to a graph, until its answer has ended",
            PREDICT_S,
            ("graph_name", "code"),
        )
        self._steps = Histogram(
            "inference_graph_step_duration_seconds",
            "A step of a graph, until its answer has ended, or has begun where it is the graph's",
            PREDICT_S,
            ("graph_name", "step_name", "code"),
        )

    def ended(self, graph: str, status: int, took_s: float, steps: Sequence[Timing]) -> None:
        """A request to that graph has ended, after these steps. Told to Ray when the answer is on its way."""
        asyncio.get_running_loop().call_soon(self._tell, graph, status, took_s, tuple(steps))

    def _tell(self, graph: str, status: int, took_s: float, steps: Sequence[Timing]) -> None:
        self._requests.observe(took_s, {"graph_name": graph, "code": str(status)})
        for one in steps:
            self._steps.observe(one.took_s, {"graph_name": graph, "step_name": one.step, "code": str(one.status)})
