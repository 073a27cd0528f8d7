"""Text generation by transformers, on the embedded language model: real weights, and answers that are known."""

import asyncio
import importlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import deployments
from deployments.engines import Generated, GenerateOptions, LoadContext, Message
from deployments.engines.transformers import INCOMPLETE, Engine, Options, TextStream
from deployments.errors import BadRequest, EngineError, LoadError, QueueFull
from tests.engines.loading import loaded

pytestmark = pytest.mark.slow

FOLDER = Path(deployments.__file__).parent / "embedded_llm"
QUESTIONS = (
    *("What is this?", "Who are you?", "How do I stop it?", "Which models are there?"),
    *("Do I need a GPU? " * 8, "Thanks", "Where are the docs?", "How does it compare to KServe?"),
)
BABBLE_TOKENS = 400
BABBLE = GenerateOptions(max_tokens=BABBLE_TOKENS, temperature=100.0, seed=1)
"""So hot that tokens are drawn almost evenly, and the end is unlikely to come early."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with loaded(Engine(), FOLDER, Options()) as engine:
        yield engine


def chat(question: str) -> list[Message]:
    return [Message("user", question)]


async def collect(
    engine: Engine, prompt: str | Sequence[Message], asked: GenerateOptions | None = None
) -> tuple[str, Generated]:
    """The whole text and the last piece."""
    pieces = [piece async for piece in engine.generate(prompt, asked or GenerateOptions())]
    assert [piece.finish_reason is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert [piece.completion_tokens for piece in pieces] == list(range(1, len(pieces) + 1))
    return "".join(piece.text for piece in pieces), pieces[-1]


def directly(questions: Sequence[str]) -> list[str]:
    """Each question alone, by `model.generate` itself."""
    transformers: Any = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype="float32")
    found = []
    for question in questions:
        given = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
        )
        made = model.generate(**given, max_new_tokens=200)
        found.append(tokenizer.decode(made[0, given.input_ids.shape[1] :], skip_special_tokens=True))
    return found


async def test_a_batch_answers_as_each_alone_and_as_the_library(engine: Engine) -> None:
    batch = await asyncio.gather(*(collect(engine, chat(question)) for question in QUESTIONS))
    alone = [await collect(engine, chat(question)) for question in QUESTIONS]
    assert batch == alone
    assert [text for text, _ in batch] == directly(QUESTIONS)
    assert all(last.finish_reason == "stop" for _, last in batch)


async def test_models_that_are_loaded_at_once_all_come_up() -> None:
    engines = [Engine() for _ in range(4)]
    context = LoadContext("test", 1, 0, lambda: 100, lambda _: None)
    await asyncio.gather(*(asyncio.to_thread(one.load, FOLDER, Options(), context) for one in engines))
    try:
        assert len({(await collect(one, chat(QUESTIONS[0])))[0] for one in engines}) == 1
    finally:
        for one in engines:
            one.close()


async def test_more_requests_than_a_batch_holds_are_all_answered() -> None:
    with loaded(Engine(), FOLDER, Options(max_batch=3)) as engine:
        found = await asyncio.gather(*(collect(engine, chat(question)) for question in QUESTIONS))
    assert [text for text, _ in found] == directly(QUESTIONS)


async def test_a_short_answer_does_not_wait_for_the_end_of_its_batch(engine: Engine) -> None:
    async with aclosing(engine.generate(chat("Hello"), BABBLE)) as long:
        _, (text, _) = await asyncio.gather(anext(long), collect(engine, chat("Thanks"), GenerateOptions(max_tokens=3)))
        assert text
        assert (await anext(long)).finish_reason is None


async def test_usage_counts_the_prompt_and_every_token_made(engine: Engine) -> None:
    _, last = await collect(engine, chat("Thanks"))
    text, limited = await collect(engine, chat("What is this?"), GenerateOptions(max_tokens=5))
    assert last.prompt_tokens < limited.prompt_tokens
    assert limited.completion_tokens == 5
    assert limited.finish_reason == "length"
    assert directly(["What is this?"])[0].startswith(text)


async def test_stop_strings_end_the_text_before_them(engine: Engine) -> None:
    (whole,) = directly(["What is this?"])
    for stop in (whole[9:14], whole[3], whole[:2], "Serve application for", whole[-6:]):
        text, last = await collect(engine, chat("What is this?"), GenerateOptions(stop=("@@", stop)))
        assert text == whole[: whole.index(stop)]
        assert last.finish_reason == "stop"
    text, _ = await collect(engine, chat("What is this?"), GenerateOptions(stop=("This is not", "@@", "")))
    assert text == whole


async def test_a_seed_gives_the_same_text_whatever_else_is_computed(engine: Engine) -> None:
    def ask(seed: int) -> Any:
        return collect(engine, chat("What is this?"), GenerateOptions(max_tokens=30, temperature=2.5, seed=seed))

    alone, _ = await ask(7)
    others = (collect(engine, chat(question), BABBLE) for question in QUESTIONS[:3])
    same, other, again, *_ = await asyncio.gather(ask(7), ask(8), ask(7), *others)
    assert same[0] == again[0] == alone
    assert other[0] != alone
    assert (await ask(-1)) == (await ask(-1))


async def test_without_a_seed_texts_differ(engine: Engine) -> None:
    asked = GenerateOptions(max_tokens=30, temperature=5.0)
    texts = [text for text, _ in await asyncio.gather(*(collect(engine, chat("Hello"), asked) for _ in range(3)))]
    assert len(set(texts)) == 3


async def test_a_small_top_p_takes_the_likeliest_token(engine: Engine) -> None:
    asked = GenerateOptions(temperature=1.0, top_p=1e-6)
    assert (await collect(engine, chat("What is this?"), asked))[0] == directly(["What is this?"])[0]


async def test_what_a_request_leaves_open_is_as_the_models_own_settings_say(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "warm")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"do_sample": True, "temperature": 50.0}))
    with loaded(Engine(), folder, Options(max_new_tokens=20)) as engine:
        first, last = await collect(engine, chat("What is this?"))
        assert first != (await collect(engine, chat("What is this?")))[0]
        assert last.completion_tokens <= 20
        greedy, _ = await collect(engine, chat("What is this?"), GenerateOptions(temperature=0, max_tokens=200))
    assert greedy == directly(["What is this?"])[0]


async def test_a_reader_that_leaves_frees_the_engine() -> None:
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    with loaded(Engine(), FOLDER, Options(max_batch=1)) as engine:
        engine._model.register_forward_hook(count)
        async with aclosing(engine.generate(chat("Hello"), BABBLE)) as pieces:
            await anext(pieces)
        await collect(engine, chat("Thanks"), GenerateOptions(max_tokens=3))
    assert steps < BABBLE_TOKENS / 2


async def test_a_full_queue_refuses_further_requests() -> None:
    with loaded(Engine(), FOLDER, Options(max_batch=1), max_queue=1) as engine:
        async with aclosing(engine.generate(chat("Hello"), BABBLE)) as running:
            await anext(running)
            waiting = asyncio.create_task(collect(engine, chat("Thanks")))
            while not engine._batcher._queued:
                await asyncio.sleep(0.001)
            with pytest.raises(QueueFull):
                await collect(engine, chat("Thanks"))
        assert (await waiting)[1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "asked", "message"),
    [
        ("what " * 2000, GenerateOptions(), r"the prompt has \d{4} tokens .* 512 tokens"),
        ("what", GenerateOptions(max_tokens=511), "the prompt has 3 tokens and max_tokens is 511; .* 512 tokens"),
        ("what", GenerateOptions(max_tokens=0), "max_tokens is 0"),
        ("what", GenerateOptions(temperature=-1), "temperature is -1"),
        ("what", GenerateOptions(temperature=float("nan")), "temperature is nan"),
        ("what", GenerateOptions(top_p=0), "top_p is 0"),
        ("x" * 1_000_001, GenerateOptions(), "1000001 characters"),
        ([Message("system", "Be brief.")], GenerateOptions(), "chat template does not take"),
        ([], GenerateOptions(), "chat template does not take"),
    ],
)
async def test_bad_input_is_refused_with_the_reason(
    engine: Engine, prompt: str | list[Message], asked: GenerateOptions, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        await collect(engine, prompt, asked)


async def test_a_context_that_is_filled_ends_the_text(engine: Engine) -> None:
    prompt = "what " * 480
    text, last = await collect(engine, prompt, GenerateOptions(temperature=100.0, seed=1))
    assert last.finish_reason == "length"
    assert last.prompt_tokens + last.completion_tokens == 512
    assert INCOMPLETE not in text[-1:]


async def test_a_model_without_a_template_takes_no_chat(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "plain")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with loaded(Engine(), folder, Options()) as engine:
        with pytest.raises(BadRequest, match="no chat template") as refused:
            await collect(engine, chat("Hello"))
        assert refused.value.param == "messages"
        assert (await collect(engine, "What is this?"))[0] == directly(["What is this?"])[0]


async def test_a_batch_that_fails_before_it_began_is_computed_in_parts(engine: Engine) -> None:
    generate: Callable[..., Any] = engine._model.generate

    def too_large(ids: Any, **arguments: Any) -> Any:
        if len(ids) > 1:
            raise MemoryError("no room for this batch")
        return generate(ids, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._model, "generate", too_large)
        found = await asyncio.gather(*(collect(engine, chat(question)) for question in QUESTIONS[:4]))
    assert [text for text, _ in found] == directly(QUESTIONS[:4])


async def test_a_closed_engine_fails_what_runs_and_what_comes() -> None:
    with loaded(Engine(), FOLDER, Options()) as engine:
        pieces = engine.generate(chat("Hello"), BABBLE)
        await anext(pieces)
    with pytest.raises(EngineError):
        async for _ in pieces:
            pass
    with pytest.raises(EngineError, match="stopped"):
        await collect(engine, chat("Hello"))


def test_a_context_beyond_the_models_positions_is_refused(context: LoadContext) -> None:
    with pytest.raises(LoadError, match="512"):
        Engine().load(FOLDER, Options(context_length=4096), context)


@pytest.mark.parametrize("text", ["na\u00efve 🦙 and 👍🏽, then 日本語\n", "  two  spaces", "🇪🇺", "plain"])
@pytest.mark.parametrize("stop", [(), ("@", "🦙🦙", "日本人"), ("\u00ef🦙",)])
def test_characters_of_several_tokens_come_whole(engine: Engine, text: str, stop: tuple[str, ...]) -> None:
    ids = engine._tokenizer(text, add_special_tokens=False).input_ids
    stream = TextStream(engine._tokenizer.decode, [], stop)
    pieces = [stream.add([token]) for token in ids]
    assert INCOMPLETE not in "".join(pieces)
    assert "".join(pieces) + stream.add([], last=True) == text


def test_a_character_that_stays_incomplete_is_dropped(engine: Engine) -> None:
    ids = engine._tokenizer("ok 🦙", add_special_tokens=False).input_ids
    stream = TextStream(engine._tokenizer.decode, [], ())
    assert "".join(stream.add([token]) for token in ids[:-1]) + stream.add([], last=True) == "ok "


def test_text_goes_on_with_the_space_that_begins_a_word(engine: Engine) -> None:
    def decode(ids: list[int]) -> str:
        return " ".join("w" * i for i in ids)

    stream = TextStream(decode, [1, 2], ())
    assert [stream.add([1]), stream.add([3])] == [" w", " www"]
