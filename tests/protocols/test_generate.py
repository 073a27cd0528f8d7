"""The routes of text generation around engines whose texts are known."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx
import orjson
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.engines import Generated, GenerateOptions, Message
from deployments.errors import BadRequest, EngineError
from deployments.protocols import ROUTERS, generate
from deployments.protocols.app import build_app
from tests.protocols.fakes import Served


class Engine:
    """Says the prompt's words back, one piece each; remembers how it was asked."""

    context_length = 100

    def __init__(self, app: ASGIApp | None = None) -> None:
        self.app = app
        self.asked: list[GenerateOptions] = []
        self.open = 0

    def adapters(self) -> list[str]:
        return ["fr"]

    async def generate(self, prompt: str | Sequence[Message], asked: GenerateOptions) -> AsyncGenerator[Generated]:
        self.asked.append(asked)
        words = (prompt if isinstance(prompt, str) else prompt[-1].content).split()
        if "TOOLONG" in words:
            raise BadRequest("the prompt has 200 tokens", param="messages")
        self.open += 1
        try:
            for made, word in enumerate(words, 1):
                if word == "FAIL":
                    raise EngineError("the model failed on this input")
                yield Generated(word, 5, made, "stop" if made == len(words) else None)
        finally:
            self.open -= 1


def of(engine: Engine) -> Served[Engine]:
    return Served(engine, "generate", aliases=["gpt"])


@pytest.fixture
def served() -> Served[Engine]:
    return of(Engine())


async def ask(served: Any, path: str, method: str = "POST", **body: Any) -> httpx.Response:
    app = build_app("m", [make(served) for make in ROUTERS["generate"]])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        answer = await client.request(method, path, json=body)
    assert served.held == 0
    assert served.loaded().open == 0
    return answer


async def chat(served: Served[Engine], text: str = "a b", **more: Any) -> httpx.Response:
    return await ask(served, "/v1/chat/completions", messages=[{"role": "user", "content": text}], **more)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    blocks = answer.text.strip().split("\n\n")
    assert blocks[-1] == "data: [DONE]"
    return [orjson.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


async def test_chat(served: Served[Engine]) -> None:
    answer = (await chat(served, model="gpt", max_completion_tokens=7, max_tokens=9, stop="x", seed=3)).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "gpt"
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "ab"
    assert choice["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert served.loaded().asked == [GenerateOptions(7, None, None, 3, ("x",))]


async def test_several_choices_have_seeds_of_their_own(served: Served[Engine]) -> None:
    answer = (await chat(served, n=3, seed=5, temperature=1)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert sorted(asked.seed or 0 for asked in served.loaded().asked) == [5, 6, 7]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}


async def test_chat_as_a_stream(served: Served[Engine]) -> None:
    found = events(await chat(served, stream=True, stream_options={"include_usage": True}))
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in found[:-1]) == "ab"
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["total_tokens"] == 7


async def test_completions_of_several_prompts(served: Served[Engine]) -> None:
    answer = (await ask(served, "/v1/completions", prompt=["a b", "c"], n=2)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["ab", "ab", "c", "c"]
    assert answer["usage"]["prompt_tokens"] == 10
    assert {asked.max_tokens for asked in served.loaded().asked} == {16}


async def test_a_stream_that_fails_at_once_has_a_status_and_later_an_event(served: Served[Engine]) -> None:
    answer = await chat(served, "TOOLONG", stream=True)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    found = events(await chat(served, "a FAIL", stream=True))
    assert found[-1]["error"]["code"] == "engine_error"
    assert (await chat(served, "a FAIL")).status_code == 500


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 129}, "n"),
        ({"messages": [{"role": "user", "content": "x"}], "stop": ["x"] * 65}, "stop"),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": 3}, "temperature"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}, "max_tokens"),
    ],
)
async def test_bad_chats(served: Served[Engine], body: dict[str, Any], param: str) -> None:
    answer = await ask(served, "/v1/chat/completions", **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_parts_of_text_and_nulls_are_taken(served: Served[Engine]) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]
    answer = await ask(served, "/v1/chat/completions", messages=messages, n=None, stream=None, stop=None)
    assert answer.json()["choices"][0]["message"]["content"] == "ab"


async def test_an_engines_own_app_answers_every_path_as_it_is() -> None:
    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"].decode()
        await PlainTextResponse(f"{scope['method']} {scope['path']} {body}", 418)(scope, receive, send)

    for method, path in (("POST", "/v1/chat/completions"), ("POST", "/v1/responses"), ("GET", "/metrics")):
        answer = await ask(of(Engine(own)), path, method, a=1)
        assert (answer.status_code, answer.text) == (418, f'{method} {path} {{"a":1}}')


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"n": 129}, "n"),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 65}, "n"),
        ("/v1/completions", {"prompt": ["a", "b"], "best_of": 65}, "best_of"),
        ("/v1/completions", {"prompt": [[1, 2]] * 129}, "prompt"),
        ("/v1/responses", {"stop": ["x"] * 65}, "stop"),
        ("/v1/messages", {"stop_sequences": ["x"] * 65}, "stop_sequences"),
    ],
)
async def test_limits_hold_before_an_engines_own_app(path: str, body: dict[str, Any], param: str) -> None:
    answer = await ask(of(Engine(PlainTextResponse("reached"))), path, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "n", ["1e12", '"1000000000000"', "968678678766.0", "9" * 30, "1" + "0" * 400, '1000, "x": NaN']
)
@pytest.mark.parametrize("app", [None, PlainTextResponse("reached")], ids=["here", "in the engine's own app"])
async def test_no_way_to_write_a_number_gets_past_the_limits(n: str, app: ASGIApp | None) -> None:
    served = of(Engine(app))
    application = build_app("m", [make(served) for make in ROUTERS["generate"]])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://x") as client:
        messages = '[{"role": "user", "content": "a"}]'
        body = f'{{"messages": {messages}, "n": {n}}}'
        answer = await client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "n"
    assert served.loaded().asked == []


@pytest.mark.parametrize("body", [{"n": 128}, {"prompt": [1] * 5000}, {"n": "many"}, {"stop": None, "n": None}])
async def test_what_is_within_the_limits_reaches_it(body: dict[str, Any]) -> None:
    answer = await ask(of(Engine(PlainTextResponse("reached"))), "/v1/completions", **body)
    assert answer.text == "reached"


async def test_the_documentation_of_these_routes_takes_no_other_path() -> None:
    app = build_app("docs", [generate.router(None)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.get("/nope")).status_code == 404
        assert "POST" in (await client.get("/v1/completions")).json()["error"]["message"]


async def test_without_an_app_other_paths_are_not_there(served: Served[Engine]) -> None:
    answer = await ask(served, "/v1/responses", input="x")
    assert answer.status_code == 404
    assert "engine 'fake'" in answer.json()["error"]["message"]


async def test_kserves_ways(served: Served[Engine]) -> None:
    answer = await ask(served, "/v1/models/m:predict", instances=["a b", {"text_input": "c"}])
    assert answer.json() == {"predictions": ["ab", "c"]}
    parameters = {"max_tokens": 3, "stop": "x", "unknown": 1}
    answer = await ask(served, "/v2/models/gpt/generate", text_input="a b", parameters=parameters, id="7")
    assert answer.json() == {"model_name": "gpt", "model_version": None, "id": "7", "text_output": "ab"}
    assert served.loaded().asked[-1] == GenerateOptions(3, None, None, None, ("x",))
    await ask(served, "/v2/models/fr/generate", text_input="a b")
    assert served.loaded().asked[-1].adapter == "fr"
    answer = await ask(served, "/v2/models/m/generate_stream", text_input="a b")
    texts = [orjson.loads(block.removeprefix("data: "))["text_output"] for block in answer.text.strip().split("\n\n")]
    assert texts == ["a", "b"]
    assert (await ask(served, "/v2/models/other/generate", text_input="a")).status_code == 404
    assert (await ask(served, "/v2/models/m/generate")).json()["error"].startswith("Unrecognized request format")
