"""What graphs answer, case by case, beside KServe's router: each row is a case of its source or its tests."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.graphs.graphed import Says, World, failing, node, refusal, to

DOG = {"predictions": [{"label": "dog", "score": [0.8, 0.2]}]}
CAT = {"predictions": [{"label": "cat", "score": [0.1, 0.9]}]}
ONE, TWO = {"predictions": "1"}, {"predictions": "2"}
IS_DOG = 'predictions.#(label=="dog")'
BROKE = {"error": "broke"}
ASKED = {"instances": [{"modelId": "2"}]}
UNMATCHED = refusal("None of the routes matched with the switch condition")
BREEDS = node("Ensemble", to("a"), to("b"))
ANIMALS = node(
    "Switch",
    to("cats", condition='instances.#(modelId=="1")'),
    to("dogs", condition='instances.#(modelId=="2")'),
)


class Case(NamedTuple):
    name: str
    nodes: dict[str, Any]
    models: dict[str, Says]
    status: int
    answer: Any
    got: Mapping[str, list[Any]] = MappingProxyType({})
    """What models were asked, where that is the point."""
    request: Any = ASKED


HARD = {"dependency": "Hard"}
ON = {"data": "$response"}
CASES = [
    Case("a sequence of one", {"root": node("Sequence", to("a"))}, {"a": Says(ONE)}, 200, ONE, {"a": [ASKED]}),
    Case(
        "each step of a sequence gets the request",
        {"root": node("Sequence", to("a"), to("b"))},
        {"a": Says(ONE), "b": Says(TWO)},
        200,
        TWO,
        {"a": [ASKED], "b": [ASKED]},
    ),
    Case(
        "with data: $response it gets the answer before it",
        {"root": node("Sequence", to("a"), to("b", **ON))},
        {"a": Says(ONE), "b": Says(TWO)},
        200,
        TWO,
        {"b": [ONE]},
    ),
    Case(
        "in the first step data: $response is the request",
        {"root": node("Sequence", to("a", **ON))},
        {"a": Says(ONE)},
        200,
        ONE,
        {"a": [ASKED]},
    ),
    Case(
        "predictions become instances, other keys are dropped",
        {"root": node("Sequence", to("a"), to("b", **ON, mapPredictionsToInstances=True))},
        {"a": Says({"predictions": [1, 2], "model": "a"}), "b": Says(TWO)},
        200,
        TWO,
        {"b": [{"instances": [1, 2]}]},
    ),
    Case(
        "so do those of a request",
        {"root": node("Sequence", to("a", mapPredictionsToInstances=True))},
        {"a": Says(ONE)},
        200,
        ONE,
        {"a": [{"instances": ["test"]}]},
        {"predictions": ["test"]},
    ),
    Case(
        "what has no predictions stays as it is",
        {"root": node("Sequence", to("a", mapPredictionsToInstances=True))},
        {"a": Says(ONE)},
        200,
        ONE,
        {"a": [ASKED]},
    ),
    Case(
        "a condition that holds on the answer goes on",
        {"root": node("Sequence", to("a"), to("b", condition=IS_DOG))},
        {"a": Says(DOG), "b": Says(TWO)},
        200,
        TWO,
        {"b": [ASKED]},
    ),
    Case(
        "one that does not ends with that answer",
        {"root": node("Sequence", to("a"), to("b", condition=IS_DOG), to("c"))},
        {"a": Says(CAT), "b": Says(TWO), "c": Says(TWO)},
        200,
        CAT,
        {"b": [], "c": []},
    ),
    Case(
        "and with 200, though that answer was an error",
        {"root": node("Sequence", to("a"), to("b", condition="predictions"))},
        {"a": failing(503), "b": Says(TWO)},
        200,
        BROKE,
        {"b": []},
    ),
    Case(
        "null is there, as far as conditions go",
        {"root": node("Sequence", to("a"), to("b", condition="x"))},
        {"a": Says({"x": None}), "b": Says(TWO)},
        200,
        TWO,
    ),
    Case(
        "a condition on what is no JSON",
        {"root": node("Sequence", to("a"), to("b", condition="x"))},
        {"a": Says(b"text"), "b": Says(TWO)},
        500,
        refusal("invalid response"),
        {"b": []},
    ),
    Case(
        "a soft step's error goes on",
        {"root": node("Sequence", to("a"), to("b", **ON))},
        {"a": failing(), "b": Says(TWO)},
        200,
        TWO,
        {"b": [BROKE]},
    ),
    Case("a soft step's error at the end", {"root": node("Sequence", to("a"))}, {"a": failing(418)}, 418, BROKE),
    Case(
        "a hard step's error ends the sequence with its status",
        {"root": node("Sequence", to("a", **HARD), to("b"))},
        {"a": failing(422), "b": Says(TWO)},
        422,
        BROKE,
        {"b": []},
    ),
    Case(
        "a redirect is no success",
        {"root": node("Sequence", to("a", **HARD), to("b"))},
        {"a": Says(BROKE, 302, location="http://elsewhere"), "b": Says(TWO)},
        302,
        BROKE,
        {"b": []},
    ),
    Case(
        "any 2xx is",
        {"root": node("Sequence", to("a", **HARD), to("b"))},
        {"a": Says(ONE, 299), "b": Says(TWO, 201)},
        201,
        TWO,
    ),
    Case("a switch takes the first that holds", {"root": ANIMALS}, {"cats": Says(ONE), "dogs": Says(DOG)}, 200, DOG),
    Case(
        "the first of two that hold",
        {"root": node("Switch", to("a", condition="instances"), to("b", condition="instances"))},
        {"a": Says(ONE), "b": Says(TWO)},
        200,
        ONE,
        {"b": []},
    ),
    Case("a switch that nothing matches", {"root": ANIMALS}, {}, 404, UNMATCHED, {}, {"instances": []}),
    Case("a switch on what is no JSON", {"root": ANIMALS}, {}, 404, UNMATCHED, {}, b"text"),
    Case(
        "a nested switch that nothing matches",
        {"root": node("Sequence", {"nodeName": "n"}), "n": ANIMALS},
        {},
        500,
        UNMATCHED,
        {},
        {"instances": []},
    ),
    Case(
        "in an ensemble too, whatever depends on it",
        {"root": node("Ensemble", to("a"), {"nodeName": "n"}), "n": ANIMALS},
        {"a": Says(ONE)},
        500,
        UNMATCHED,
        {},
        {"instances": []},
    ),
    Case(
        "the chosen step's error, soft or hard",
        {"root": node("Switch", to("a", condition="instances", **HARD))},
        {"a": failing(429)},
        429,
        BROKE,
    ),
    Case("a switch's default", {"root": node("Switch", to("a", condition="@this"))}, {"a": Says(ONE)}, 200, ONE),
    Case("an ensemble", {"root": BREEDS}, {"a": Says(ONE), "b": Says(TWO)}, 200, {"a": ONE, "b": TWO}),
    Case(
        "steps without a name go by their index",
        {"root": node("Ensemble", {"serviceName": "a"}, to("b"), {"serviceName": "a"})},
        {"a": Says(ONE), "b": Says(TWO)},
        200,
        {"0": ONE, "b": TWO, "2": ONE},
    ),
    Case(
        "a soft step's error is its part of the ensemble",
        {"root": BREEDS},
        {"a": failing(), "b": Says(TWO, 202)},
        200,
        {"a": BROKE, "b": TWO},
    ),
    Case(
        "a hard step's error is the ensemble's answer",
        {"root": node("Ensemble", to("a"), to("b", **HARD))},
        {"a": Says(ONE), "b": failing(503)},
        503,
        BROKE,
    ),
    Case(
        "of two that failed hard, the first one's",
        {"root": node("Ensemble", to("a", **HARD), to("b", **HARD))},
        {"a": Says({"error": "a"}, 400), "b": failing(503)},
        400,
        {"error": "a"},
    ),
    Case("a splitter's only step", {"root": node("Splitter", to("a", weight=100))}, {"a": Says(ONE)}, 200, ONE),
    Case(
        "an error of a splitter's step",
        {"root": node("Splitter", to("a", weight=100))},
        {"a": failing(500)},
        500,
        BROKE,
    ),
    Case(
        "a switch, then an ensemble if it is a dog",
        {
            "root": node("Sequence", {"nodeName": "animals"}, {"nodeName": "breeds", "condition": IS_DOG}),
            "animals": ANIMALS,
            "breeds": BREEDS,
        },
        {"cats": Says(CAT), "dogs": Says(DOG), "a": Says(ONE), "b": Says(TWO)},
        200,
        {"a": ONE, "b": TWO},
        {"a": [ASKED]},
    ),
    Case(
        "the same for a cat",
        {
            "root": node("Sequence", {"nodeName": "animals"}, {"nodeName": "breeds", "condition": IS_DOG}),
            "animals": ANIMALS,
            "breeds": BREEDS,
        },
        {"cats": Says(CAT), "dogs": Says(DOG)},
        200,
        CAT,
        {},
        {"instances": [{"modelId": "1"}]},
    ),
    Case(
        "a hard node's error",
        {"root": node("Sequence", {"nodeName": "n", "dependency": "Hard"}, to("b")), "n": node("Sequence", to("a"))},
        {"a": failing(409), "b": Says(TWO)},
        409,
        BROKE,
        {"b": []},
    ),
    Case(
        "a soft node's error",
        {"root": node("Sequence", {"nodeName": "n"}, to("b", **ON)), "n": node("Sequence", to("a", **HARD))},
        {"a": failing(409), "b": Says(TWO)},
        200,
        TWO,
        {"b": [BROKE]},
    ),
    Case(
        "a node that only says what is behind a service's name",
        {
            "root": node("Sequence", {"serviceName": "embedder"}, {"serviceName": "llm"}),
            "embedder": {"serviceName": "a"},
        }
        | {"llm": {"serviceName": "b"}},
        {"a": Says(ONE), "b": Says(TWO)},
        200,
        TWO,
        {"a": [ASKED], "b": [ASKED]},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_contract(case: Case) -> None:
    answered = await World(case.nodes, case.models).ask(case.request)
    assert (answered.status, answered.data) == (case.status, case.answer)
    assert answered.headers["content-type"] == "application/json"
    nobodys = 200 <= case.status <= 299 or (case.status, case.answer) == (404, UNMATCHED)
    assert ("x-graph-step" in answered.headers) != nobodys
    assert {name: case.models[name].bodies for name in case.got} == case.got


async def test_a_splitters_steps_get_their_shares() -> None:
    points = iter(range(100))
    models = {"a": Says(ONE), "none": Says(ONE), "b": Says(TWO)}
    nodes = {"root": node("Splitter", to("a", weight=20), to("none", weight=0), to("b", weight=80))}
    world = World(nodes, models, lambda: next(points) / 100)
    for _ in range(100):
        assert (await world.ask(ASKED)).status == 200
    assert [len(models[name].asked) for name in ("a", "none", "b")] == [20, 0, 80]
