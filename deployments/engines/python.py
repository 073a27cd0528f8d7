"""Any class of the user's as a model: arrays to arrays, or an ASGI app, or both. `Engine` says what it may have.

Knows nothing of HTTP, nor of what the class does.
"""

import asyncio
import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field, ValidationError

from deployments.batcher import Batcher
from deployments.engines import LoadContext, Task
from deployments.engines._answers import read_answer
from deployments.engines._classes import OwnClass
from deployments.engines._lifespan import Lifespan
from deployments.engines._rows import Rows, Tensors, Wanted
from deployments.errors import BadRequest, EngineError, LoadError, QueueFull, ServeAppError
from deployments.settings import ClassName, Frozen
from deployments.specs import Array, TensorSpec
from deployments.waiting import Item

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = logging.getLogger(__name__)


class Options(Frozen):
    class_: ClassName = Field(
        "model:Model", alias="class", description="module:Name; a module in the folder or an installed one"
    )
    arguments: dict[str, Any] = Field({}, description="what the class is made with")
    inputs: tuple[TensorSpec, ...] | None = Field(None, description="in place of what the class declares")
    outputs: tuple[TensorSpec, ...] | None = Field(None, description="in place of what the class declares")
    threads: int = Field(1, gt=0, description="requests that a predict which is no coroutine works on at once")
    batch_rows: int = Field(
        1, gt=0, description="rows of several requests given to predict in one call, if it judges each row by itself"
    )


class _Asked(NamedTuple):
    tensors: dict[str, Array]
    parameters: dict[str, Any]


class Engine:
    """Engine `python`, task predict: an instance of the class `class`, which may have

    `__init__(**arguments)`        takes `options.arguments`
    `load(path)`                   reads the model from the source's folder; may be a coroutine, on the replica's loop
    `predict(tensors)`             takes a dict of numpy arrays (BYTES: of objects that are `bytes`) and returns one, or
                                   one array, which is its first output; with a parameter called `parameters` also gets
                                   the request's. It runs in one of `threads` threads; a coroutine on the replica's loop
    `app`                          an ASGI app, or a method that makes one: answers what no protocol here does
    `inputs`, `outputs`            what it takes and gives: name, datatype and shape of each, in dicts or objects. None
                                   declared: anything. What is declared is checked, on both sides
    `alive()`                      False has the replica replaced; it must not block
    `close()`                      gives back what it holds; may be a coroutine

    and must have `predict` or `app`. Only a `deployments.errors.BadRequest` that it raises is the client's fault; any
    other exception is its own, and a 500. Its arrays may be read-only. How its modules import each other is said in
    `_modules`: another source, or the same one changed, is read afresh; installed packages are not.
    """

    task: ClassVar[Task] = "predict"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ()
    note: ClassVar[str] = ""
    columns: tuple[str, ...] = ()

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Import the class, make an instance, and have it load. Raises `LoadError`."""
        self._context, self._running = context, 0
        self._batcher: Batcher[_Asked, dict[str, Array] | ServeAppError] | None = None
        self._rows: Rows | None = None
        self._lifespan: Lifespan | None = None
        self._model: Any = None
        self._made = OwnClass(path, context)
        try:
            self._model = self._made.make(options.class_, options.arguments)
            self.inputs = self._specs("inputs", options.inputs)
            self.outputs = self._specs("outputs", options.outputs)
            self.named = bool(self.inputs)
            self._begin_predict(options)
            self.app: ASGIApp | None = self._begin_app()
            if not self._predict and not self.app:
                raise self._made.lacks("predict", "app")
        except BaseException:
            self.close()
            raise

    def alive(self) -> bool:
        """Whether the threads run, and the model says that it can go on."""
        return self._made.alive() and all(one is None or one.alive() for one in (self._batcher, self._rows))

    def close(self) -> None:
        """Stop the threads, end the app, close the model, and forget its modules."""
        for one in (self._batcher, self._rows):
            if one:
                one.close()
        try:
            if self._lifespan:
                self._made.on_loop(self._lifespan.stop())
        except Exception:
            log.exception("the app of %s did not stop", self._context.name)
        del self._model
        self._made.close()

    def explained(self) -> None:
        """See `deployments.engines.PredictEngine.explained`."""

    async def predict(
        self, tensors: Mapping[str, Array], outputs: Sequence[str], parameters: Mapping[str, Any]
    ) -> dict[str, Array]:
        """See `deployments.engines.PredictEngine.predict`. Where no outputs are named, all are answered.

        Raises what the model raises if that is an error of ours, else `EngineError`, and `QueueFull`.
        """
        declared = [spec.name for spec in self.outputs]
        if declared:
            _check_outputs(outputs, declared)
        asked = _Asked(dict(tensors), dict(parameters))
        answer: dict[str, Array] | ServeAppError
        if self._rows:
            answer = await self._rows.predict(asked.tensors, ())
        elif self._batcher:
            answer = (await self._batcher.submit([asked]))[0]
        elif self._predict:
            answer = await self._predict_on_loop(asked)
        else:
            raise BadRequest(f"model {self._context.name} has no predict; it answers on paths of its own")
        if isinstance(answer, ServeAppError):
            raise answer
        _check_outputs(outputs, list(answer))
        return {name: array for name, array in answer.items() if name in outputs or not outputs}

    def _specs(self, name: str, instead: tuple[TensorSpec, ...] | None) -> tuple[TensorSpec, ...]:
        given = getattr(self._model, name, None) or () if instead is None else instead
        try:
            return tuple(TensorSpec.model_validate(one, from_attributes=True) for one in given)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in wrong["loc"]) or repr(wrong["input"])
            raise LoadError(
                f"the class's {name} are not a name, a datatype and a shape each: {place}: {wrong['msg']}"
            ) from error
        except TypeError as error:
            raise LoadError(f"the class's {name} are no list: {error}") from error

    def _begin_predict(self, options: Options) -> None:
        self._predict = getattr(self._model, "predict", None)
        if self._predict is None:
            return
        self._takes_parameters = "parameters" in inspect.signature(self._predict).parameters
        coroutine, limit = inspect.iscoroutinefunction(self._predict), self._context.max_queue
        if options.batch_rows > 1:
            if coroutine or self._takes_parameters or options.threads > 1:
                raise LoadError("options.batch_rows is for a predict in one thread, no coroutine, without parameters")
            self._rows = Rows(
                self._context.name,
                self._predict_rows,
                max_rows=options.batch_rows,
                max_queue=limit,
                alike=False,  # who knows what it waits for
            )
        elif not coroutine:
            self._batcher = Batcher(
                self._context.name,
                lambda requests: [Item(one, 1) for one in requests],
                self._predict_in_thread,
                max_cost=1,
                max_items=1,
                max_padding=1.0,
                max_queue=limit,
                workers=options.threads,
                label="requests",
            )

    def _begin_app(self) -> "ASGIApp | None":
        app = getattr(self._model, "app", None)
        if inspect.ismethod(app) and not inspect.signature(app).parameters:
            with self._made.blamed("its method app failed"):
                app = app()
        if app is None:
            return None
        if not callable(app):
            raise LoadError(f"its app is a {type(app).__name__}, which is no ASGI app")
        lifespan = Lifespan(app)
        self._made.on_loop(lifespan.start())
        self._lifespan = lifespan
        return lifespan

    def _call(self, asked: _Asked) -> Any:
        assert self._predict is not None, "only called where there is one"
        extra = {"parameters": asked.parameters} if self._takes_parameters else {}
        return self._predict(asked.tensors, **extra)

    def _predict_in_thread(self, batch: list[_Asked]) -> list[dict[str, Array] | ServeAppError]:
        """One request's answer; its error as a value, for the batcher would put its own words to it."""
        try:
            with self._made.failing():
                return [read_answer(self._call(batch[0]), self.outputs)]
        except ServeAppError as error:
            return [error]

    def _predict_rows(self, tensors: Tensors, _wanted: Wanted) -> dict[str, Array]:
        """The answer to the rows of several requests; where it fails, each is tried alone."""
        with self._made.failing():
            return read_answer(self._call(_Asked(dict(tensors), {})), self.outputs)

    async def _predict_on_loop(self, asked: _Asked) -> dict[str, Array]:
        if self._running and self._running >= self._context.max_queue():
            raise QueueFull(f"{self._running} requests are worked on already", retry_after_s=1)
        self._running += 1
        try:
            with self._made.failing():
                return read_answer(await self._call(asked), self.outputs)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise EngineError("the model's predict was cancelled by something of its own") from error
        finally:
            self._running -= 1


def _check_outputs(wanted: Sequence[str], have: Sequence[str]) -> None:
    if unknown := [name for name in wanted if name not in have]:
        raise BadRequest(f"unknown output {unknown[0]!r}; have: {', '.join(have)}", param="outputs")
