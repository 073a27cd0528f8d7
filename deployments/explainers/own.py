"""A class of the user's as an explainer of any model. `OwnExplainer` says what it may have.

Knows nothing of HTTP, nor of what the class does.
"""

import asyncio
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deployments.batcher import Batcher
from deployments.engines import LoadContext
from deployments.engines._classes import OwnClass
from deployments.errors import LoadError, ServeAppError
from deployments.explainers import Explanation, Question
from deployments.settings import ExplainerSettings
from deployments.waiting import Item


class _Asked(NamedTuple):
    question: Question
    loop: asyncio.AbstractEventLoop


class OwnExplainer:
    """An instance of the class `class`, which is found, made, loaded and closed as engine `python` does, and must have

    `explain(instances, predict)`  takes the request's instances, as V1 has them, and returns what JSON has (numpy
                                   arrays too): a dict is V1's whole answer, anything else its `explanations`.
                                   `predict(instances)` asks the model, and returns its predictions. With a parameter
                                   called `parameters` it also gets the request's

    It runs in a thread, one request at a time. Only a `deployments.errors.BadRequest` of its is the client's fault.
    """

    def __init__(self, settings: ExplainerSettings, path: Path, context: LoadContext) -> None:
        assert settings.class_ is not None, "only made of a class"
        self._made = OwnClass(path, context, "explainer.class")
        try:
            self._model = self._made.make(settings.class_, settings.arguments)
            explain = getattr(self._model, "explain", None)
            if not callable(explain) or inspect.iscoroutinefunction(explain):
                raise LoadError(f"{settings.class_} needs a method explain(instances, predict) that is no coroutine")
            self._takes_parameters = "parameters" in inspect.signature(explain).parameters
        except BaseException:
            self._made.close()
            raise
        self._batcher: Batcher[_Asked, Any] = Batcher(
            f"{context.name}-explainer",
            lambda requests: [Item(one, 1) for one in requests],
            self._explain,
            max_cost=1,
            max_items=1,
            max_padding=1.0,
            max_queue=context.max_queue,
            label="requests",
        )

    async def explain(self, question: Question) -> Explanation:
        """See `deployments.explainers.Explainer.explain`."""
        asked = _Asked(question, asyncio.get_running_loop())
        made = (await self._batcher.submit([asked]))[0]
        if isinstance(made, ServeAppError):
            raise made
        return Explanation(made if isinstance(made, dict) else {"explanations": made}, made, {})

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._batcher.alive()

    def close(self) -> None:
        """Stop the thread, close the instance, and forget its modules."""
        self._batcher.close()
        self._model = None
        self._made.close()

    def _explain(self, batch: list[_Asked]) -> list[Any]:
        """One request's answer; its error as a value, for the batcher would put its own words to it."""
        question, loop = batch[0]

        def predict(instances: Sequence[Any]) -> Sequence[Any]:
            async def ask() -> Sequence[Any]:
                return await question.predict(list(instances))

            return asyncio.run_coroutine_threadsafe(ask(), loop).result()

        extra = {"parameters": dict(question.parameters)} if self._takes_parameters else {}
        try:
            with self._made.failing("the explainer"):
                return [self._model.explain(list(question.instances()), predict, **extra)]
        except ServeAppError as error:
            return [error]
