"""What KServe's router lacks: paths, templates, streams, clocks, timings; and what happens when a step goes wrong."""

import asyncio
import gzip
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from deployments.errors import ModelUnavailable, QueueFull, ReplicaLost
from serve_app.carry import BrokenStream
from tests.graphs.graphed import Answered, Hangs, Raises, Says, Streams, World, node, refusal, to

ONE, TWO = {"predictions": [1]}, {"predictions": [2]}
HARD = {"dependency": "Hard"}


async def test_a_step_asks_v1_predict_or_the_path_that_it_names() -> None:
    models = {"a": Says(ONE), "b": Says(TWO)}
    await World({"root": node("Sequence", to("a"), to("b", path="/v1/chat/completions"))}, models).ask({})
    assert [models[name].asked[0][0] for name in "ab"] == ["/v1/models/a:predict", "/v1/chat/completions"]


async def test_a_request_goes_on_as_it_came_with_its_type() -> None:
    models = {"a": Says(ONE), "b": Says(b"RIFF", kind="audio/wav"), "c": Says({"text": "hi"})}
    form = "multipart/form-data; boundary=x"
    nodes = {"root": node("Sequence", to("a"), to("b"), to("c", data="$response"))}
    await World(nodes, models).ask(b"--x--", content_type=form)
    assert models["a"].asked[0][1]["content-type"] == form
    assert models["c"].asked[0][1]["content-type"] == "audio/wav"
    assert models["c"].asked[0][2] == b"RIFF"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain;charset=UTF-8"])
async def test_the_type_that_clients_send_unasked_is_json(kind: str) -> None:
    model = Says(ONE)
    await World({"root": node("Sequence", to("a"))}, {"a": model}).ask({}, content_type=kind)
    assert model.asked[0][1]["content-type"] == "application/json"


async def test_a_compressed_request_is_opened() -> None:
    model = Says(ONE)
    await World({"root": node("Sequence", to("a"))}, {"a": model}).ask(gzip.compress(b"[1]"), content_encoding="gzip")
    assert model.bodies == [[1]]
    assert "content-encoding" not in model.asked[0][1]


async def test_a_compressed_request_that_is_none_is_a_400() -> None:
    answered = await World({"root": node("Sequence", to("a"))}, {}).ask(b"x", content_encoding="gzip")
    assert answered.status == 400


async def test_templates_are_filled_with_what_came_before() -> None:
    models = {"hear": Says({"text": "what is it"}), "find": Says({"results": [{"text": "A"}]}), "say": Says(ONE)}
    find = {"query": "${steps.hear.text}", "n": 3, "all": "${request}", "first": "${request.docs.0}"}
    say = {"input": "Q: ${steps.hear.text} A: ${response.results.0.text} ${request.docs} $${x}", "raw": "${response}"}
    nodes = {"root": node("Sequence", to("hear"), to("find", request=find), to("say", request=say))}
    assert (await World(nodes, models).ask({"docs": ["d", 1]})).status == 200
    assert models["find"].bodies == [{"query": "what is it", "n": 3, "all": {"docs": ["d", 1]}, "first": "d"}]
    said = {"input": 'Q: what is it A: A ["d",1] ${x}', "raw": {"results": [{"text": "A"}]}}
    assert models["say"].bodies == [said]


async def test_what_was_put_in_is_not_looked_into_again() -> None:
    models = {"a": Says({"text": "${request.secret}"}), "b": Says(ONE)}
    nodes = {"root": node("Sequence", to("a"), to("b", request={"x": "${response.text}!", "y": "${response.text}"}))}
    await World(nodes, models).ask({"secret": 1})
    assert models["b"].bodies == [{"x": "${request.secret}!", "y": "${request.secret}"}]


@pytest.mark.parametrize(
    ("template", "request_body", "status", "says"),
    [
        ({"x": "${request.nope}"}, {}, 400, "step b cannot be asked: there is nothing at ${request.nope}"),
        ({"x": "${request.nope}"}, b"wav", 400, "step b cannot be asked: there is nothing at ${request.nope}"),
        ({"x": "${response.nope}"}, {}, 502, "step b cannot be asked: there is nothing at ${response.nope}"),
        ({"x": "${steps.a.nope}"}, {}, 502, "step b cannot be asked: there is nothing at ${steps.a.nope}"),
    ],
)
async def test_a_template_that_cannot_be_filled(template: Any, request_body: Any, status: int, says: str) -> None:
    models = {"a": Says(ONE), "b": Says(TWO), "c": Says(TWO)}
    hard = {"root": node("Sequence", to("a"), to("b", request=template, **HARD), to("c"))}
    answered = await World(hard, models).ask(request_body)
    assert (answered.status, answered.data) == (status, refusal(says))
    assert not models["c"].asked
    soft = {"root": node("Sequence", to("a"), to("b", request=template), to("c", data="$response"))}
    assert (await World(soft, models).ask(request_body)).status == 200
    assert models["c"].bodies == [refusal(says)]


BIG = Says(b'"' + b"x" * (20 << 20) + b'"')
LOST = Raises(ReplicaLost("3 replicas of b died"))
FAILURES: list[tuple[str, Callable[[], Says], int, dict[str, str]]] = [
    ("no JSON", lambda: Says(b"<html>", kind="text/html"), 502, refusal("step b answered no JSON, with status 200")),
    ("no JSON, and an error", lambda: Says(b"no", 403), 403, refusal("step b answered no JSON, with status 403")),
    ("20 MB", lambda: BIG, 502, {"error": "step b: answered more than 16777216 bytes (maxAnswer)"}),
    ("every replica died", lambda: LOST, 502, {"error": "step b: 3 replicas of b died"}),
    ("too many wait", lambda: Raises(QueueFull("full")), 429, {"error": "step b: full"}),
    ("it is loading", lambda: Raises(ModelUnavailable("loading")), 503, {"error": "step b: loading"}),
    ("its stream broke off", lambda: Raises(BrokenStream("died")), 502, refusal("step b failed")),
    ("it is wrong", lambda: Raises(KeyError("secret")), 502, refusal("step b failed")),
    ("it does not answer", Hangs, 504, refusal("step b did not answer within 0.05 s")),
]


@pytest.mark.parametrize(
    ("kind", "make", "status", "body"),
    [pytest.param("Ensemble", *row[1:], id=f"{row[0]}, in an Ensemble") for row in FAILURES]
    # In a sequence nobody looks into what is no JSON: it goes on as it is.
    + [pytest.param("Sequence", *row[1:], id=f"{row[0]}, in a Sequence") for row in FAILURES[2:]],
)
async def test_a_step_that_fails_behaves_as_its_dependency_says(
    kind: str, make: Callable[[], Says], status: int, body: dict[str, str]
) -> None:
    def nodes(**dependency: str) -> dict[str, Any]:
        after = {"data": "$response"} if kind == "Sequence" else {}
        return {"root": node(kind, to("a"), to("b", timeout=0.05, **dependency), to("c", **after))}

    def models() -> dict[str, Says]:
        return {"a": Says(ONE), "b": make(), "c": Says(TWO)}

    hard = await World(nodes(**HARD), models()).ask({})
    assert (hard.status, hard.data, hard.headers["x-graph-step"]) == (status, body, "b")
    made = models()
    soft = await World(nodes(), made).ask({})
    assert soft.status == 200
    assert soft.data == (TWO if kind == "Sequence" else {"a": ONE, "b": body, "c": TWO})
    assert made["c"].bodies == ([body] if kind == "Sequence" else [{}])


async def test_when_to_try_again_is_passed_on() -> None:
    root = {"root": node("Sequence", to("a", **HARD), to("b"))}
    answered = await World(root, {"a": Raises(QueueFull("full", retry_after_s=1.5))}).ask({})
    assert (answered.status, answered.headers["retry-after"]) == (429, "2")
    answered = await World(root, {"a": Says({}, 503, retry_after="7")}).ask({})
    assert (answered.status, answered.headers["retry-after"]) == (503, "7")


@pytest.mark.parametrize("kind", ["Ensemble", "Sequence"])
async def test_the_deadline_ends_the_whole_graph_soft_or_not(kind: str) -> None:
    hangs = Hangs()
    nodes = {"root": node(kind, to("a"), to("b"), to("c"))}
    answered = await World(nodes, {"a": Says(ONE), "b": hangs, "c": Says(TWO)}, timeout=0.05).ask({})
    assert (answered.status, answered.data) == (504, refusal("0.05 s were over in step b (timeout)"))
    assert answered.headers["x-graph-step"] == "b"
    assert hangs.ended.is_set()


async def test_a_node_has_a_clock_too() -> None:
    hangs = Hangs()
    nodes = {
        "root": node("Ensemble", to("a"), {"name": "n", "nodeName": "n", "timeout": 0.05}),
        "n": node("Sequence", to("b")),
    }
    answered = await World(nodes, {"a": Says(ONE), "b": hangs}).ask({})
    assert answered.data == {"a": ONE, "n": refusal("step n did not answer within 0.05 s")}
    assert hangs.ended.is_set()


async def test_models_are_told_what_is_left_of_the_time() -> None:
    seen: list[float] = []

    class Told(Says):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["serve_app.timeout_s"])
            await super().__call__(scope, receive, send)

    nodes = {"root": node("Sequence", to("a", timeout=3), to("b"))}
    await World(nodes, {"a": Told(ONE), "b": Told(TWO)}, timeout=10).ask({})
    assert seen[0] == 3
    assert 9 < seen[1] < 10


async def test_a_client_that_hangs_up_ends_all_steps() -> None:
    hanging = {"a": Hangs(), "b": Hangs(), "c": Hangs()}
    nodes = {"root": node("Ensemble", to("a"), to("b"), {"nodeName": "n"}), "n": node("Sequence", to("c"))}
    task = asyncio.create_task(World(nodes, dict(hanging)).ask({}))
    await asyncio.gather(*(model.reached.wait() for model in hanging.values()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(model.ended.is_set() for model in hanging.values())


async def test_a_hard_failure_ends_the_steps_beside_it() -> None:
    hangs = Hangs()
    nodes = {"root": node("Ensemble", to("a", **HARD), to("b"))}
    answered = await World(nodes, {"a": Says({}, 500), "b": hangs}).ask({})
    assert answered.status == 500
    assert hangs.ended.is_set()


@pytest.mark.parametrize(
    "nodes",
    [
        {"root": node("Sequence", to("a"), to("s"))},
        {"root": node("Switch", to("s", condition="@this"))},
        {"root": node("Splitter", to("s", weight=100))},
        {
            "root": node("Sequence", to("a"), {"nodeName": "n", "timeout": 0.05}),
            "n": node("Sequence", to("a"), to("s")),
        },
    ],
    ids=["Sequence", "Switch", "Splitter", "nested"],
)
async def test_the_last_step_streams_and_no_clock_cuts_it_off(nodes: dict[str, Any]) -> None:
    streams, answered = Streams(b"data: 1\n\n", b"data: 2\n\n"), Answered()
    world = World(nodes, {"a": Says(ONE), "s": streams}, timeout=0.1)
    task = asyncio.create_task(world.ask({}, answered))
    while not answered.pieces:
        await asyncio.sleep(0)
    assert (answered.status, answered.headers["content-type"]) == (200, "text/event-stream")
    assert answered.pieces == [b"data: 1\n\n"]
    await asyncio.sleep(0.15)
    streams.go.set()
    await task
    assert answered.body == b"data: 1\n\ndata: 2\n\n"


async def test_the_last_step_may_answer_more_than_others() -> None:
    answered = await World({"root": node("Sequence", to("a"))}, {"a": BIG}).ask({})
    assert (answered.status, len(answered.body)) == (200, len(BIG.body))


async def test_a_stream_that_breaks_off_is_not_taken_for_whole() -> None:
    class Breaks(Streams):
        async def speak(self, send: Any) -> None:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            raise BrokenStream("the replica died")

    with pytest.raises(BrokenStream):
        await World({"root": node("Sequence", to("a"))}, {"a": Breaks()}).ask({})


async def test_headers_go_on_by_pattern_only() -> None:
    sent = {"authorization": "Bearer x", "test_header_1": "1", "x_test_header": "2", "cookie": "c", "host": "h"}
    for patterns, expected in (
        ((), set()),
        (("Authorization",), {"authorization"}),
        (("Test-Header-*", "Auth*"), {"authorization", "test-header-1", "x-test-header"}),
        (("^test-header", "Test-Header-1"), {"test-header-1"}),
        ((".*",), {"authorization", "test-header-1", "x-test-header", "cookie"}),
    ):
        model = Says(ONE)
        await World({"root": node("Sequence", to("a"))}, {"a": model}, headers=patterns).ask({}, None, **sent)
        assert set(model.asked[0][1]) - {"content-type", "content-length"} == expected, patterns


async def test_the_requests_id_reaches_every_model() -> None:
    model = Says(ONE)
    await World({"root": node("Sequence", to("a"))}, {"a": model}).ask({}, x_request_id="7")
    assert model.asked[0][1]["x-request-id"] == "7"


async def test_timings_are_told_when_asked_for() -> None:
    nodes = {
        "root": node("Sequence", to("a"), {"nodeName": "n"}, to("last")),
        "n": node("Ensemble", {"serviceName": "a"}, to("b", timeout=0.05)),
    }
    world = World(nodes, {"a": Says(ONE), "b": Hangs(), "last": Says(TWO)})
    assert "server-timing" not in (await world.ask({})).headers
    told = (await world.ask({}, x_graph_timings="1")).headers["server-timing"]
    took = {name: float(ms) for name, ms in re.findall(r"([\w-]+);dur=([\d.]+)", told)}
    assert list(took) == ["a", "n_0", "b", "last"]
    assert took["b"] >= 50


async def test_a_large_answer_is_read_off_the_event_loop() -> None:
    """While megabytes are parsed, looked through and put into a template, others get their turns."""
    rows = 100_000
    large = Says({"rows": [{"x": n, "label": "dog"} for n in range(rows)]})
    where = f"rows.#(x=={rows - 1})"
    nodes = {"root": node("Sequence", to("a"), to("b", condition=where, request={"n": "${response.rows.#}"}))}
    clock = asyncio.get_running_loop().time
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        while True:
            before_s = clock()
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, clock() - before_s)

    watching = asyncio.create_task(watch())
    models, began_s = {"a": large, "b": Says(TWO)}, clock()
    answered = await World(nodes, models).ask({})
    took_s = clock() - began_s
    watching.cancel()
    assert answered.status == 200
    assert orjson.loads(models["b"].asked[0][2]) == {"n": rows}
    assert longest_s < took_s / 2
