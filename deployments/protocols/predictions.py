"""How each task is asked in KServe's protocols: by V1's instances or by V2's named tensors, to the same work.

Knows nothing of HTTP and of how tensors are written down.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from deployments.errors import BadRequest, listed
from deployments.protocols.app import Served, explain
from deployments.specs import Array, Datatype, TensorSpec, object_array
from deployments.tensors import show

Item = TypeVar("Item")
Result = TypeVar("Result")
Shape = TypeVar("Shape", bound=BaseModel)


class Specs(NamedTuple):
    """A model's tensors."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    named: bool = True
    """Whether the inputs must be called by their names."""
    columns: Sequence[str] = ()
    """Names of columns that may be given, all of them, instead of the inputs."""

    def inputs_of(self, names: Collection[str]) -> dict[str, TensorSpec]:
        """The declared input that each of the given names stands for; nothing where none is declared for them.

        Raises `BadRequest` for a name that is not declared, and for a declared one that is missing.
        """
        if self.columns and any(name in self.columns for name in names):
            self._check_columns(names)
            return {}
        if not self.named and len(self.inputs) == len(names) == 1:
            return dict(zip(names, self.inputs, strict=True))
        declared = {one.name: one for one in self.inputs}
        have = f"the model has {', '.join(declared)}"
        if self.columns:
            have += f", or the columns {listed(self.columns)}"
        if unknown := [name for name in names if declared and name not in declared]:
            raise BadRequest(f"unknown input {show(unknown[0])}; {have}", param=unknown[0])
        if missing := [name for name in declared if name not in names]:
            raise BadRequest(f"no input {', '.join(missing)}; {have}", param=missing[0])
        return declared

    def _check_columns(self, names: Collection[str]) -> None:
        """Raise `BadRequest` unless these are the columns, all of them."""
        have = f"the model has {listed(self.columns)}"
        if unknown := [name for name in names if name not in self.columns]:
            raise BadRequest(f"unknown column {show(unknown[0])}; {have}", param=unknown[0])
        if missing := [name for name in self.columns if name not in names]:
            raise BadRequest(f"no column {listed(missing)}; {have}", param=missing[0])


@dataclass(slots=True, eq=False)
class Asked:
    """Whom a request is for, by which name, and its parameters."""

    served: Served
    model: str
    specs: Specs
    parameters: Mapping[str, Any] = field(default_factory=dict)
    items: str = "instances"
    """What the request calls what it has several of."""
    outputs: Sequence[str] = ()
    """The outputs that it wants; none for the model's default."""

    def read(self, shape: type[Shape]) -> Shape:
        """The parameters as `shape`. Raises `BadRequest`."""
        try:
            return shape.model_validate(dict(self.parameters))
        except ValidationError as error:
            raise explain(error) from None

    @contextlib.contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """A refusal within the block names the item."""
        try:
            yield
        except ValidationError as error:
            raise BadRequest(f"{self.items}[{index}]: {explain(error).message}", param=self.items) from None
        except BadRequest as error:
            raise BadRequest(f"{self.items}[{index}]: {error.message}", param=self.items) from error

    def check_shares(self, shares: Iterable[float]) -> None:
        """Raise `BadRequest` naming the item with which a request asks for more than one may; shares are of 1."""
        total = 0.0
        for index, share in enumerate(shares):
            total += share
            if total > 1 + 1e-9:  # the sum of as many parts as there may be is 1 but for rounding
                with self.naming(index):
                    raise BadRequest("with those before it, it is more than one request may ask for (limits)")


class Prediction(ABC, Generic[Item, Result]):
    """One task: what is given becomes items, the items results, the results what is answered."""

    of_engine: ClassVar[bool] = False
    """Whether only a loaded engine knows the tensors."""

    @abstractmethod
    def specs(self, engine: Any | None) -> Specs:
        """The tensors of a model; of one that is not loaded, what is known without it."""

    @abstractmethod
    def of_instances(self, asked: Asked, instances: list[Any]) -> list[Item]:
        """V1's instances. Raises `BadRequest`."""

    @abstractmethod
    def of_tensors(self, asked: Asked, tensors: Mapping[str, Array]) -> list[Item]:
        """V2's tensors, in the names and datatypes of `specs`. Raises `BadRequest`."""

    def named_tensors(self, items: Sequence[Item]) -> Mapping[str, Array]:  # noqa: ARG002
        """The items as the engine's own tensors; none for a task whose engines know no tensors."""
        return {}

    @abstractmethod
    async def work(self, asked: Asked, engine: Any, items: Sequence[Item]) -> Sequence[Result]:
        """One result for each item, in order."""

    def predictions(self, results: Sequence[Result]) -> Sequence[object] | Array:
        """V1's predictions."""
        return results

    @abstractmethod
    def tensors(self, results: Sequence[Result]) -> dict[str, Array]:
        """V2's outputs."""

    async def stream(self, asked: Asked, engine: Any, items: Sequence[Item]) -> AsyncGenerator[dict[str, Array]]:
        """V2's outputs, piece by piece where the task has pieces; all at once where it has none."""
        yield self.tensors(await self.work(asked, engine, items))


async def together(works: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of all, in order; when one fails, or this is cancelled, the others end too."""
    each = list(works)
    if len(each) == 1:
        return [await each[0]]
    tasks = [asyncio.ensure_future(work) for work in each]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def texts_of(array: Array) -> list[str]:
    """BYTES of any shape as texts. Raises `BadRequest` for what is not UTF-8."""
    try:
        return [value.decode() for value in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise BadRequest(f"a text is not UTF-8: {error}") from None


def bytes_array(values: Sequence[str | bytes]) -> Array:
    """Texts or bytes as BYTES `[n]`."""
    return object_array([value.encode() if isinstance(value, str) else value for value in values])


def read_instances(asked: Asked, given: list[Any], shape: type[Shape], alone: str | None = None) -> list[Shape]:
    """Instances as `shape`; a text alone stands for one that has it under `alone`. Raises `BadRequest`."""
    found = []
    for index, one in enumerate(given):
        with asked.naming(index):
            given_alone = {alone: one} if alone and isinstance(one, str) else one
            if not isinstance(given_alone, dict):
                needed = [name for name, field in shape.model_fields.items() if field.is_required()]
                raise BadRequest(f"an instance is an object with {', '.join(needed)}")
            found.append(shape.model_validate(given_alone))
    return found


def filled(given: Shape, defaults: BaseModel) -> Shape:
    """`given`, with what it does not say taken from what `defaults` says."""
    said = {name: value for name, value in defaults if name in defaults.model_fields_set}
    return given.model_copy(update={name: value for name, value in said.items() if name not in given.model_fields_set})


def spec(name: str, datatype: Datatype, *shape: int) -> TensorSpec:
    """A tensor's description; -1 is a length that varies."""
    return TensorSpec(name=name, datatype=datatype, shape=shape)


class Instance(BaseModel):
    """Base of V1's instances: a key that is not known is a mistake."""

    model_config = ConfigDict(extra="forbid")
