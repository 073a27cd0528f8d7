"""The embedded language model as it is shipped: it fits its data, and answers what it was trained to answer."""

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from ruamel.yaml import YAML

from deployments.engines import GenerateOptions, Message
from deployments.engines.transformers import Engine, Options
from deployments.sources import resolve
from tests.engines.loading import loaded

pytestmark = pytest.mark.slow

FOLDER = resolve("pypi://deployments.embedded_llm", lambda _: None)
DATA = YAML(typ="safe").load(FOLDER / "questions.yaml")
TRAINED = [(question, one["answer"]) for one in DATA["answers"] for question in one["questions"]]
ANSWERS: dict[str, str] = dict(TRAINED)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with loaded(Engine(), FOLDER, Options(max_batch=32)) as engine:
        yield engine


async def ask(engine: Engine, prompt: str | Sequence[Message]) -> str:
    asked = GenerateOptions(max_tokens=200)
    return "".join([piece.text async for piece in engine.generate(prompt, asked)])


async def answers(engine: Engine, questions: Sequence[str]) -> list[str]:
    return await asyncio.gather(*(ask(engine, [Message("user", question)]) for question in questions))


def test_weights_and_data_belong_together() -> None:
    """After a change of questions.yaml: `python scripts/train_embedded_llm.py`."""
    digest = hashlib.sha256((FOLDER / "questions.yaml").read_bytes()).hexdigest()
    assert json.loads((FOLDER / "config.json").read_text())["questions_sha256"] == digest


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 4_000_000


async def test_trained_questions_are_answered_word_for_word(engine: Engine) -> None:
    sample = TRAINED[:: len(TRAINED) // 20]
    assert await answers(engine, [question for question, _ in sample]) == [answer for _, answer in sample]


@pytest.mark.parametrize(
    ("asked", "like"),
    [
        ("what is this", "What is this?"),
        ("what is serve_app?", "What is this?"),
        ("Hi, what's this thing?", "What is this?"),
        ("how do i stop it", "How do I stop it?"),
        ("How can I start serve-app?", "How do I start it?"),
        ("who are you", "Who are you?"),
        ("which models are there", "Which models are there?"),
        ("what models can i use?", "Which models are there?"),
        ("hwo do I stop it?", "How do I stop it?"),
    ],
)
async def test_other_ways_to_ask_get_the_same_answer(engine: Engine, asked: str, like: str) -> None:
    assert (await answers(engine, [asked]))[0] == ANSWERS[like]


async def test_most_unseen_questions_are_answered(engine: Engine) -> None:
    unseen = [(question, one["answer"]) for one in DATA["answers"] for question in one["unseen"]]
    found = await answers(engine, [question for question, _ in unseen])
    right = sum(answer == text for (_, answer), text in zip(unseen, found, strict=True))
    assert right >= 0.75 * len(unseen)


async def test_what_it_does_not_know_it_says(engine: Engine) -> None:
    out: dict[str, Any] = DATA["out_of_scope"]
    found = await answers(engine, [*out["questions"][:10], "What is the capital of Italy?", "Write a song about rain."])
    assert set(found) == {out["answer"]}


async def test_a_chat_is_answered_by_its_last_question(engine: Engine) -> None:
    chat = [
        Message("system", "You are a helpful assistant. " * 100),
        Message("user", "Who are you?"),
        Message("assistant", ANSWERS["Who are you?"]),
        Message("user", "How do I stop it?"),
    ]
    assert await ask(engine, chat) == ANSWERS["How do I stop it?"]


async def test_a_plain_prompt_is_a_question_too(engine: Engine) -> None:
    assert await ask(engine, "What is this?") == ANSWERS["What is this?"]
