"""A language model on the real vLLM inside the application, and one on transformers, by their clients' SDKs."""

import asyncio
import json
from typing import Any

import httpx
import openai
import psutil
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.engines.llama_checkpoint import ANSWERS, LINES
from tests.integration.applications import Application

QUESTION = "What is the capital of France?"
LONG: dict[str, Any] = {"prompt": "Once upon a", "max_tokens": 480, "extra_body": {"ignore_eos": True}}
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


def running(url: str) -> float:
    lines = httpx.get(f"{url}/llm/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


async def test_streams_that_are_hung_up_on_are_aborted(url: str, application: Application) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        opening = (client.completions.create(model="llm", stream=True, n=4, **LONG) for _ in range(20))
        streams = await asyncio.gather(*opening)
        await asyncio.to_thread(application.until, lambda: running(url) > 0, 30)
        for stream in streams:
            await stream.close()
    application.until(lambda: running(url) == 0, 5)


def engine_cores(application: Application) -> list[psutil.Process]:
    (replica,) = application.replicas("llm")
    return [child for child in replica.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]


@pytest.mark.parametrize("victim", ["core", "replica"])
def test_what_is_killed_comes_back_and_leaves_nothing(client: OpenAI, application: Application, victim: str) -> None:
    (core,) = engine_cores(application)
    (replica,) = application.replicas("llm")
    (core if victim == "core" else replica).kill()
    application.until(lambda: not core.is_running() or core.status() == psutil.STATUS_ZOMBIE, 30)
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
