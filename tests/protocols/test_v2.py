"""The Open Inference Protocol for every task: JSON and binary in and out."""

import base64
import gzip
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from tritonclient.http import InferRequestedOutput

from deployments.engines import GenerateOptions, TranscribeOptions
from deployments.specs import Datatype, object_array
from deployments.tensors import DTYPES
from tests.protocols.engines import Embed, Generate, Predict, Rerank, Speak, Transcribe, ask, sound, spec
from tests.protocols.fakes import Served
from tests.protocols.inferences import INFER, Given, binary, echo, infer, output, refused, tensor, texts, two


async def test_texts_to_vectors() -> None:
    served = Served(Embed(), "embed")
    made = await output(served, texts("input", "ab", "c"), parameters={"prompt_name": "query", "normalize": False})
    assert made == {"name": "embeddings", "shape": [2, 3], "datatype": "FP32", "data": [2, 2, 2, 1, 1, 1]}
    assert (served.loaded().asked["prompt"], served.loaded().asked["normalize"]) == ("query", False)


async def test_a_query_and_documents_to_scores() -> None:
    served = Served(Rerank(), "rerank")
    made = await output(served, texts("documents", "a", "bb"), texts("query", "q"))
    assert (made["name"], made["data"]) == ("scores", [1, 0.5])
    said = await refused(served, {"inputs": [texts("documents", "a"), texts("query", "q", "r")]})
    assert "'query' has shape [2]; the model takes [1]" in said


async def test_audio_to_text() -> None:
    served = Served(Transcribe(), "transcribe")
    file = texts("audio", base64.b64encode(sound()).decode()) | {"parameters": {"content_type": "base64"}}
    made = await output(served, file, parameters={"language": "de", "prompt": "x"})
    assert (made["name"], made["data"]) == ("text", ["16000 samples"])
    assert served.loaded().asked == [TranscribeOptions("de", prompt="x")]
    result = await binary(served, {"audio": object_array([sound(), sound(800)])})
    assert result.as_numpy("text").tolist() == [b"16000 samples", b"800 samples"]


async def test_audio_in_json_that_does_not_say_base64_is_refused() -> None:
    file = texts("audio", base64.b64encode(sound()).decode())
    assert "not audio" in await refused(Served(Transcribe(), "transcribe"), {"inputs": [file]})


async def test_text_to_audio() -> None:
    served = Served(Speak(), "speak")
    asked = {"parameters": {"voice": "x"}, "outputs": [{"name": "audio", "parameters": {"content_type": "base64"}}]}
    made = await output(served, texts("text", "ab"), **asked)
    assert made["parameters"] == {"content_type": "base64"}
    assert base64.b64decode(made["data"][0]) == sound(200)
    assert served.loaded().asked == [("ab", "x", None)]
    result = await binary(served, {"text": object_array([b"ab"])})
    assert result.as_numpy("audio").tolist() == [sound(200)]


async def test_prompts_to_texts() -> None:
    served = Served(Generate(), "generate")
    made = await output(served, texts("text_input", "a b c", "d"), parameters={"max_tokens": 2, "stop": ["x"]})
    assert (made["name"], made["data"]) == ("text_output", ["ab", "d"])
    assert served.loaded().asked == [GenerateOptions(2, stop=("x",))] * 2
    assert served.loaded().open == 0


async def test_an_adapter_is_a_model_by_its_name() -> None:
    served = Served(Generate(), "generate")
    body = await infer(served, texts("text_input", "a"), path="/v2/models/fr/infer")
    assert body["model_name"] == "fr"
    assert served.loaded().asked[0].adapter == "fr"


async def test_several_inputs_by_name_in_any_order() -> None:
    served = two()
    body = await infer(
        served, tensor("b", "INT8", [3, 1]), tensor("a", "FP64", [[1, 2], [3, 4]], [2, 2]), parameters={"k": 1}
    )
    assert [(one["name"], one["datatype"], one["data"]) for one in body["outputs"]] == [
        ("sum", "FP64", [6, 8]),
        ("a", "FP32", [1, 2, 3, 4]),
    ]
    assert {name: array.dtype for name, array in served.loaded().got.items()} == {"a": np.float32, "b": np.int64}
    assert served.loaded().asked == ((), {"k": 1})


async def test_only_the_requested_outputs_in_their_order() -> None:
    served = two()
    given = [tensor("a", "FP32", [1, 2], [1, 2]), tensor("b", "INT64", [3])]
    assert [one["name"] for one in (await infer(served, *given))["outputs"]] == ["sum", "a"]
    body = await infer(served, *given, outputs=[{"name": "a"}, {"name": "sum"}])
    assert [one["name"] for one in body["outputs"]] == ["a", "sum"]
    assert served.loaded().asked[0] == ("a", "sum")
    assert "unknown output 'z'; the model has sum, a" in await refused(
        served, {"inputs": given, "outputs": [{"name": "z"}]}
    )


async def test_an_output_that_an_undeclaring_model_does_not_give_is_refused() -> None:
    given = {"inputs": [tensor("x", "FP32", [1])], "outputs": [{"name": "z"}]}
    assert "unknown output 'z'; the model gives x" in await refused(echo(), given)


@pytest.mark.parametrize("name", ["input-0", "x", ""])
async def test_an_unnamed_input_takes_any_name(name: str) -> None:
    served = echo(spec("input-0", "FP32", -1, 2), named=False)
    assert (await output(served, tensor(name, "FP32", [1, 2], [1, 2])))["name"] == "input-0"
    more = [tensor(one, "FP32", [1, 2], [1, 2]) for one in ("x", "y")]
    assert "the model has input-0" in await refused(served, {"inputs": more})


async def test_undeclared_inputs_are_taken_as_they_come() -> None:
    made = await infer(echo(), tensor("x", "UINT8", [1, 2], [2, 1]), texts("y", "a"))
    assert [(one["name"], one["datatype"], one["shape"]) for one in made["outputs"]] == [
        ("x", "UINT8", [2, 1]),
        ("y", "BYTES", [1]),
    ]


async def test_a_column_will_do_for_a_list() -> None:
    served = Served(Embed(), "embed")
    made = await output(served, texts("input", "ab", "c") | {"shape": [2, 1]})
    assert made["shape"] == [2, 3]
    assert "has shape [1, 2]" in await refused(served, {"inputs": [texts("input", "ab", "c") | {"shape": [1, 2]}]})


@pytest.mark.parametrize("datatype", [one for one in DTYPES if one != "BYTES"])
async def test_every_datatype_in_binary_and_back(datatype: Datatype) -> None:
    given = np.array([[0, 1]]).astype(DTYPES[datatype])
    result = await binary(echo(), {"pad": np.zeros(1, np.uint8), "x": given})
    assert result.get_output("x")["datatype"] == datatype
    back = result.as_numpy("x")
    assert back.shape == (1, 2)
    assert back.astype(np.float64).tolist() == [[0, 1]]


async def test_an_input_that_is_not_aligned_in_the_body_reaches_the_model_aligned() -> None:
    served = echo(spec("pad", "UINT8", -1), spec("x", "FP64", -1))
    given = np.arange(1000, dtype=np.float64)
    result = await binary(served, {"pad": np.zeros(3, np.uint8), "x": given})
    assert served.loaded().got["x"].flags.aligned
    np.testing.assert_array_equal(result.as_numpy("x"), given)


async def test_binary_for_one_output_and_json_for_another() -> None:
    outputs = [InferRequestedOutput("a", binary_data=True), InferRequestedOutput("sum", binary_data=False)]
    given: Given = {"a": np.ones((1, 2), np.float32), "b": np.ones(1, np.int64)}
    result = await binary(two(), given, outputs)
    assert "binary_data_size" in result.get_output("a")["parameters"]
    assert result.get_output("sum")["data"] == [3.0]
    np.testing.assert_array_equal(result.as_numpy("a"), given["a"])


async def test_ids_come_back_and_are_made_where_there_is_none() -> None:
    served, given = echo(), tensor("x", "INT8", [1])
    assert (await infer(served, given, id="7"))["id"] == "7"
    made = {(await infer(served, given))["id"] for _ in range(2)}
    assert len(made) == 2
    assert all(made)


async def test_versions() -> None:
    served = Served(Predict(), version="3", aliases=["BAAI/bge"])
    given = tensor("x", "INT8", [1])
    assert (await infer(served, given, path="/v2/models/m/versions/3/infer"))["model_version"] == "3"
    assert (await infer(served, given, path="/v2/models/BAAI/bge/versions/3/infer"))["model_name"] == "BAAI/bge"
    for path, method in (("/infer", "POST"), ("", "GET"), ("/ready", "GET"), ("/config", "GET"), ("/stats", "GET")):
        answer = await ask(served, f"/v2/models/m/versions/2{path}", method)
        assert answer.status_code == 404
        assert "Its version here is 3" in answer.json()["error"]
        if method == "GET":
            assert (await ask(served, f"/v2/models/m/versions/3{path}", method)).status_code == 200


async def test_an_unknown_model_is_a_404_in_kserves_words() -> None:
    answer = await ask(echo(), "/v2/models/nope/infer", json={"inputs": [tensor("x", "INT8", [1])]})
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("Model with name nope does not exist.")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_another_method_is_a_405(method: str) -> None:
    for served in (echo(), Served(Embed(), "embed")):
        for path in (INFER, "/v2/models/m/versions/1/infer"):
            answer = await ask(served, path, method)
            assert (answer.status_code, set(answer.json())) == (405, {"error"})
            assert "POST" in answer.json()["error"]


async def test_numbers_that_json_lacks() -> None:
    made = await output(echo(), tensor("x", "FP32", [None, 1.5]))
    assert made["data"] == [None, 1.5]
    assert "Unrecognized request format" in await refused(
        echo(), b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}'
    )
    assert "INT8" in await refused(echo(), {"inputs": [tensor("x", "INT8", [None])]})


async def test_bytes_that_are_no_text_say_that_they_are_base64() -> None:
    made = await output(echo(), texts("x", "/wA=") | {"parameters": {"content_type": "base64"}})
    assert (made["data"], made["parameters"]) == (["/wA="], {"content_type": "base64"})


@pytest.mark.parametrize("kind", [None, "application/json; charset=utf-8", "application/octet-stream"])
async def test_json_whatever_the_content_type(kind: str | None) -> None:
    content = orjson.dumps({"inputs": [tensor("x", "INT8", [1])]})
    answer = await ask(echo(), INFER, content=content, headers={"content-type": kind} if kind else {})
    assert answer.json()["outputs"][0]["data"] == [1]


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_both_ways(coding: str, pack: Any) -> None:
    served = Served(Predict(), limits={"max_decompressed": 100_000})
    content = orjson.dumps({"inputs": [tensor("x", "INT64", list(range(1000)))]})
    headers = {"content-encoding": coding, "accept-encoding": coding}
    answer = await ask(served, INFER, content=pack(content), headers=headers)
    assert answer.headers["content-encoding"] == coding
    assert answer.json()["outputs"][0]["data"] == list(range(1000))
    await refused(served, pack(bytes(10_000_000)), 413, headers=headers)
    await refused(served, pack(content)[:-9], headers=headers)


async def test_metadata_configuration_and_statistics() -> None:
    served = two()
    metadata = (await ask(served, "/v2/models/m", "GET")).json()
    assert metadata["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": [-1, 2]}
    assert [one["name"] for one in metadata["outputs"]] == ["sum", "a"]
    config = (await ask(served, "/v2/models/m/config", "GET")).json()
    assert config["input"][1] == {"name": "b", "data_type": "TYPE_INT64", "dims": [-1]}
    config = (await ask(Served(Embed(), "embed"), "/v2/models/m/config", "GET")).json()
    assert config["input"] == [{"name": "input", "data_type": "TYPE_STRING", "dims": [-1]}]


async def test_statistics_count_what_was_answered_and_what_was_refused() -> None:
    served = echo()
    await infer(served, tensor("x", "INT8", [1]))
    await ask(served, "/v1/models/m:predict", json={"instances": [1]})
    await refused(served, {})
    (stats,) = (await ask(served, "/v2/models/m/stats", "GET")).json()["model_stats"]
    assert stats["inference_count"] == 2
    assert stats["inference_stats"]["success"]["count"] == 2
    assert stats["inference_stats"]["fail"]["count"] == 1
    assert stats["last_inference"] > 0
