"""KServe's V1 for every task: what goes in, what comes out, and what is said of what is wrong."""

import base64
import gzip
import zlib
from typing import Any

import numpy as np
import orjson
import pytest

from deployments.engines import GenerateOptions, TranscribeOptions
from deployments.specs import object_array
from tests.protocols.engines import Embed, Generate, Predict, Rerank, Speak, Transcribe, ask, sound, spec
from tests.protocols.fakes import Served

PREDICT = "/v1/models/m:predict"
TWO = Predict(
    lambda got: {"sum": got["a"].sum(axis=1) + got["b"], "a": got["a"]},
    [spec("a", "FP32", -1, 2), spec("b", "INT64", -1)],
)


def embedder(**settings: Any) -> Served[Embed]:
    return Served(Embed(), "embed", aliases=["alias", "BAAI/bge-m3"], **settings)


async def predictions(served: Served[Any], instances: list[Any], **more: Any) -> Any:
    answer = await ask(served, PREDICT, json={"instances": instances, **more})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"predictions"}
    return answer.json()["predictions"]


async def refused(served: Served[Any], body: Any, status: int = 400) -> str:
    answer = await ask(served, PREDICT, content=body if isinstance(body, bytes) else orjson.dumps(body))
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    return str(answer.json()["error"])


async def test_texts_to_vectors() -> None:
    served = embedder()
    assert await predictions(served, ["ab", {"text": "c"}]) == [[2, 2, 2], [1, 1, 1]]
    await predictions(served, ["ab"], parameters={"dimensions": 2, "truncate": "end", "other": 1})
    assert (served.loaded().asked["dimensions"], served.loaded().asked["truncate"]) == (2, "end")


async def test_a_query_and_documents_to_scores() -> None:
    pair = {"query": "q", "documents": ["a", "bb"]}
    assert await predictions(Served(Rerank(), "rerank"), [pair, pair]) == [[1, 0.5], [1, 0.5]]


async def test_audio_to_text() -> None:
    served = Served(Transcribe(), "transcribe")
    file = {"b64": base64.b64encode(sound()).decode()}
    assert (
        await predictions(served, [file, file | {"language": "fr"}], parameters={"language": "de"})
        == ["16000 samples"] * 2
    )
    assert served.loaded().asked == [TranscribeOptions("de"), TranscribeOptions("fr")]


async def test_text_to_audio() -> None:
    served = Served(Speak(), "speak")
    (first, _) = await predictions(served, ["ab", {"text": "c", "voice": "y"}], parameters={"voice": "x"})
    assert base64.b64decode(first["b64"]) == sound(200)
    assert served.loaded().asked == [("ab", "x", None), ("c", "y", None)]


async def test_prompts_to_texts() -> None:
    served = Served(Generate(), "generate")
    own = {"text_input": "a b c", "parameters": {"max_tokens": 1}}
    assert await predictions(served, ["a b c", own], parameters={"max_tokens": 2, "stop": "x"}) == ["ab", "a"]
    assert served.loaded().asked == [GenerateOptions(2, stop=("x",)), GenerateOptions(1, stop=("x",))]
    assert served.loaded().open == 0


async def test_an_adapter_is_a_model_by_its_name() -> None:
    served = Served(Generate(), "generate")
    answer = await ask(served, "/v1/models/fr:predict", json={"instances": ["a"]})
    assert answer.json() == {"predictions": ["a"]}
    assert served.loaded().asked[0].adapter == "fr"


async def test_rows_of_the_only_input() -> None:
    served = Served(Predict(lambda got: {"y": got["x"] * 2}, [spec("x", "FP32", -1, 2)]))
    assert await predictions(served, [[1, 2], [3, 4.5]], parameters={"k": "v"}) == [[2, 4], [6, 9]]
    assert served.loaded().asked == ((), {"k": "v"})
    assert served.loaded().got["x"].dtype == np.float32


@pytest.mark.parametrize("name", ["input-0", "x", "anything"])
async def test_an_unnamed_input_takes_any_name(name: str) -> None:
    served = Served(Predict(lambda got: {"y": got["input-0"]}, [spec("input-0", "FP32", -1, 2)], named=False))
    assert await predictions(served, [{name: [1, 2]}]) == [[1, 2]]
    assert "the model has input-0" in await refused(served, {"instances": [{"x": [1, 2], "y": [1, 2]}]})


async def test_undeclared_inputs_are_taken_as_they_come() -> None:
    served = Served(Predict())
    assert await predictions(served, [[1, 2], [3, 4]]) == [[1, 2], [3, 4]]
    assert await predictions(served, ["a", "b"]) == ["a", "b"]
    assert await predictions(served, [True]) == [True]
    row = {"x": 1, "t": ["a", "b"]}
    assert await predictions(served, [row, row]) == [row, row]


async def test_objects_with_a_row_of_every_input() -> None:
    rows = [{"a": [1, 2], "b": 3}, {"b": -1, "a": [0.5, 0]}]
    assert await predictions(Served(TWO), rows) == [{"sum": 6, "a": [1, 2]}, {"sum": -0.5, "a": [0.5, 0]}]


def table() -> Served[Predict]:
    """A model of columns, and what it was given."""
    served = Served(Predict(lambda got: {"y": got["a"]}, [spec("input-0", "FP64", -1, 2)], named=False))
    served.loaded().columns = ("a", "b")
    return served


@pytest.mark.parametrize(
    "instances",
    [
        [{"a": 1, "b": 2}, {"b": 4, "a": 3}],
        [{"a": {"0": 1, "1": 3}, "b": {"0": 2, "1": 4}}],
        [{"a": {"x": 1}, "b": {"x": 2}}, {"b": {"0": 4}, "a": {"0": 3}}],
        [{"a": {"0": 1, "7": 3}, "b": {"7": 4, "0": 2}}],
        [{"a": [1, 3], "b": [2, 4]}],
        [{"a": [1], "b": [2]}, {"a": 3, "b": 4}],
    ],
)
async def test_rows_and_tables_as_pandas_writes_them(instances: Any) -> None:
    served = table()
    assert await predictions(served, instances) == [1, 3]
    assert {name: array.tolist() for name, array in served.loaded().got.items()} == {"a": [1, 3], "b": [2, 4]}


@pytest.mark.parametrize(
    ("instances", "says"),
    [
        ([{"a": {"0": 1}, "b": {"1": 1}}], "'b' of instances[0] has rows ['1']; the first ['0']"),
        ([{"a": 1, "b": 2}, {"a": [1, 2], "b": [1]}], "'b' of instances[1] has 1 rows; the first has 2"),
        ([{"a": {"0": 1}, "b": 2}], "'a'"),
        ([{"a": {"0": 1}, "c": {"0": 1}}], "unknown column 'c'; the model has a, b"),
        ([{"a": 1}], "no column b; the model has a, b"),
        ([{"c": 1, "d": 1}], "the model has input-0, or the columns a, b"),
    ],
)
async def test_tables_that_are_none(instances: Any, says: str) -> None:
    assert says in await refused(table(), {"instances": instances})


async def test_a_number_stands_for_a_row_of_one() -> None:
    served = Served(Predict(lambda got: {"y": got["a"]}, [spec("a", "FP32", -1, 1), spec("b", "BYTES", -1, 1)]))
    assert await predictions(served, [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]) == [[1], [2]]
    assert served.loaded().got["b"].tolist() == [[b"x"], [b"y"]]


async def test_bytes_that_are_no_text_are_base64_both_ways() -> None:
    served = Served(Predict(inputs=[spec("x", "BYTES", -1)]))
    rows = [{"b64": "/wA="}, {"b64": "YQ=="}]
    assert await predictions(served, rows) == rows
    assert served.loaded().got["x"].tolist() == [b"\xff\0", b"a"]
    assert await predictions(served, [{"x": {"b64": "YQ=="}}]) == ["a"]
    assert "for all or for none" in await refused(served, {"instances": [{"b64": "YQ=="}, "a"]})
    assert "not base64" in await refused(served, {"instances": [{"b64": "Y"}]})
    assert "strings" in await refused(served, {"instances": [{"b64": 1}]})


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (np.array([1.5], np.float16), [1.5]),
        (np.array([np.nan, np.inf, 1]), [None, None, 1]),
        (np.array(3), [3]),
        (np.array(["a", "ä"]), ["a", "ä"]),
        (np.array([1 << 63], np.uint64), [1 << 63]),
        (object_array([b"\xff"]), [{"b64": "/w=="}]),
        (np.zeros((0, 2)), []),
    ],
)
async def test_what_models_give_is_json(made: Any, expected: list[Any]) -> None:
    assert await predictions(Served(Predict(lambda _: {"y": made})), [1]) == expected


async def test_outputs_that_have_no_common_rows_are_the_models_fault() -> None:
    served = Served(Predict(lambda _: {"y": np.zeros(2), "z": np.zeros(3)}))
    assert "different numbers of rows" in await refused(served, {"instances": [1]}, 500)


async def test_inputs_is_another_word_for_instances() -> None:
    answer = await ask(embedder(), PREDICT, json={"inputs": ["ab"], "signature_name": "x"})
    assert answer.json() == {"predictions": [[2, 2, 2]]}


@pytest.mark.parametrize(
    "kind", [None, "application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"]
)
async def test_json_whatever_the_content_type(kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = await ask(embedder(), PREDICT, content=b'{"instances": ["ab"]}', headers=headers)
    assert answer.json() == {"predictions": [[2, 2, 2]]}


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_bodies(coding: str, pack: Any) -> None:
    served = embedder(limits={"max_decompressed": 100_000})
    headers = {"content-encoding": coding}
    answer = await ask(served, PREDICT, content=pack(b'{"instances": ["ab"]}'), headers=headers)
    assert answer.json() == {"predictions": [[2, 2, 2]]}
    bomb = await ask(served, PREDICT, content=pack(bytes(10_000_000)), headers=headers)
    assert (bomb.status_code, set(bomb.json())) == (413, {"error"})
    broken = await ask(served, PREDICT, content=b"no such thing", headers=headers)
    assert broken.status_code == 400


@pytest.mark.parametrize("name", ["m", "alias", "BAAI/bge-m3"])
async def test_by_name_and_alias(name: str) -> None:
    assert (await ask(embedder(), f"/v1/models/{name}:predict", json={"instances": ["ab"]})).status_code == 200


async def test_an_unknown_model_is_a_404_in_kserves_words() -> None:
    for path in ("/v1/models/nope:predict", "/v1/models/nope:explain"):
        answer = await ask(embedder(), path, json={"instances": ["a"]})
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("Model with name nope does not exist.")


async def test_no_explainer_is_a_501() -> None:
    answer = await ask(embedder(), "/v1/models/m:explain", json={"instances": ["a"]})
    assert (answer.status_code, set(answer.json())) == (501, {"error"})


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_another_method_is_a_405(method: str) -> None:
    for path in (PREDICT, "/v1/models/m:explain"):
        answer = await ask(embedder(), path, method)
        assert (answer.status_code, set(answer.json())) == (405, {"error"})
        assert "POST" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Unrecognized request format"),
        (b"nope", "Unrecognized request format"),
        (b"\xff\xfe", "Unrecognized request format"),
        (b'{"instances": [NaN]}', "Unrecognized request format"),
        (b"[" * 100_000, "Unrecognized request format"),
        ([1], "not a JSON object"),
        ({}, 'Expected "instances" to be a list'),
        ({"instances": "ab"}, 'Expected "instances" to be a list'),
        ({"inputs": {"a": 1}}, 'Expected "inputs" to be a list'),
        ({"instances": []}, "1 to 4"),
        ({"instances": ["a"] * 5}, "5 entries; 1 to 4"),
        ({"instances": ["a"], "parameters": [1]}, 'Expected "parameters" to be an object'),
        ({"instances": [1]}, r"instances[0]"),
        ({"instances": ["a", {}]}, r"instances[1]: Unrecognized request format: text"),
        ({"instances": [{"text": "a", "more": 1}]}, "more"),
        ({"instances": [{"text": 5}]}, "text"),
        ({"instances": ["a", ""]}, "instances[1] is empty"),
        ({"instances": ["a"], "parameters": {"dimensions": 0}}, "dimensions"),
        ({"instances": ["a"], "parameters": {"truncate": "left"}}, "'end' or 'error'"),
        ({"instances": ["a"], "parameters": {"prompt_name": "nope"}}, "unknown prompt 'nope'"),
    ],
)
async def test_bad_bodies_are_a_400_that_says_why(body: Any, says: str) -> None:
    assert says in await refused(embedder(limits={"max_inputs": 4}), body)


@pytest.mark.parametrize(
    ("instance", "says"),
    [
        ({"query": "q"}, "documents"),
        ({"query": " ", "documents": ["a"]}, "query is empty"),
        ({"query": "q", "documents": []}, "empty list"),
        ({"query": "q", "documents": ["a"] * 9}, "more than one request may ask for"),
        ("q", "an object with query, documents"),
    ],
)
async def test_pairs_that_cannot_be_ranked(instance: Any, says: str) -> None:
    served = Served(Rerank(), "rerank", limits={"max_inputs": 8})
    good = {"query": "q", "documents": ["a"]}
    said = await refused(served, {"instances": [good, instance]})
    assert said.startswith("instances[1]")
    assert says in said


async def test_audio_that_cannot_be_heard() -> None:
    served = Served(Transcribe(), "transcribe", limits={"max_audio": "2s"})
    second = {"b64": base64.b64encode(sound()).decode()}
    assert "b64 is not base64" in await refused(served, {"instances": [{"b64": "?"}]})
    assert "instances[1]: the file is not audio" in await refused(served, {"instances": [second, {"b64": "YQ=="}]})
    assert "instances[0]: unknown language" in await refused(served, {"instances": [second | {"language": "xx"}]})
    assert "instances[2]" in await refused(served, {"instances": [second] * 3})
    long = {"b64": base64.b64encode(sound(80_000)).decode()}
    await refused(served, {"instances": [long]}, 413)


async def test_text_that_cannot_be_spoken() -> None:
    served = Served(Speak(), "speak", limits={"max_characters": 5})
    assert "instances[1]: input is empty" in await refused(served, {"instances": ["a", " "]})
    assert "instances[0]: input has 6 characters" in await refused(served, {"instances": ["a" * 6]})
    assert "instances[1]: with those before it" in await refused(served, {"instances": ["aaaa", "aaaa"]})
    assert "unknown voice" in await refused(served, {"instances": ["a"], "parameters": {"voice": "nobody"}})


async def test_prompts_that_cannot_be_continued() -> None:
    served = Served(Generate(), "generate")
    assert "instances[1]: the prompt is empty" in await refused(served, {"instances": ["a", ""]})
    assert "instances[64]" in await refused(served, {"instances": ["a"] * 65})
    assert "max_tokens" in await refused(served, {"instances": ["a"], "parameters": {"max_tokens": -1}})
    assert "the model failed" in await refused(served, {"instances": ["a FAIL", "b"]}, 500)
    assert served.loaded().open == 0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"a": [1, 2]}], "no input b; the model has a, b"),
        ([{"a": [1, 2], "b": 1, "c": 1}], "unknown input 'c'"),
        ([{}], "no input a, b"),
        ([[1, 2]], "an object with a, b"),
        ([{"a": [1, 2], "b": 1}, {"a": [1, 2]}], "instances[1] has ['a']"),
        ([{"a": [1, 2, 3], "b": 1}], "'a' has shape [1, 3]; the model takes [-1, 2]"),
        ([{"a": [1, [2]], "b": 1}], "'a'"),
        ([{"a": [1, 2], "b": 1.5}], "whole numbers; found a fraction"),
        ([{"a": [1, 2], "b": None}], "'b'"),
        ([{"a": ["1", 2], "b": 1}], "'a'"),
        ([{"a": [1e300, 2], "b": 1}], "which FP32 cannot hold"),
        ([{"a": {"b64": "YQ=="}, "b": 1}], "'a'"),
        ([{"a": [1, 2], "b": 1}, 7], "an object with a, b"),
    ],
)
async def test_rows_that_do_not_fit(rows: list[Any], says: str) -> None:
    assert says in await refused(Served(TWO), {"instances": rows})


async def test_nesting_without_end_is_refused() -> None:
    for served in (Served(Predict()), Served(Predict(inputs=[spec("x", "BYTES", -1)]))):
        for leaf in (b"1", b'{"b64": "YQ=="}'):
            deep = b"[" * 900 + leaf + b"]" * 900
            await refused(served, b'{"instances": ' + deep + b"}")
            await refused(served, b'{"instances": [' + leaf + b"," + deep + b"]}")
