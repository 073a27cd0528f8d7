"""Graphs in a catalog: KServe's manifests as they are, and what is wrong with one, said with its place."""

from typing import Any

import pytest
from ruamel.yaml import YAML

from serve_app import catalog as catalogs
from serve_app.application import gateway_options
from serve_app.catalog import Catalog, CatalogError
from serve_app.gateway import GatewaySettings
from tests.graphs.graphed import node

MODELS = [
    {"name": "a", "engine": "sklearn", "source": "file:///x", "aliases": ["Org/a"]},
    {"name": "e", "engine": "sentence_transformers", "source": "file:///x"},
    {"name": "own", "engine": "python", "source": "file:///x"},
]
A = {"serviceName": "a"}
MANIFESTS = """
name: rag-pipeline
nodes:
  root:
    routerType: Sequence
    steps:
      - serviceName: embedder
      - serviceName: retriever
        data: $response
      - serviceName: llm
        data: $response
---
name: rag-pipeline
nodes:
  root:
    routerType: Sequence
    steps:
      - serviceName: embedder
      - serviceName: retriever
      - serviceName: llm
  embedder:
    serviceName: bge-embedder
  retriever:
    serviceName: vector-search
  llm:
    serviceName: qwen-llm
"""


def parse(nodes: dict[str, Any], name: str = "g", **graph: Any) -> Catalog:
    return catalogs.parse({"models": MODELS, "graphs": [{"name": name, "nodes": nodes, **graph}]})


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"root": node("Sequence", *steps)}


def test_kserves_manifests_are_taken_as_they_are() -> None:
    as_applied, as_documented = YAML(typ="safe").load_all(MANIFESTS)
    for graph, names in (
        (as_applied, ["embedder", "retriever", "llm"]),
        (as_documented, ["bge-embedder", "vector-search", "qwen-llm"]),
    ):
        models = [{"name": name, "engine": "sklearn", "source": "file:///x"} for name in names]
        parsed = catalogs.parse({"models": models, "graphs": [graph]}).graphs[0]
        assert [step.service_name for step in parsed.nodes["root"].steps] == names
    assert [step["name"] for step in parsed.model_dump()["nodes"]["root"]["steps"]] == ["embedder", "retriever", "llm"]


def test_graphs_travel_to_the_gateway_as_they_were_written() -> None:
    wanted = {"x": ["${request.a}", 1, None]}
    catalog = parse(sequence(A, {"nodeName": "n"}) | {"n": node("Switch", A | {"condition": "x", "request": wanted})})
    sent = gateway_options(catalog)["user_config"]
    assert GatewaySettings.model_validate(sent).graphs == catalog.graphs
    assert sent["graphs"][0]["nodes"]["n"]["steps"][0]["serviceName"] == "a"


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        (
            sequence({"serviceName": "nope"}),
            r"graphs\[0\] \(g\).nodes.root.steps\[0\].serviceName: no model 'nope'; have: a, e",
        ),
        (
            sequence(A | {"colour": 1}),
            r"steps\[0\].colour: unknown key; valid here: name, serviceName, serviceUrl, nodeName",
        ),
        (sequence(A | {"nodeName": "root"}), r"steps\[0\]: a step has one of .*; this has 2"),
        (sequence({"name": "x"}), "this has 0"),
        (sequence({"nodeName": "x"}), "names the node 'x'; have: root"),
        ({"first": node("Sequence", A)}, "there is no node 'root'.*have: first"),
        (sequence({"nodeName": "root"}), "in a circle: root → root"),
        (
            sequence({"nodeName": "x"})
            | {"x": node("Sequence", {"nodeName": "y"}), "y": node("Sequence", {"nodeName": "x"})},
            "in a circle: x → y → x",
        ),
        ({"root": node("Sequence")}, "at least one step"),
        ({"root": node("Splitter", A | {"weight": 50}, A | {"weight": 40})}, "sum to 100; these to 90"),
        ({"root": node("Splitter", A)}, "step 0: a Splitter's step has a weight"),
        ({"root": node("Splitter", A | {"weight": 101})}, "weight"),
        (sequence(A | {"weight": 100}), "no weight is looked at in a Sequence"),
        ({"root": node("Switch", A)}, "step 0: a Switch never chooses a step without condition"),
        ({"root": node("Ensemble", A | {"condition": "x"})}, "no condition is looked at in an Ensemble"),
        ({"root": node("Ensemble", A | {"data": "$response"})}, "data: .response is for a Sequence"),
        (sequence(A | {"condition": "x"}), "the first step of a Sequence has no response before it"),
        (sequence(A, A | {"condition": "x..y"}), r"steps\[1\].condition: 'x..y' is no GJSON path"),
        (sequence(A | {"name": "x"}, A | {"name": "x"}), "two steps are called 'x'"),
        (sequence(A | {"data": "$response.predictions"}), r"steps\[0\].data"),
        (sequence(A | {"dependency": "Firm"}), r"steps\[0\].dependency"),
        ({"root": node("Funnel", A)}, r"nodes.root.routerType"),
        (sequence({"serviceUrl": "ftp://x/y"}), "'ftp://x/y' is no URL"),
        (sequence({"serviceUrl": "http://${request.host}/"}), "is no URL"),
        (sequence({"serviceUrl": "http://x", "path": "/y"}), "path goes with serviceName"),
        (sequence(A | {"path": "v1/rerank"}), r"steps\[0\].path"),
        (sequence(A | {"path": "/v1/embeddings"}), "/v1/embeddings is for embed; a does predict"),
        (sequence(A | {"path": "/v2/models/e/infer"}), "names another model than serviceName, which is a"),
        (
            sequence(A | {"path": "/v1/nonsense"}),
            "a, of engine sklearn, has no /v1/nonsense; it takes /v1/models/a:pred",
        ),
        (sequence(A | {"path": "/v1/models/a:say"}), "has no /v1/models/a:say"),
        (sequence({"serviceName": "e", "path": "/my/own"}), "has no /my/own; it takes /v1/embeddings, /embed"),
        (sequence(A | {"request": "${response}"}), "no step comes before it"),
        (sequence(A | {"request": "${request.a..b}"}), "no GJSON path"),
        (sequence(A | {"request": "${steps.b.x}"}), "no step before it is called so; have: none"),
        (sequence(A | {"request": "${env.HOME}"}), "begins with request, response, steps"),
        (sequence(A, A | {"request": {}, "data": "$response"}), "request says the whole body"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(nodes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CatalogError, match=complaint):
        parse(nodes)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("a", "/v1/models/a:predict"),
        ("a", "/v1/models/Org/a:predict"),
        ("a", "/v2/models/a/versions/1/infer"),
        ("own", "/my/own"),
    ],
)
def test_paths_that_a_model_may_have(model: str, path: str) -> None:
    assert parse(sequence({"serviceName": model, "path": path})).graphs


@pytest.mark.parametrize("name", ["a", "a-predictor", "Org"])
def test_a_name_that_is_a_models_or_none_is_refused(name: str) -> None:
    with pytest.raises(CatalogError, match=r"used twice: by 'a' and by 'graph a|name"):
        parse(sequence(A), name=name)


def test_settings_of_a_graph_are_checked() -> None:
    for settings, complaint in (({"timeout": "soon"}, "not a duration"), ({"headers": ["["]}, "no regular expression")):
        with pytest.raises(CatalogError, match=complaint):
            parse(sequence(A), **settings)


def test_a_graph_that_multiplies_is_refused_at_once() -> None:
    nodes = {f"n{at}": node("Sequence", *2 * [{"nodeName": f"n{at + 1}"}]) for at in range(40)}
    with pytest.raises(CatalogError, match="one request may ask 1099511627776 services; at most 1000"):
        parse(nodes | {"n40": node("Sequence", A), "root": node("Sequence", {"nodeName": "n0"})})


def test_shipped_catalogs_have_sound_graphs() -> None:
    found = {graph.name for name in catalogs.shipped() for graph in catalogs.load(name).graphs}
    assert found == {"voice-rag"}
