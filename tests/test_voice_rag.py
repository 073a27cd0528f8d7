"""The catalog voice-rag: its index, and the whole of it, as it is shipped, in one process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from ruamel.yaml import YAML
from starlette.types import Send

from deployments.asgi import Head, receive_of, run_unary, scope_of
from deployments.model import Model as Served
from deployments.sources import resolve
from serve_app import catalog as catalogs
from serve_app.catalogs.voice_rag.model import NEAREST, Model
from serve_app.graphs.endpoint import Graphs
from tests.graphs.graphed import Answered

FOLDER = resolve("package://serve_app.catalogs.voice_rag", lambda _: None)
DATA = YAML(typ="safe").load(resolve("package://deployments.embedded_llm", lambda _: None) / "questions.yaml")


@pytest.fixture(scope="module")
def search() -> Model:
    model = Model()
    model.load(FOLDER)
    return model


def test_the_index_has_the_language_models_questions(search: Model) -> None:
    """After a change of questions.yaml: `python scripts/index_questions.py`."""
    first = [answer["questions"][0] for answer in DATA["answers"]]
    assert [text.decode() for text in search._questions] == first


def test_a_questions_own_vector_finds_it_first(search: Model) -> None:
    found = search.predict({"vector": search._vectors})
    assert found.shape == (len(search._questions), NEAREST)
    assert (found[:, 0] == search._questions).all()


@pytest.mark.slow
def test_the_vectors_are_the_embedders(search: Model, minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    questions = [text.decode() for text in search._questions[:8]]
    vectors = SentenceTransformer(str(minilm), device="cpu").encode(questions, normalize_embeddings=True)
    np.testing.assert_allclose(search._vectors[:8], vectors, atol=2e-3)


@pytest.fixture
async def shipped() -> AsyncIterator[dict[str, Served]]:
    """Every model of the catalog, loaded: one after the other, for transformers cannot load two at once."""
    models = {model.name: model for model in catalogs.load("voice-rag").models}
    served = {name: Served(model.identity, cpus=1, gpus=0) for name, model in models.items()}
    for name, model in served.items():
        model.configure(models[name].settings.model_dump(mode="json"))
        async with asyncio.timeout(60):
            while model.status().state != "ready":
                await asyncio.sleep(0.05)
    yield served
    for model in served.values():
        await model.close()


@pytest.mark.slow
async def test_a_question_asked_aloud_is_answered_aloud(shipped: dict[str, Served]) -> None:
    async def carry(name: str, head: Head, body: bytes, send: Send) -> None:
        await shipped[name].streaming_app(scope_of(head, body), receive_of(body), send)

    async def speak(text: str) -> bytes:
        asked = orjson.dumps({"input": text, "response_format": "wav"})
        head = Head("POST", "/v1/audio/speech", "", b"", [(b"content-type", b"application/json")], None, 60.0)
        return (await run_unary(shipped["tts"].app, head, asked)).body

    async def ask(sound: bytes) -> Answered:
        form = httpx.Request("POST", "http://x/", files={"file": ("question.wav", sound)})
        scope: dict[str, Any] = {
            "headers": [(b"content-type", form.headers["content-type"].encode()), (b"x-graph-timings", b"1")],
            "client": None,
        }
        answered = Answered()
        await graphs.answer("voice-rag", scope, form.read(), answered.send)
        return answered

    graphs = Graphs(carry)
    graphs.become(catalogs.load("voice-rag").graphs)
    question = "How do I use a local model?"
    answered = await ask(await speak(question))
    assert (answered.status, answered.headers["content-type"]) == (200, "audio/wav")
    assert answered.headers["server-timing"].count(";dur=") == 6
    answer = next(one["answer"] for one in DATA["answers"] if question in one["questions"])
    assert len(answered.body) == pytest.approx(len(await speak(answer)), rel=0.001)
    assert len(answered.pieces) > 1, "sound leaves as it is made"
    refused = await ask(b"no sound")
    assert (refused.status, refused.headers["x-graph-step"]) == (400, "hear")
