"""Engines whose answers are known at a glance, one for each task, and requests to the app around one."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from deployments import encoding
from deployments.engines import PCM, Embedded, Generated, GenerateOptions, Reranked, Segment, Task, TranscribeOptions
from deployments.errors import BadRequest, EngineError
from deployments.protocols import PREDICTIONS, ROUTERS, models
from deployments.protocols.app import build_app
from deployments.specs import Array, Datatype, TensorSpec
from tests.protocols.fakes import Served


class Embed:
    """A text's vector is its length, three times."""

    dimensions = 3

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    async def embed(self, texts: Sequence[str], **asked: Any) -> Embedded:
        self.asked = asked
        if asked["prompt"] == "nope":
            raise BadRequest("unknown prompt 'nope'")
        return Embedded(np.array([[len(text)] * 3 for text in texts], np.float32), len(texts))


class Rerank:
    """A document's score is one over its length."""

    async def rerank(self, _query: str, documents: Sequence[str], **_asked: Any) -> Reranked:
        scores = np.array([1 / len(one) for one in documents], np.float32)
        return Reranked(scores, scores, 1)


class Transcribe:
    """Hears how long it lasted."""

    def __init__(self) -> None:
        self.asked: list[TranscribeOptions] = []

    async def transcribe(self, pcm: Iterable[PCM], asked: TranscribeOptions) -> AsyncGenerator[Segment]:
        self.asked.append(asked)
        if asked.language == "xx":
            raise BadRequest("unknown language 'xx'")
        samples = sum(len(piece) for piece in pcm)
        yield Segment(0, 1, f" {samples}", "en")
        yield Segment(1, 2, " samples", "en")


class Speak:
    """A hundred samples of silence for each character."""

    sample_rate_hz = 16_000

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str | None]] = []

    async def speak(self, text: str, *, voice: str | None = None, language: str | None = None) -> AsyncGenerator[PCM]:
        self.asked.append((text, voice, language))
        if voice == "nobody":
            raise BadRequest("unknown voice 'nobody'")
        for _ in text:
            yield np.zeros(100, np.float32)


class Generate:
    """Says the prompt's words back, a piece each, as many as `max_tokens`; FAIL breaks it."""

    app = None
    context_length = 100

    def __init__(self) -> None:
        self.asked: list[GenerateOptions] = []
        self.open = 0

    def adapters(self) -> list[str]:
        return ["fr"]

    async def generate(self, prompt: str, asked: GenerateOptions) -> AsyncGenerator[Generated]:
        self.asked.append(asked)
        if not prompt:
            raise BadRequest("the prompt is empty")
        self.open += 1
        try:
            for made, word in enumerate(prompt.split()[: asked.max_tokens], 1):
                if word == "FAIL":
                    raise EngineError("the model failed on this input")
                yield Generated(word, 5, made)
        finally:
            self.open -= 1


class Predict:
    """Answers what a function makes of the inputs; remembers them."""

    app = None

    def __init__(
        self,
        answer: Callable[[Mapping[str, Array]], dict[str, Array]] = dict,
        inputs: Sequence[TensorSpec] = (),
        outputs: Sequence[TensorSpec] = (),
        named: bool = True,
    ) -> None:
        self._answer = answer
        self.inputs, self.outputs, self.named = tuple(inputs), tuple(outputs), named
        self.columns: tuple[str, ...] = ()
        self.got: Mapping[str, Array] = {}
        self.asked: tuple[Sequence[str], Mapping[str, Any]] = ((), {})

    async def predict(
        self, tensors: Mapping[str, Array], outputs: Sequence[str], parameters: Mapping[str, Any]
    ) -> dict[str, Array]:
        self.got, self.asked = tensors, (outputs, parameters)
        return self._answer(tensors)


def spec(name: str, datatype: Datatype, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def sound(samples: int = 16_000) -> bytes:
    """A WAV file of silence at 16 kHz."""
    return encoding.whole_wav([np.zeros(samples, np.float32)], 16_000)


async def ask(served: Served[Any], path: str, method: str = "POST", **options: Any) -> httpx.Response:
    """The answer of the app that a replica would build around the model; its engine is let go of by then."""
    task: Task = served.status().task
    routers = [models.router(PREDICTIONS[task], served), *(make(served) for make in ROUTERS[task])]
    transport = httpx.ASGITransport(build_app("m", routers), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.request(method, path, **options)
    assert served.held == 0
    return answer
