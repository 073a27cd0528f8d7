"""Engines: one file each, found by its name. The interfaces they implement, one per task, are here.

An engine file defines a class `Engine`. It imports its heavy library inside `load()`, computes in
a thread of its own, and knows nothing of HTTP. Adding one is adding its file.
"""

import asyncio
import importlib
import os
import pkgutil
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from deployments.errors import BadRequest
from deployments.settings import Frozen
from deployments.specs import Array, TensorSpec

if TYPE_CHECKING:
    from starlette.types import ASGIApp

Task = Literal["embed", "rerank", "transcribe", "speak", "generate", "predict"]
Truncate = Literal["end", "error"]
Text = str | list[int]
"""A text, or the ids of its tokens in the model's own vocabulary."""


@dataclass(frozen=True)
class LoadContext:
    """What an engine may know of where it runs: the model's name, the CPUs and GPUs that it reserves."""

    name: str
    cpus: float
    gpus: float
    max_queue: Callable[[], int]
    """How many inputs may wait for the engine now."""
    progress: Callable[[str], None]
    """Told what is being done now, for people who wait."""
    loop: asyncio.AbstractEventLoop | None = None
    """Where requests will come, for engines with asyncio parts of their own; it runs while the engine loads."""
    aliases: Callable[[], Sequence[str]] = tuple
    """Further names of the model now, for engines that check the names that requests give."""

    @property
    def threads(self) -> int:
        """CPU threads to compute with: the replica's whole CPUs, or every core where it reserves a part of one."""
        return int(self.cpus) if self.cpus >= 1 else os.cpu_count() or 1


class Engine(Protocol):
    """What every engine has, whatever its task."""

    task: ClassVar[Task]
    options_type: ClassVar[type[Frozen]]
    """The keys that `options:` may have in the catalog."""
    libraries: ClassVar[tuple[str, ...]]
    """Modules that `load()` imports and that take long; none that it has to prepare the import of."""
    note: ClassVar[str]
    """What people should know of its quality, in one sentence; empty where there is nothing to say."""

    def load(self, path: Path, options: Any, context: LoadContext) -> None:
        """Read the model in folder `path` into memory. Blocks. Raises whatever the library raises."""

    def alive(self) -> bool:
        """Whether the engine can still compute; a replica whose engine cannot is replaced."""

    def close(self) -> None:
        """Stop computing, fail what still waits, and give the memory back. Blocks."""


class Embedded(NamedTuple):
    """`vectors` is float32 `[n, d]`; `tokens` counts what was read, special tokens included."""

    vectors: npt.NDArray[np.float32]
    tokens: int


class EmbedEngine(Engine, Protocol):
    dimensions: int
    """Length d of a vector."""

    async def embed(
        self,
        texts: Sequence[Text],
        *,
        prompt: str | None = None,
        truncate: Truncate | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
    ) -> Embedded:
        """Texts `[n]` to float32 `[n, d]`, in order.

        `prompt` names one of the model's prompts. `truncate` and `normalize` default to the model's
        options. `dimensions` keeps the first so many numbers of each vector and scales it back to
        length 1. Raises `BadRequest` for an unknown prompt, bad ids, bad dimensions or, under
        `truncate="error"`, a text over the model's limit, naming the input.
        """

    def decode_ids(self, ids: Sequence[int]) -> Text:
        """Token ids as a client sent them, in what `embed` takes. Raises `BadRequest`."""


class Reranked(NamedTuple):
    """`scores` is float32 `[n]` in 0..1; `logits` the same before the sigmoid."""

    scores: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    tokens: int


class RerankEngine(Engine, Protocol):
    async def rerank(self, query: str, documents: Sequence[str], *, truncate: Truncate | None = None) -> Reranked:
        """One query and documents `[n]` to float32 `[n]`, in order. Each score depends on its document alone."""


PCM = npt.NDArray[np.float32]
"""Mono audio, `[samples]`, in -1..1."""
LISTENING_RATE_HZ = 16_000
"""The sample rate of all audio that an engine transcribes."""


class Word(NamedTuple):
    """A word and when it was said, in seconds from the audio's beginning; `probability` is in 0..1."""

    start_s: float
    end_s: float
    text: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, in seconds from the audio's beginning, and what was said in it.

    `text` begins with the space that sets it apart from what came before, in languages that write one.
    The fields from `tokens` on are Whisper's own, as OpenAI's `verbose_json` shows them; other engines
    leave them as they are here.
    """

    start_s: float
    end_s: float
    text: str
    language: str
    words: tuple[Word, ...] = ()
    tokens: tuple[int, ...] = ()
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0
    seek: int = 0


@dataclass(frozen=True)
class TranscribeOptions:
    """What a request may say of how it is to be transcribed; None leaves it to the model's options."""

    language: str | None = None
    translate: bool = False
    """Whether the text is to be in English, whatever was spoken."""
    prompt: str | None = None
    hotwords: str | None = None
    temperature: float | None = None
    words: bool = False
    """Whether segments are to have words with times."""
    vad: bool | None = None
    """Whether stretches without speech are left out before anything is transcribed."""


class TranscribeEngine(Engine, Protocol):
    def transcribe(self, pcm: Iterable[PCM], asked: TranscribeOptions) -> AsyncGenerator[Segment]:
        """Audio at `LISTENING_RATE_HZ`, in pieces of any length, to segments, in order, each as it is found.

        `pcm` is read in the engine's thread, not faster than it is worked on; what it raises comes out
        here. Closing the iterator stops the work. Raises `BadRequest` for a language that the model
        does not know, and for a translation that it cannot do, before the first segment.
        """


class Voice(NamedTuple):
    """A voice that a request can name; `language` is a BCP 47 tag, or empty where it speaks all of the model's."""

    id: str
    name: str
    language: str = ""


class SpeakEngine(Engine, Protocol):
    sample_rate_hz: int
    """The rate of what `speak` makes."""

    def voices(self) -> list[Voice]:
        """The voices there are now."""

    def speak(self, text: str, *, voice: str | None = None, language: str | None = None) -> AsyncGenerator[PCM]:
        """A text to mono float32 at `sample_rate_hz`, in pieces, each as it is ready.

        Closing the iterator stops the work. Raises `BadRequest` for an unknown voice or language before
        the first piece. The default voice and language are the model's options'.
        """

    async def add_voice(self, name: str, pcm: PCM, rate_hz: int) -> Voice:
        """Keep a sample of speech, mono `[samples]` at `rate_hz`, as a voice of that name, replacing one that is there.

        Raises `BadRequest` for a name that cannot be one, a sample that is too short, or where voices are fixed.
        """

    async def delete_voice(self, name: str) -> None:
        """Forget an added voice. Raises `NotFound`; `BadRequest` where voices are fixed."""


class Message(NamedTuple):
    """One message of a chat: a role such as `user`, and its text."""

    role: str
    content: str


@dataclass(frozen=True)
class GenerateOptions:
    """How a text is to be continued; None leaves it to the model's own settings."""

    max_tokens: int | None = None
    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """The text ends before the first of these, which is not part of it."""
    adapter: str | None = None
    """One of the engine's `adapters()`; None for the model itself."""


class Generated(NamedTuple):
    """A piece of a generated text.

    `text` may be empty while a character or a stop string is incomplete. `finish_reason` is None but in the last
    piece: `stop` for the model's own end or a stop string, `length` for the limit.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    """So far, in all."""
    finish_reason: Literal["stop", "length"] | None = None


class GenerateEngine(Engine, Protocol):
    app: "ASGIApp | None"
    """The engine's own ASGI app, which answers every request as it is; None where `generate` is all there is."""
    context_length: int
    """Tokens that prompt and generated text may have together."""

    def adapters(self) -> list[str]:
        """Names of the LoRA adapters that are loaded now, each a model of its own to clients."""

    def generate(self, prompt: str | Sequence[Message], asked: GenerateOptions) -> AsyncGenerator[Generated]:
        """Continue a text, or answer a chat, piece by piece.

        Closing the iterator stops the work. Raises `BadRequest`, before the first piece, for a prompt that
        leaves no room in the context, with the numbers, and for a chat that the model cannot take.
        """


class PredictEngine(Engine, Protocol):
    app: "ASGIApp | None"
    """The model's own ASGI app, which answers what no protocol here does; None where there is none."""
    inputs: tuple[TensorSpec, ...]
    """None where the model takes whatever names, datatypes and shapes it is given."""
    columns: tuple[str, ...]
    """Names under which a request may give the columns of a table instead of `inputs`: all of them, each `[n]` or
    `[n, 1]`, of any datatype. None where the model has no names for them."""
    outputs: tuple[TensorSpec, ...]
    """The first of them is the answer to a request that names none, unless the model always makes all of them; none
    where the model does not say what it answers."""
    named: bool
    """Whether requests must call the inputs by their names; a model's only input may otherwise have any."""

    async def predict(
        self, tensors: Mapping[str, Array], outputs: Sequence[str], parameters: Mapping[str, Any]
    ) -> dict[str, Array]:
        """Named arrays to named arrays.

        `tensors` have the names, datatypes and shapes of `inputs`, or the names of `columns`; they may be
        read-only. `outputs` are the names that are wanted, none for the model's default. Raises `BadRequest` for
        values that the model cannot take, and for an output that there is not.
        """

    def explained(self) -> Any | None:
        """The library's own model, as SHAP's explainers of trees and of linear models read it; None where none can."""


def names() -> list[str]:
    """The engines there are, by file name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find(name: str) -> type[Engine]:
    """The engine class of that name. Raises `BadRequest` naming the engines there are."""
    if name not in names():
        raise BadRequest(f"unknown engine {name!r}; have: {', '.join(names())}", param="engine")
    engine: type[Engine] = importlib.import_module(f"{__name__}.{name}").Engine
    return engine


def may_have_own_app(name: str) -> bool:
    """Whether models of that engine may have an ASGI app of their own, and so answer paths that no protocol here has.

    Raises `BadRequest` naming the engines there are.
    """
    engine = find(name)
    return engine.task in ("generate", "predict") and getattr(engine, "app", engine) is not None
