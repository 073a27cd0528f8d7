"""What the OpenAPI documents say."""

from typing import Any

import orjson
import pytest

from deployments.engines import Task
from deployments.protocols import ROUTERS
from deployments.protocols.app import build_app


@pytest.mark.parametrize("task", ROUTERS)
def test_every_reference_in_the_document_leads_somewhere(task: Task) -> None:
    document = build_app("docs", [make(None) for make in ROUTERS[task]]).openapi()

    def check(node: Any) -> None:
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            found: Any = document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
        for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            check(one)

    check(orjson.loads(orjson.dumps(document)))


def test_v2s_body_is_described() -> None:
    paths = build_app("docs", [make(None) for make in ROUTERS["predict"]]).openapi()["paths"]
    body = paths["/v2/models/{model}/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]["inputs"]["items"]["properties"]) >= {"name", "shape", "datatype", "data"}
