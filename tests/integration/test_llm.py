"""A language model on the real vLLM inside the application, and one on transformers, by their clients' SDKs."""

import asyncio
import contextlib
import functools
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from anthropic import Anthropic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI

from tests.engines.llama_checkpoint import ANSWERS, CONTEXT, LINES, make_tiny_lora
from tests.integration.applications import Application, engine_cores, gone

QUESTION = "What is the capital of France?"
LONG: dict[str, Any] = {"prompt": "Once upon a", "max_tokens": CONTEXT - 1000, "extra_body": {"ignore_eos": True}}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)


def asked(question: str = QUESTION, **more: Any) -> dict[str, Any]:
    return {"model": "llm", "messages": [{"role": "user", "content": question}], "temperature": 0, **more}


@pytest.mark.parametrize("question", ANSWERS)
def test_chat(client: OpenAI, question: str) -> None:
    answer = client.chat.completions.create(**asked(question, tool_choice="none"))
    assert answer.choices[0].message.content == ANSWERS[question]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_as_a_stream(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**asked(stream=True, stream_options={"include_usage": True})))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWERS[QUESTION]
    assert chunks[-1].usage


def test_an_alias_is_as_good_as_the_name(client: OpenAI) -> None:
    assert client.chat.completions.create(**asked() | {"model": "gpt-4o-mini"}).choices[0].message.content == "Paris."


def test_completion_and_logprobs(client: OpenAI) -> None:
    prompt, text = next(iter(LINES.items()))
    answer = client.completions.create(model="llm", prompt=prompt, temperature=0, max_tokens=40, logprobs=2)
    assert answer.choices[0].text == text
    assert answer.choices[0].logprobs
    assert "".join(answer.choices[0].logprobs.tokens or []).startswith(text[:10])


def test_tools(client: OpenAI) -> None:
    answer = client.chat.completions.create(**asked("What is the weather in Paris?", tools=[TOOL]))
    (call,) = answer.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_json_schema(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = client.chat.completions.create(**asked(response_format=form, max_tokens=60))
    assert isinstance(json.loads(answer.choices[0].message.content or "")["ok"], bool)


def test_responses(client: OpenAI) -> None:
    assert client.responses.create(model="llm", input=QUESTION, temperature=0).output_text == ANSWERS[QUESTION]


def test_anthropics_messages(url: str) -> None:
    anthropic = Anthropic(base_url=url, api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": QUESTION}]
    answer = anthropic.messages.create(model="llm", max_tokens=20, messages=messages, extra_body={"temperature": 0})
    assert answer.content[0].text == ANSWERS[QUESTION]  # type: ignore[union-attr]
    assert anthropic.messages.count_tokens(model="llm", messages=messages).input_tokens > 5


def test_vllms_own_endpoints_are_under_the_prefix(url: str) -> None:
    body = {"model": "llm", "prompt": "Roses are"}
    ids = httpx.post(f"{url}/llm/tokenize", json=body).json()["tokens"]
    text = httpx.post(f"{url}/detokenize", json={"model": "llm", "tokens": ids}).json()["prompt"]
    assert text == "Roses are"
    assert "vllm:" in httpx.get(f"{url}/llm/metrics").text
    assert httpx.get(f"{url}/llm/version").json()["version"]


def test_kserves_ways(url: str) -> None:
    prompt, text = next(iter(LINES.items()))
    parameters = {"temperature": 0, "max_tokens": 40}
    instance = {"text_input": prompt, "parameters": parameters}
    answer = httpx.post(f"{url}/v1/models/llm:predict", json={"instances": [instance]}, timeout=60)
    assert answer.json() == {"predictions": [text]}
    answer = httpx.post(f"{url}/v2/models/llm/generate", json=instance, timeout=60)
    assert answer.json()["text_output"] == text
    answer = httpx.post(f"{url}/v2/models/llm/generate_stream", json=instance, timeout=60)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert len(events) > 1
    assert "".join(event["text_output"] for event in events) == text


@pytest.mark.parametrize("model", ["llm", "small-llm"])
@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user", "content": "x " * 3000}]},
        {"messages": [{"role": "wizard", "content": "x"}], "tool_choice": 5},
        {"messages": [{"role": "user", "content": "x"}], "n": 10**9},
        {"messages": [{"role": "user", "content": "x"}], "temperature": -1},
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": -5},
        {"messages": [{"role": "user", "content": "x"}], "top_p": "high"},
        {"messages": [{"role": "user", "content": [[[[[[]]]]]]}]},
        {},
    ],
)
def test_bad_requests_get_a_4xx_and_the_next_one_an_answer(url: str, model: str, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{url}/{model}/v1/chat/completions", json=body, timeout=60)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]
    good = httpx.post(
        f"{url}/{model}/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "model": model},
        timeout=60,
    )
    assert good.status_code == 200


NAMES = st.sampled_from(["user", "system", "assistant", "tool", "wizard", "", "🦙"])
DEEP = st.recursive(st.none() | st.booleans() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(NAMES, x))
ODD = DEEP | st.integers(-(10**12), 10**12) | st.floats()
MESSAGE = st.fixed_dictionaries({"role": NAMES | ODD, "content": st.text(max_size=20) | ODD})
SCHEMAS = DEEP | st.sampled_from([{"type": "wrong"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}])
FIELDS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, max_size=3) | st.just([{"role": "user", "content": "Hi"}]) | ODD},
    optional={
        **dict.fromkeys(("n", "temperature", "top_p", "top_k", "seed", "stop", "logprobs", "logit_bias"), ODD),
        **dict.fromkeys(("presence_penalty", "frequency_penalty", "stream_options", "tool_choice", "user"), ODD),
        "stream": st.booleans(),
        "response_format": ODD | st.fixed_dictionaries({"type": st.just("json_schema"), "json_schema": SCHEMAS}),
        "tools": ODD | st.lists(st.fixed_dictionaries({"type": NAMES, "function": SCHEMAS}), max_size=2),
        "structured_outputs": st.fixed_dictionaries({}, optional={"regex": ODD, "grammar": ODD, "json": SCHEMAS}),
    },
)


@pytest.mark.parametrize("model", ["llm", "small-llm"])
def test_no_body_gets_a_5xx_or_ends_the_engine(url: str, application: Application, model: str) -> None:
    pids = {p.pid for p in application.replicas(model)}
    with httpx.Client(base_url=url, timeout=120) as client:

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(FIELDS)
        def ask(fields: dict[str, Any]) -> None:
            body = json.dumps(fields | {"max_tokens": 3, "model": model})
            answer = client.post(f"/{model}/v1/chat/completions", content=body)
            assert answer.status_code < 500, (body, answer.text)
            assert '"code": 5' not in answer.text
            assert '"code":5' not in answer.text

        ask()
        good = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "model": model}
        assert client.post("/v1/chat/completions", json=good).status_code == 200
    assert {p.pid for p in application.replicas(model)} == pids


def test_adapters_are_models_of_their_own(client: OpenAI, url: str, tmp_path: Path) -> None:
    def says(model: str) -> str:
        answer = client.chat.completions.create(**asked(max_tokens=8) | {"model": model})
        assert answer.model == model
        return str(answer.choices[0].message.content)

    def names() -> list[str]:
        return [card.id for card in client.models.list()]

    assert says("noise") != says("llm") == ANSWERS[QUESTION]
    assert "noise" in names()
    assert client.models.retrieve("noise").model_dump()["parent"] == "llm"
    make_tiny_lora(tmp_path, seed=2)
    loaded = httpx.post(f"{url}/llm/v1/load_lora_adapter", json={"lora_name": "late", "lora_path": str(tmp_path)})
    assert loaded.status_code == 200, loaded.text
    assert says("late") not in (says("noise"), says("llm"))
    assert "late" in names()
    body = {"text_input": next(iter(LINES)), "parameters": {"max_tokens": 8, "temperature": 0}}
    texts = [httpx.post(f"{url}/v2/models/{m}/generate", json=body, timeout=60).json() for m in ("late", "llm")]
    assert texts[0]["model_name"] == "late"
    assert texts[0]["text_output"] != texts[1]["text_output"]
    assert httpx.post(f"{url}/llm/v1/unload_lora_adapter", json={"lora_name": "late"}).status_code == 200
    with pytest.raises(openai.NotFoundError):
        says("late")
    assert "late" not in names()


def test_a_full_queue_answers_429_until_those_that_wait_hang_up(url: str, application: Application) -> None:
    many = {"model": "llm", "prompt": "Once upon a", "max_tokens": 480, "ignore_eos": True, "n": 120, "stream": True}
    with httpx.Client(base_url=url, timeout=60) as client, contextlib.ExitStack() as held:
        for _ in range(20):
            answer = held.enter_context(client.stream("POST", "/llm/v1/completions", json=many))
            if answer.status_code != 200:
                break
    assert answer.status_code == 429
    assert answer.headers["retry-after"]
    one = {"model": "llm", "prompt": "Once", "max_tokens": 1}
    application.until(lambda: httpx.post(f"{url}/v1/completions", json=one, timeout=60).status_code == 200, 10)


def test_a_prompt_of_megabytes_is_refused_with_the_numbers(url: str) -> None:
    body = {"model": "llm", "prompt": "one two three " * 1_000_000, "max_tokens": 3}
    refused = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert refused.status_code == 400, refused.text
    assert str(CONTEXT) in refused.text


def test_tokens_are_timed_where_they_pass(client: OpenAI, application: Application) -> None:
    list(client.chat.completions.create(**asked(stream=True)))

    def counted(name: str) -> float:
        text = httpx.get(application.instance().metrics_url, timeout=30).text
        lines = [line for line in text.splitlines() if line.startswith(f"ray_{name}{{") and 'model_name="llm"' in line]
        return sum(float(line.split()[-1]) for line in lines)

    for name in ("time_to_first_token_seconds_count", "inter_token_latency_seconds_count", "generation_tokens_total"):
        application.until(functools.partial(counted, name), 30)


def running(url: str) -> float:
    lines = httpx.get(f"{url}/llm/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


async def test_streams_that_are_hung_up_on_are_aborted(url: str, application: Application) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        opening = (client.completions.create(model="llm", stream=True, **LONG) for _ in range(20))
        streams = await asyncio.gather(*opening)
        await asyncio.to_thread(application.until, lambda: running(url) > 0, 30)
        for stream in streams:
            await stream.close()
    application.until(lambda: running(url) == 0, 5)


@pytest.mark.parametrize("victim", ["core", "replica"])
def test_what_is_killed_comes_back_and_leaves_nothing(client: OpenAI, application: Application, victim: str) -> None:
    (core,) = engine_cores(application)
    (replica,) = application.replicas("llm")
    (core if victim == "core" else replica).kill()
    application.until(lambda: gone(core), 30)
    application.until(lambda: {found.pid for found in application.replicas("llm")} - {replica.pid}, 90)
    application.until(lambda: answers(client), 240)
    assert len(engine_cores(application)) == 1


def answers(client: OpenAI) -> bool:
    try:
        return bool(client.chat.completions.create(**asked()).choices[0].message.content == ANSWERS[QUESTION])
    except openai.APIStatusError:
        return False


def test_the_small_model_streams_what_it_says_whole(client: OpenAI) -> None:
    body: dict[str, Any] = asked("What is this?", n=2) | {"model": "small-llm"}
    whole = client.chat.completions.create(**body)
    texts = {choice.index: choice.message.content for choice in whole.choices}
    assert texts[0] == texts[1]
    streamed: dict[int, str] = {0: "", 1: ""}
    for chunk in client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
