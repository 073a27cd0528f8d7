"""Explainers: what answers `:explain` for a loaded model, by SHAP or by a class of the user's.

Knows nothing of HTTP.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from deployments import sources
from deployments.engines import LoadContext
from deployments.settings import ExplainerSettings
from deployments.specs import Array


@dataclass(frozen=True)
class Question:
    """A request for an explanation: the same inputs in the forms that explainers take, and what the model says."""

    tensors: Mapping[str, Array]
    """As `PredictEngine.predict` takes them; none for a model of another task."""
    instances: Callable[[], Sequence[Any]]
    """As V1 has them. Raises `BadRequest` for tensors of V2 that are no instances."""
    predictions: Sequence[Any] | Array
    """The model's answer to the instances."""
    predict: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
    """Asks the model for V1's predictions for V1's instances."""
    parameters: Mapping[str, Any] = field(default_factory=dict)


class Explanation(NamedTuple):
    """The answer, as each protocol gives it; values are what JSON has, and numpy arrays."""

    v1: dict[str, Any]
    """KServe V1's whole answer."""
    v2: Any
    """The document in V2's output `explanation`."""
    tensors: dict[str, Array]
    """Further outputs that V2 has."""


class Explainer(Protocol):
    async def explain(self, question: Question) -> Explanation:
        """The explanation, computed in a thread of its own. Raises `BadRequest`, `QueueFull`, `EngineError`."""

    def alive(self) -> bool:
        """Whether it can still compute."""

    def close(self) -> None:
        """Stop computing. Blocks."""


def load(settings: ExplainerSettings, engine: Any, path: Path, context: LoadContext) -> Explainer:
    """The explainer of a loaded engine whose files are in `path`. Blocks. Raises `LoadError`."""
    from deployments.explainers.own import OwnExplainer
    from deployments.explainers.shap import ShapExplainer

    if settings.class_ is not None:
        folder = sources.resolve(settings.source, context.progress) if settings.source else path
        return OwnExplainer(settings, folder, context)
    return ShapExplainer(settings, engine, context)
