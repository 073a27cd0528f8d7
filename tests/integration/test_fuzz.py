"""Whatever is sent, the running application answers with no 5xx: V2's binary framing, and all that its OpenAPI says."""

import json
import struct
from typing import Any

import httpx
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok

from deployments.tensors import DATATYPES

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
LENGTHS = st.integers(-1, 40) | st.sampled_from([2**31, 2**32 - 1, 2**63, 10**30])
NAMES = st.sampled_from(["input", "query", "documents", "audio", "text", "text_input", ""])


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One of these, and now and then anything."""
    return st.one_of(good, good, good, ANYTHING)


TENSORS = st.fixed_dictionaries(
    {"name": mostly(NAMES), "datatype": mostly(st.sampled_from(DATATYPES)), "shape": mostly(st.lists(LENGTHS))},
    optional={
        "data": mostly(st.lists(st.text(max_size=3) | st.floats())),
        "parameters": mostly(st.fixed_dictionaries({"binary_data_size": mostly(LENGTHS)})),
    },
)
HEADS = st.fixed_dictionaries(
    {"inputs": mostly(st.lists(TENSORS, max_size=3))},
    optional={
        "id": ANYTHING,
        "parameters": mostly(st.dictionaries(st.sampled_from(["binary_data_output", "seed", "stop"]), ANYTHING)),
        "outputs": mostly(st.lists(st.fixed_dictionaries({"name": mostly(NAMES)}, optional={"parameters": ANYTHING}))),
    },
)
ELEMENTS = st.lists(st.tuples(LENGTHS, st.binary(max_size=8)), max_size=3).map(
    lambda elements: b"".join(struct.pack("<I", size % 2**32) + data for size, data in elements)
)


@pytest.mark.parametrize("model", ["embeddings", "reranker", "whisper", "tts", "small-llm"])
def test_binary_framing_that_lies(url: str, model: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:

        @settings(
            max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
        )
        @given(HEADS, st.binary(max_size=40) | ELEMENTS, st.integers(-3, 3) | LENGTHS, st.booleans())
        def ask(head: dict[str, Any], tail: bytes, off: int, announced: bool) -> None:
            written = _dumps(head)
            headers = {"inference-header-content-length": str(len(written) + off)} if announced else {}
            body = written + tail if announced else written
            answer = client.post(f"/v2/models/{model}/infer", content=body, headers=headers)
            assert answer.status_code < 500, answer.text
            if answer.status_code != 200:
                assert isinstance(answer.json()["error"], str)

        ask()
        good = {"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}
        assert client.post(f"/v2/models/{model}/infer", json={"inputs": [good]}).status_code == 400


def _dumps(head: Any) -> bytes:
    try:
        return orjson.dumps(head)
    except orjson.JSONEncodeError:
        return json.dumps(head).encode()


def _cases(operation: Any) -> st.SearchStrategy[Any]:
    """What an operation documents, and what it does not, where it documents anything."""
    cases: st.SearchStrategy[Any] = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
    if operation.body:
        cases |= operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    return cases


def _checked(url: str, prefix: str, models: list[str], examples: int) -> int:
    """Requests as the OpenAPI document at `prefix` describes them, and as it does not; how many there were."""
    config = SchemathesisConfig.from_dict({"base-url": url + prefix})
    document = httpx.get(f"{url}{prefix}/openapi.json", timeout=30).json()
    schema = schemathesis.openapi.from_dict(document, config=config)
    sent = 0
    # Explaining is a 501, and a nested Switch without a match a 500, as in KServe; see tests/graphs/test_contract.py.
    for found in schema.exclude(path_regex="explain$|^/graphs/").get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
        )
        @given(_cases(operation), st.sampled_from(models))
        def ask(case: Any, model: str) -> None:
            nonlocal sent
            sent += 1
            if "model" in case.path_parameters:
                case.path_parameters["model"] = model
            answer = case.call(timeout=60)
            case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])

        ask()
    return sent


def test_what_the_gateway_documents(url: str) -> None:
    assert _checked(url, "", ["embeddings", "reranker", "whisper", "tts", "small-llm"], 12) > 200


def test_what_a_model_documents(url: str) -> None:
    assert _checked(url, "/reranker", ["reranker"], 12) > 50
