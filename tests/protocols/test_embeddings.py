"""The embeddings routes around an engine whose vectors are known."""

import base64
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.engines import Embedded, Text
from deployments.protocols import embeddings
from deployments.protocols.app import ModelStatus, build_app
from deployments.protocols.models import health
from tests.protocols.fakes import Served


class Engine:
    """Vector i of a request is [i, length of its text]; remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    async def embed(self, texts: Sequence[Text], **asked: Any) -> Embedded:
        self.asked = asked
        return Embedded(np.array([[i, len(text)] for i, text in enumerate(texts)], np.float32), 7)

    def decode_ids(self, ids: Sequence[int]) -> Text:
        return "x" * sum(ids)


@pytest.fixture
def served() -> Served[Engine]:
    return Served(Engine(), "embed", limits={"max_inputs": 3})


async def ask(served: Any, path: str, **body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(build_app("m", [embeddings.router(served)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.post(path, json=body)


async def test_openais_shape(served: Served[Engine]) -> None:
    answer = await ask(served, "/v1/embeddings", input=["ab", "c"], model="alias", user="u", unknown=1)
    assert answer.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.0, 2.0]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 1.0]},
        ],
        "model": "alias",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


async def test_base64_is_little_endian_float32(served: Served[Engine]) -> None:
    answer = await ask(served, "/v1/embeddings", input="abc", encoding_format="base64")
    raw = base64.b64decode(answer.json()["data"][0]["embedding"])
    assert np.frombuffer(raw, "<f4").tolist() == [0.0, 3.0]
    assert answer.json()["model"] == "m"


@pytest.mark.parametrize(("given", "lengths"), [([2, 3], [5]), ([[2, 3], [1]], [5, 1])])
async def test_token_ids_are_decoded(served: Served[Engine], given: list[Any], lengths: list[int]) -> None:
    data = (await ask(served, "/v1/embeddings", input=given)).json()["data"]
    assert [one["embedding"][1] for one in data] == lengths


async def test_tei_takes_truncate_as_a_yes_or_no(served: Served[Engine]) -> None:
    assert (await ask(served, "/embed", inputs="ab", truncate=True)).json() == [[0.0, 2.0]]
    assert served.loaded().asked["truncate"] == "end"
    assert served.loaded().asked["normalize"] is True


async def test_input_type_names_the_prompt(served: Served[Engine]) -> None:
    await ask(served, "/v1/embeddings", input="ab", input_type="search_query", dimensions=1)
    assert served.loaded().asked == {"prompt": "query", "truncate": None, "dimensions": 1}


async def test_too_many_inputs_are_counted(served: Served[Engine]) -> None:
    answer = await ask(served, "/v1/embeddings", input=["a"] * 4)
    assert answer.json()["error"]["message"] == "input has 4 entries; at most 3 in one request"


@pytest.mark.parametrize(
    ("states", "came_up", "status"),
    [
        (["ready", "ready"], [], 200),
        (["ready", "failed"], [], 200),
        (["ready", "loading"], [], 503),
        (["ready", "loading"], ["m1"], 200),
        (["failed", "failed"], [], 503),
        (["loading"], ["m0"], 503),
    ],
)
def test_a_server_is_ready_once_all_came_up_and_one_answers(states: list[str], came_up: list[str], status: int) -> None:
    models = [ModelStatus(f"m{i}", "embed", "e", state) for i, state in enumerate(states)]
    assert health(models, came_up).status_code == status
