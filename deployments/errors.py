"""Every error a caller can be answered with, each with its HTTP status and a stable code.

ServeAppError
├── BadRequest 400              the request itself is wrong
├── Unauthenticated 401         no API key, or an unknown one
├── NotFound 404                no such path, or nothing of that name under it
│   └── ModelNotFound 404       no such model, or none that serves what was asked
├── MethodNotAllowed 405
├── BodyTimeout 408             the body stopped arriving
├── PayloadTooLarge 413
├── HeadersTooLarge 431
├── QueueFull 429               try again later
├── NotImplementedHere 501      KServe has it, and this model has not
├── EngineError 500             the model failed on this input
├── ReplicaLost 502             every replica that took the request died
├── BadAnswer 502               a service that a graph asked cannot be reached, or its answer cannot be used
├── ModelUnavailable 503        not loaded: `ModelLoading`, `ModelFailed`
├── DeadlineExceeded 504
└── LoadError                   why a model cannot load (never answered as it is: `ModelFailed` carries it)
    └── SourceError             its files cannot be had

Rendering them in a caller's dialect is `deployments.protocols.dialects`. All of them survive a
pickle round trip, because they may cross a process boundary.
"""

from collections.abc import Sequence
from typing import ClassVar, Self

SHOWN = 12


def listed(names: Sequence[str]) -> str:
    """Names for a sentence: the first dozen, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


class ServeAppError(Exception):
    """Root of the tree: an error with a status, a code and, where one is to blame, a parameter name."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.param, self.retry_after_s)

    def about(self, what: str, index: int, count: int) -> Self:
        """The same error, naming which of `count` inputs, called `what`, it is about."""
        message = self.message if count == 1 else f"{what} {index}: {self.message}"
        place = f"{what}[{index}]" if count > 1 else what
        param = place if isinstance(self, BadRequest) else self.param
        return type(self)(message, param=param, retry_after_s=self.retry_after_s)


def _rebuild(cls: type[ServeAppError], message: str, param: str | None, retry_after_s: float | None) -> ServeAppError:
    return cls(message, param=param, retry_after_s=retry_after_s)


class BadRequest(ServeAppError):
    status = 400
    code = "invalid_request"


class NotFound(ServeAppError):
    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"

    @classmethod
    def named(cls, name: str, have: list[str]) -> Self:
        """The standard sentence of KServe's server, then what would have been valid."""
        return cls(f"Model with name {name} does not exist. Models here: {listed(have) or 'none'}.", param="model")


class Unauthenticated(ServeAppError):
    status = 401
    code = "invalid_api_key"


class MethodNotAllowed(ServeAppError):
    status = 405
    code = "method_not_allowed"


class BodyTimeout(ServeAppError):
    status = 408
    code = "body_timeout"


class PayloadTooLarge(ServeAppError):
    status = 413
    code = "payload_too_large"


class QueueFull(ServeAppError):
    status = 429
    code = "queue_full"


class HeadersTooLarge(ServeAppError):
    status = 431
    code = "headers_too_large"


class EngineError(ServeAppError):
    code = "engine_error"


class NotImplementedHere(ServeAppError):
    status = 501
    code = "not_implemented"


class ReplicaLost(ServeAppError):
    status = 502
    code = "replica_lost"


class BadAnswer(ServeAppError):
    status = 502
    code = "bad_answer"


class ModelUnavailable(ServeAppError):
    status = 503
    code = "model_unavailable"


class ModelLoading(ModelUnavailable):
    code = "model_loading"


class ModelFailed(ModelUnavailable):
    code = "model_failed"


class DeadlineExceeded(ServeAppError):
    status = 504
    code = "deadline_exceeded"


class LoadError(ServeAppError):
    code = "load_error"


class SourceError(LoadError):
    code = "source_error"
