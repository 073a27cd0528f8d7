"""What the Open Inference Protocol's routes refuse: always with a 400 that says what was wrong."""

import struct
from typing import Any

import orjson
import pytest

from tests.protocols.engines import Embed, Generate, Speak, Transcribe
from tests.protocols.fakes import Served
from tests.protocols.inferences import echo, refused, tensor, texts, two


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "c"}, "unknown input 'c'; the model has a, b"),
        ({"name": "b"}, "'b' 2 times"),
        ({"datatype": "BYTES", "data": ["1", "2"]}, "is BYTES; the model takes FP32"),
        ({"datatype": "FP12"}, "unknown datatype 'FP12'"),
        ({"datatype": "FP16"}, "send it as binary data"),
        ({"datatype": None}, "datatype"),
        ({"shape": [2]}, "has shape [2]; the model takes [-1, 2]"),
        ({"shape": [1, 3]}, "which is 3 elements; data has 2"),
        ({"shape": [-1, 2]}, "integers from 0 up"),
        ({"shape": [10**9, 2]}, "data has 2"),
        ({"shape": [1 << 62, 1 << 62]}, "elements"),
        ({"shape": "1"}, "integers from 0 up"),
        ({"data": [1, "2"]}, "found a string"),
        ({"data": [[1], [2, 3]]}, "ragged"),
        ({"data": {"a": 1}}, "data is a list"),
        ({"data": None}, "neither data nor"),
        ({"data": [1e39, 0]}, "FP32 cannot hold"),
        ({"parameters": []}, "parameters"),
        ({"parameters": {"binary_data_size": 8}}, "both data and"),
        ({"parameters": {"shared_memory_region": "x"}}, "not served here"),
        ({"name": 5}, "a name is a string"),
    ],
)
async def test_inputs_that_do_not_fit_are_named(changed: dict[str, Any], says: str) -> None:
    given = tensor("a", "FP32", [1, 2], [1, 2]) | changed
    assert says in await refused(two(), {"inputs": [given, tensor("b", "INT64", [1])]})


async def test_a_missing_input_is_named() -> None:
    said = await refused(two(), {"inputs": [tensor("a", "FP32", [1, 2], [1, 2])]})
    assert said == "no input b; the model has a, b"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Unrecognized request format"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "Unrecognized request format"),
        ({}, "no inputs"),
        ({"inputs": {}}, "not a list of objects"),
        ({"inputs": [1]}, "not a list of objects"),
        ({"inputs": [], "id": 7}, "id is 7"),
        ({"inputs": [], "parameters": 7}, "parameters is 7"),
        ({"inputs": [], "parameters": {"binary_data_output": 1}}, "true or false"),
        ({"inputs": [], "outputs": [{"name": "x", "parameters": {"classification": 3}}]}, "not served here"),
    ],
)
async def test_bad_bodies_are_a_400_that_says_why(body: Any, says: str) -> None:
    assert says in await refused(echo(), body)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "999", "9" * 30])
async def test_a_header_length_that_lies(length: str) -> None:
    headers = {"inference-header-content-length": length}
    await refused(echo(), {"inputs": [tensor("x", "INT8", [1])]}, headers=headers)


@pytest.mark.parametrize(
    ("engine", "task", "given", "parameters", "says"),
    [
        (Embed, "embed", texts("input", "a"), {"dimensions": "many"}, "dimensions"),
        (Embed, "embed", texts("input"), {}, "empty list"),
        (Embed, "embed", texts("input", "a", ""), {}, "input[1] is empty"),
        (Transcribe, "transcribe", texts("audio", "abc"), {}, "audio[0]: the file is not audio"),
        (Transcribe, "transcribe", texts("audio", "abc"), {"translate": "perhaps"}, "translate"),
        (Speak, "speak", texts("text", ""), {}, "text[0]: input is empty"),
        (Speak, "speak", texts("text", "a"), {"voice": "nobody"}, "unknown voice"),
        (Generate, "generate", texts("text_input", "a"), {"temperature": -1}, "temperature"),
        (Generate, "generate", texts("text_input", "a", ""), {}, "text_input[1]: the prompt is empty"),
    ],
)
async def test_what_a_task_cannot_take(engine: Any, task: Any, given: Any, parameters: Any, says: str) -> None:
    assert says in await refused(Served(engine(), task), {"inputs": [given], "parameters": parameters})


async def test_text_that_is_not_utf8_is_refused() -> None:
    given = {"name": "input", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    head = orjson.dumps({"inputs": [given]})
    content = head + struct.pack("<I", 1) + b"\xff"
    headers = {"inference-header-content-length": str(len(head))}
    assert "not UTF-8" in await refused(Served(Embed(), "embed"), content, headers=headers)
