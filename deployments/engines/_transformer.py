"""A class of the user's around a model: `preprocess` sees what a client sent, `postprocess` what the model answered.

Found, made, loaded and closed as the classes of the engine `python` are. Knows nothing of HTTP and of the model.
"""

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from deployments.engines import LoadContext
from deployments.engines._classes import OwnClass
from deployments.errors import EngineError
from deployments.settings import TransformerSettings

log = logging.getLogger(__name__)
Method = Literal["preprocess", "postprocess"]
METHODS: tuple[Method, ...] = ("preprocess", "postprocess")


class Transformer:
    """An instance of the class `class`, which may have, as KServe's have

    `preprocess(payload, headers)`     a request's JSON and headers, both as dicts; returns the dict to be asked
    `postprocess(result, headers)`     the model's answer as a dict; returns the dict to be answered

    and must have one of them. Each may be a coroutine, which runs on the replica's loop; one that is not runs in one of
    `threads` threads. Each may do without `headers`. `__init__(**arguments)`, `load(path)`, `alive()` and `close()` are
    as in the engine `python`, and so are errors: `deployments.errors.BadRequest` is the client's fault, any other
    exception a 500 that names the class and the method.
    """

    def load(self, path: Path, options: TransformerSettings, context: LoadContext) -> None:
        """Import the class, make an instance, and have it load. Raises `LoadError`."""
        self._context, self._class = context, options.class_
        self._threads = ThreadPoolExecutor(options.threads, thread_name_prefix="transformer")
        self._made = OwnClass(path, context, "transformer.class")
        self._methods: dict[Method, Callable[..., Any]] = {}
        try:
            model = self._made.make(options.class_, options.arguments)
            self._methods = {name: getattr(model, name) for name in METHODS if hasattr(model, name)}
            if not self._methods:
                raise self._made.lacks(*METHODS)
        except BaseException:
            self.close()
            raise

    def alive(self) -> bool:
        """Whether the instance says that it can go on."""
        return self._made.alive()

    def close(self) -> None:
        """Close the instance, stop the threads, and forget its modules."""
        self._methods = {}
        self._made.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, name: Method, payload: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        """What the method of that name makes of the payload; the payload itself where there is no such method.

        Raises what the method raises if that is an error of ours, else `EngineError`.
        """
        method = self._methods.get(name)
        if method is None:
            return payload
        call = functools.partial(method, payload, **({"headers": dict(headers)} if _takes_headers(method) else {}))
        with self._made.failing(f"{self._class}.{name}"):
            try:
                if inspect.iscoroutinefunction(method):
                    made = await call()
                else:
                    made = await asyncio.get_running_loop().run_in_executor(self._threads, call)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task and task.cancelling():
                    raise
                raise EngineError(f"{self._class}.{name} was cancelled by something of its own") from error
        if not isinstance(made, dict):
            raise EngineError(f"{self._class}.{name} returned a {type(made).__name__}; it returns a dict")
        return made

    def failed(self, name: Method, why: object) -> EngineError:
        """The error for something that a method returned and that cannot be used."""
        return EngineError(f"{self._class}.{name} returned what cannot be sent: {why}")


def _takes_headers(method: Callable[..., Any]) -> bool:
    parameters = inspect.signature(method).parameters.values()
    return any(one.name == "headers" or one.kind is one.VAR_KEYWORD for one in parameters)
