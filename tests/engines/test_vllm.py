"""The vllm engine on a tiny Llama whose answers are known, on the real vLLM: one engine for all but the last tests."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio
from pydantic import ValidationError

from deployments.asgi import Answer, Head, run_stream
from deployments.engines import Generated, GenerateOptions, LoadContext, Message, vllm
from deployments.engines._hosting import alone_on
from deployments.engines._vllm_arguments import (
    CPU_CACHE_BYTES,
    IN_ENGINE_CORE,
    REFUSED,
    Options,
    command_line,
    for_hardware,
    known,
)
from deployments.errors import BadRequest, EngineError, LoadError
from tests.engines.llama_checkpoint import ANSWERS, CONTEXT, LINES, make_tiny_lora

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
in_loop = pytest.mark.asyncio(loop_scope="module")
SMALL = {"enforce_eager": True, "dtype": "float32", "max_num_seqs": 32, "kv_cache_memory_bytes": 64 << 20}
QUESTION = "What is the capital of France?"
LONG: dict[str, Any] = {"model": "llm", "prompt": "Once upon a", "max_tokens": 480, "ignore_eos": True}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def context_of(loop: asyncio.AbstractEventLoop | None, gpus: float = 0, told: list[str] | None = None) -> LoadContext:
    return LoadContext(
        "llm", 1, gpus, lambda: 100, (told if told is not None else []).append, loop, lambda: ("gpt-4o-mini",)
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_llama: Path) -> AsyncIterator[vllm.Engine]:
    engine = vllm.Engine()
    make_tiny_lora(tiny_llama / "noise")
    options = Options(
        **SMALL,
        enable_auto_tool_choice=True,
        tool_call_parser="hermes",
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        enable_lora=True,
        max_lora_rank=8,
        lora_modules=[{"name": "noise", "path": str(tiny_llama / "noise")}],
    )
    await asyncio.to_thread(engine.load, tiny_llama, options, context_of(asyncio.get_running_loop()))
    yield engine
    await asyncio.to_thread(engine.close)
    assert not [one for one in engine._processes if one.is_running()]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(engine: vllm.Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app(engine)), base_url="http://llm") as client:
        yield client


def app(engine: vllm.Engine) -> Any:
    assert engine.app is not None
    return engine.app


def asked(question: str = QUESTION, **more: Any) -> dict[str, Any]:
    return {"model": "llm", "messages": [{"role": "user", "content": question}], "temperature": 0, **more}


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def stream(engine: vllm.Engine, path: str, body: dict[str, Any]) -> AsyncIterator[Answer | bytes]:
    head = Head("POST", path, "", b"", [(b"content-type", b"application/json")], None, 60)
    return run_stream(app(engine), head, json.dumps(body).encode())


async def metric(client: httpx.AsyncClient, name: str) -> float:
    """The sum of one of vLLM's own metrics."""
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"vllm:{name}{{"))


async def until(true: Any, within_s: float) -> float:
    """Seconds until an async condition holds."""
    began = time.monotonic()
    while not await true():
        assert time.monotonic() - began < within_s
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("name", vllm.SYMBOLS)
def test_this_vllm_has(name: str) -> None:
    vllm.find(name)


def test_a_symbol_that_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vllm.SYMBOLS, "build_app", "vllm.entrypoints.launchers.app:build_it")
    with pytest.raises(LoadError, match=r"vLLM 0\.\d+\S* has no vllm.entrypoints.launchers.app:build_it"):
        vllm.find("build_app")
    with pytest.raises(LoadError, match=r"has no \w*Path\.gone"):
        vllm.held(Path(), "gone")


def test_the_names_of_arguments_are_those_of_the_parser() -> None:
    parser = vllm.find("make_arg_parser")(vllm.find("FlexibleArgumentParser")())
    ours = {"help", "config", "model_tag", "headless", "api_server_count", "grpc"}
    assert {action.dest for action in parser._actions} - ours <= known()
    assert set(REFUSED) - {"distributed_executor_backend"} <= known()


def test_options_are_checked_without_importing_vllm() -> None:
    code = "import sys; from deployments.engines.vllm import Engine; Engine.options_type(max_model_len=5); "
    subprocess.run([sys.executable, "-c", code + "assert not {'vllm', 'torch'} & set(sys.modules)"], check=True)


@pytest.mark.parametrize("typo", ["max_modle_len", "max-model-len", "maximum_model_len"])
def test_an_unknown_option_names_near_ones(typo: str) -> None:
    with pytest.raises(ValidationError, match=rf"no argument '{typo}'; did you mean .*max_model_len"):
        Options(**{typo: 5})


@pytest.mark.parametrize("name", ["model", "port", "api_key", "data_parallel_size", "served_model_name"])
def test_what_is_decided_elsewhere_says_where(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' cannot be set: "):
        Options(**{name: "x"})


def test_the_share_of_a_gpu_becomes_vllms_arguments() -> None:
    assert for_hardware({}, context_of(None, 0.3), on_cpu=False) == {"gpu_memory_utilization": 0.3}
    said = {"gpu_memory_utilization": 0.25}
    assert for_hardware(said, context_of(None, 0.3), on_cpu=False) == said
    assert for_hardware({}, context_of(None, 1), on_cpu=False) == {}
    assert for_hardware({}, context_of(None, 4), on_cpu=False)["tensor_parallel_size"] == 4
    said = {"pipeline_parallel_size": 2}
    assert for_hardware(said, context_of(None, 4), on_cpu=False)["tensor_parallel_size"] == 2
    in_one = {"kv_cache_memory_bytes": CPU_CACHE_BYTES, "distributed_executor_backend": IN_ENGINE_CORE}
    assert for_hardware({}, context_of(None), on_cpu=True) == in_one
    assert "distributed_executor_backend" not in for_hardware(
        {"tensor_parallel_size": 2}, context_of(None), on_cpu=True
    )
    for gpus, on_cpu in ((0.5, True), (0, False)):
        with pytest.raises(LoadError, match="the vLLM installed here"):
            for_hardware({}, context_of(None, gpus), on_cpu)


def test_values_reach_vllms_parser_as_they_were_written() -> None:
    parser = vllm.find("make_arg_parser")(vllm.find("FlexibleArgumentParser")())
    written: dict[str, Any] = {
        "max_logprobs": -1,
        "enable_prefix_caching": False,
        "enforce_eager": True,
        "enable_auto_tool_choice": False,
        "lora_modules": [{"name": "a", "path": "/a"}, "b=/b"],
        "override_generation_config": {"temperature": 0.5},
        "hf_token": None,
        "chat_template": "--{{ messages }}",
    }
    read = parser.parse_args(command_line(written, parser))
    assert [(one.name, one.path) for one in read.lora_modules] == [("a", "/a"), ("b", "/b")]
    same = written.keys() - {"lora_modules"}
    assert {name: getattr(read, name) for name in same} == {name: written[name] for name in same}


def test_engines_start_on_a_gpu_one_after_the_other() -> None:
    device, waiting, entered = f"test-{os.getpid()}", threading.Event(), threading.Event()

    def progress(what: str) -> None:
        assert "another model" in what
        waiting.set()

    def other() -> None:
        with alone_on([device], progress):
            entered.set()

    with alone_on([device], pytest.fail):
        thread = threading.Thread(target=other)
        thread.start()
        assert waiting.wait(10)
        assert not entered.is_set()
    assert entered.wait(10)
    thread.join()


@in_loop
@pytest.mark.parametrize("question", [one for one in ANSWERS if "weather" not in one])
async def test_a_chat_gets_the_known_answer(client: httpx.AsyncClient, question: str) -> None:
    answer = await post(client, "/v1/chat/completions", asked(question))
    assert answer["model"] == "llm"
    assert answer["choices"][0]["message"]["content"] == ANSWERS[question]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


@in_loop
async def test_a_completion_goes_on_as_known(client: httpx.AsyncClient) -> None:
    for given, rest in LINES.items():
        answer = await post(client, "/v1/completions", {"model": "llm", "prompt": given, "temperature": 0})
        assert rest.startswith(answer["choices"][0]["text"])
        assert answer["choices"][0]["text"]


@in_loop
async def test_a_stream_is_the_same_text_in_pieces(engine: vllm.Engine) -> None:
    body = asked("Give me an emoji.", stream=True, stream_options={"include_usage": True})
    pieces = stream(engine, "/v1/chat/completions", body)
    head = await anext(pieces)
    assert isinstance(head, Answer)
    assert head.status == 200
    whole = head.body + b"".join([bytes(piece) async for piece in pieces])  # type: ignore[arg-type]
    events = [line.removeprefix("data: ") for line in whole.decode().split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    deltas = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert "".join(deltas) == ANSWERS["Give me an emoji."]
    assert sum(map(bool, deltas)) > 2
    assert chunks[-1]["usage"]["completion_tokens"] > 2


@in_loop
async def test_greedy_text_is_that_of_vllm_called_directly(engine: vllm.Engine, client: httpx.AsyncClient) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(engine._path)
    messages = asked("Count to ten.")["messages"]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    parameters = vllm.find("SamplingParams")(temperature=0, max_tokens=40)
    outputs = [one async for one in engine._llm.generate({"prompt_token_ids": ids}, parameters, "direct")]
    answer = await post(client, "/v1/chat/completions", asked("Count to ten.", max_tokens=40))
    assert answer["choices"][0]["message"]["content"] == outputs[-1].outputs[0].text == ANSWERS["Count to ten."]


@in_loop
async def test_names_are_the_models_and_its_aliases(client: httpx.AsyncClient) -> None:
    assert [one["id"] for one in (await client.get("/v1/models")).json()["data"]] == ["llm", "gpt-4o-mini", "noise"]
    assert (await post(client, "/v1/chat/completions", asked(model="gpt-4o-mini")))["model"] == "llm"
    error = (await post(client, "/v1/chat/completions", asked(model="other"), 404))["error"]
    assert "other" in error["message"]


@in_loop
async def test_adapters_are_models_of_their_own(client: httpx.AsyncClient, tmp_path: Path) -> None:
    async def says(model: str) -> str:
        answer = await post(client, "/v1/chat/completions", asked(model=model, max_tokens=8))
        assert answer["model"] == model
        return str(answer["choices"][0]["message"]["content"])

    assert await says("noise") != await says("llm") == "Paris."
    make_tiny_lora(tmp_path, seed=2)
    await client.post("/v1/load_lora_adapter", json={"lora_name": "other", "lora_path": str(tmp_path)})
    assert await says("other") not in (await says("noise"), await says("llm"))
    await client.post("/v1/unload_lora_adapter", json={"lora_name": "other"})
    await post(client, "/v1/chat/completions", asked(model="other"), 404)


@in_loop
async def test_tokens_logprobs_and_schemas(client: httpx.AsyncClient) -> None:
    tokens = await post(client, "/tokenize", {"model": "llm", "prompt": "Roses are red"})
    assert tokens["max_model_len"] == CONTEXT
    back = await post(client, "/detokenize", {"model": "llm", "tokens": tokens["tokens"]})
    assert back["prompt"] == "Roses are red"
    answer = await post(client, "/v1/chat/completions", asked(logprobs=True, top_logprobs=3))
    first = answer["choices"][0]["logprobs"]["content"][0]
    assert "Paris.".startswith(first["token"])
    assert -0.1 < first["logprob"] <= 0
    assert len(first["top_logprobs"]) == 3
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    answer = await post(client, "/v1/chat/completions", asked(response_format=schema, max_tokens=200))
    assert json.loads(answer["choices"][0]["message"]["content"]).keys() == {"city", "large"}


@in_loop
async def test_tools_are_called(client: httpx.AsyncClient) -> None:
    answer = await post(client, "/v1/chat/completions", asked("What is the weather in Paris?", tools=[TOOL]))
    call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "get_weather"
    assert json.loads(call["arguments"]) == {"city": "Paris"}
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


@in_loop
async def test_openais_responses_and_anthropics_messages_are_answered(client: httpx.AsyncClient) -> None:
    answer = await post(client, "/v1/responses", {"model": "llm", "input": QUESTION, "temperature": 0})
    assert answer["output"][-1]["content"][0]["text"] == "Paris."
    answer = await post(client, "/v1/messages", asked(max_tokens=20))
    assert answer["content"][0]["text"] == "Paris."


@in_loop
@pytest.mark.parametrize(
    ("path", "body", "numbers"),
    [
        ("/v1/completions", {"model": "llm", "prompt": "a b " * CONTEXT}, str(CONTEXT)),
        ("/v1/chat/completions", asked("a b " * CONTEXT), str(CONTEXT)),
        ("/v1/completions", {"model": "llm", "prompt": "a", "max_tokens": 100_000}, "100000"),
        ("/v1/chat/completions", asked(max_tokens=CONTEXT + 1), str(CONTEXT)),
    ],
)
async def test_what_exceeds_the_context_is_refused_with_the_numbers(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], numbers: str
) -> None:
    error = (await post(client, path, body, 400))["error"]
    assert numbers in error["message"]


async def pieces_of(engine: vllm.Engine, prompt: Any, **options: Any) -> list[Generated]:
    return [piece async for piece in engine.generate(prompt, GenerateOptions(temperature=0, **options))]


@in_loop
async def test_generate_answers_chats_and_texts(engine: vllm.Engine) -> None:
    assert engine.context_length == CONTEXT
    pieces = await pieces_of(engine, [Message("user", QUESTION)])
    assert "".join(piece.text for piece in pieces) == "Paris."
    assert [piece.finish_reason for piece in pieces][-2:] == [None, "stop"]
    pieces = await pieces_of(engine, "Roses are", max_tokens=3)
    assert (pieces[-1].finish_reason, pieces[-1].completion_tokens) == ("length", 3)
    pieces = await pieces_of(engine, "Roses are", stop=("violets",))
    assert "".join(piece.text for piece in pieces) == " red, "
    with pytest.raises(BadRequest, match=str(CONTEXT)):
        await pieces_of(engine, "a b " * CONTEXT)
    for wrong in ({"top_p": 7.0}, {"max_tokens": 0}):
        with pytest.raises(BadRequest):
            await pieces_of(engine, "a", **wrong)


@in_loop
async def test_a_prompt_that_fills_the_context_leaves_no_room(engine: vllm.Engine, client: httpx.AsyncClient) -> None:
    one = (await post(client, "/tokenize", {"model": "llm", "prompt": "!" * 100}))["count"]
    with pytest.raises(BadRequest, match=str(CONTEXT)):
        await pieces_of(engine, "!" * (100 * CONTEXT // one))


@in_loop
async def test_streams_that_are_left_stop_within_a_second(engine: vllm.Engine, client: httpx.AsyncClient) -> None:
    async def read(body: dict[str, Any]) -> None:
        async for piece in stream(engine, "/v1/completions", body):
            if isinstance(piece, bytes):
                begun.release()

    begun = asyncio.Semaphore(0)
    made = await metric(client, "generation_tokens_total")
    tasks = [asyncio.create_task(read(LONG | {"stream": True})) for _ in range(5)]
    for _ in tasks:
        await begun.acquire()
    await until(lambda: _running(client, 5), 5)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await until(lambda: _idle(engine, client), 1)
    assert await metric(client, "generation_tokens_total") - made < 5 * LONG["max_tokens"]


@in_loop
async def test_a_whole_answer_that_nobody_waits_for_stops_too(engine: vllm.Engine, client: httpx.AsyncClient) -> None:
    made = await metric(client, "generation_tokens_total")
    task = asyncio.create_task(client.post("/v1/completions", json=LONG | {"n": 8}))
    await until(lambda: _running(client, 8), 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await until(lambda: _idle(engine, client), 1)
    assert await metric(client, "generation_tokens_total") - made < 8 * LONG["max_tokens"]


@in_loop
async def test_closing_generate_stops_it(engine: vllm.Engine, client: httpx.AsyncClient) -> None:
    pieces = engine.generate("Once upon a", GenerateOptions(max_tokens=400, temperature=2.0))
    await anext(pieces)
    await pieces.aclose()
    await until(lambda: _idle(engine, client), 1)


async def _running(client: httpx.AsyncClient, count: int) -> bool:
    return await metric(client, "num_requests_running") == count


async def _idle(engine: vllm.Engine, client: httpx.AsyncClient) -> bool:
    return not engine._llm.get_num_unfinished_requests() and await metric(client, "num_requests_running") == 0


@in_loop
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_model_len": "many"}, "max-model-len"),
        ({"max_model_len": 100_000}, "100000"),
        (
            {"kv_cache_memory_bytes": 1 << 16, **{name: SMALL[name] for name in ("enforce_eager", "dtype")}},
            "memory for the cache",
        ),
    ],
    ids=["not a number", "beyond the model", "no memory for one request"],
)
async def test_what_vllm_refuses_is_told(tiny_llama: Path, options: dict[str, Any], reason: str) -> None:
    before = _engine_cores()
    with pytest.raises(LoadError, match=reason):
        await asyncio.to_thread(
            vllm.Engine().load, tiny_llama, Options(**options), context_of(asyncio.get_running_loop())
        )
    assert _engine_cores() == before


@in_loop
async def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="vLLM cannot start"):
        await asyncio.to_thread(vllm.Engine().load, tmp_path, Options(), context_of(asyncio.get_running_loop()))


def _engine_cores() -> set[int]:
    """vLLM's processes that this process has started."""
    return {one.pid for one in psutil.Process().children(recursive=True) if "VLLM" in one.name() or _spawned(one)}


def _spawned(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "multiprocessing.spawn" in " ".join(process.cmdline())
    return False


@pytest.fixture
def killed(tiny_llama: Path) -> Iterator[list[psutil.Process]]:
    """vLLM's processes of an engine in a process that has been killed when it was ready."""
    command = [sys.executable, "-c", f"from {__name__} import host; host({str(tiny_llama)!r})"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout
        try:
            line = next(line for line in host.stdout if line.startswith("READY "))
            processes = [psutil.Process(int(pid)) for pid in line.split()[1:]]
        finally:
            host.kill()
    assert len(processes) > 2
    yield processes
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def host(folder: str) -> None:
    """Load an engine with workers, say which processes it has, and wait."""

    async def load() -> None:
        engine = vllm.Engine()
        options = Options(**SMALL, tensor_parallel_size=2)
        await asyncio.to_thread(engine.load, Path(folder), options, context_of(asyncio.get_running_loop()))
        print("\nREADY", *(one.pid for one in engine._processes), flush=True)
        await asyncio.Event().wait()

    asyncio.run(load())


def test_vllms_processes_end_when_this_one_is_killed(killed: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(killed, 5)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


@in_loop
async def test_an_engine_core_that_dies_fails_its_requests(engine: vllm.Engine, client: httpx.AsyncClient) -> None:
    """Last, because it ends the engine."""
    waiting = asyncio.create_task(client.post("/v1/completions", json=LONG | {"n": 8}))
    generating = asyncio.create_task(pieces_of(engine, "Once upon a", max_tokens=500))
    streaming = stream(engine, "/v1/completions", LONG | {"stream": True})
    await anext(streaming)
    assert engine.alive()
    engine._processes[0].send_signal(signal.SIGKILL)

    async def dead() -> bool:
        return not engine.alive()

    await until(dead, 5)
    async with asyncio.timeout(5):
        assert (await waiting).status_code == 500
        with contextlib.suppress(EngineError):
            await generating
        rest = b"".join([piece async for piece in streaming if isinstance(piece, bytes)])
        assert b"error" in rest
        assert (await client.post("/v1/completions", json=LONG)).status_code == 500
        with pytest.raises(EngineError):
            await pieces_of(engine, "a")
    _, alive = await asyncio.to_thread(psutil.wait_procs, engine._processes, 5)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
