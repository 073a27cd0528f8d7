"""What is measured of graphs and their steps, in the Prometheus endpoint that Ray exports (each name behind `ray_`).

Knows nothing of what goes through them.
"""

from collections.abc import Sequence
from typing import NamedTuple

from deployments.histogram import Histogram
from deployments.metrics import PREDICT_S

CLIENT_GONE = 499
"""The status of what nobody waited for to the end, as nginx counts it."""
REQUEST = ("inference_graph_request_duration_seconds", "A request to a graph, until its answer has ended")
STEP = (
    "inference_graph_step_duration_seconds",
    "A step of a graph, until its answer has ended, or has begun where it is the graph's",
)


class Timing(NamedTuple):
    """One step's time in one request, and the status of its answer."""

    step: str
    took_s: float
    status: int


class GraphTimes:
    """Times of requests and of steps by status (`code`); their counts are the histograms' own, `_count`."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Histogram] = {}

    def ended(self, graph: str, status: int, took_s: float, steps: Sequence[Timing]) -> None:
        """A request to that graph has ended, after these steps."""
        self._of(*REQUEST, graph_name=graph, code=str(status)).observe(took_s)
        for one in steps:
            self._of(*STEP, graph_name=graph, step_name=one.step, code=str(one.status)).observe(one.took_s)

    def _of(self, name: str, says: str, **tags: str) -> Histogram:
        key = (name, *tags.values())
        if key not in self._made:
            self._made[key] = Histogram(name, says, PREDICT_S, tags)
        return self._made[key]
