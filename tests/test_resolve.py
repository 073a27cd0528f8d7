"""Which model a request is for: each rule, and the order among them."""

import pytest

from deployments.errors import BadRequest, ModelNotFound, NotFound, ServeAppError
from serve_app.resolve import Graphed, ModelEntry, Open, Own, Routes, Target

EMBED = ModelEntry(name="emb", task="embed", route="/emb", predictor="emb-predictor", aliases=("BAAI/bge-m3", "x:8b"))
OTHER = ModelEntry(name="emb2", task="embed", route="/deep/emb2", predictor="emb2-predictor")
RANK = ModelEntry(name="rank", task="rerank", route="/rank", predictor="rank-predictor")
ROUTES = Routes([EMBED, OTHER, RANK])
OWN = frozenset({"/", "/v1/models"})


def find(path: str, host: str = "localhost:8000", model: str | None = None, routes: Routes = ROUTES) -> tuple[str, ...]:
    found = routes.resolve(path, host, OWN)
    if isinstance(found, Open):
        found = routes.choose(found, model)
    if isinstance(found, Graphed):
        return ("graph", found.name, found.path)
    if isinstance(found, Own):
        return ("own", found.root_path, found.path)
    assert isinstance(found, Target)
    return (found.model.name, found.root_path, found.path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/emb/v1/embeddings", ("emb", "/emb", "/v1/embeddings")),
        ("/emb", ("emb", "/emb", "/")),
        ("/emb/", ("emb", "/emb", "/")),
        ("/emb/openai/v1/embeddings", ("emb", "/emb/openai", "/v1/embeddings")),
        ("/deep/emb2/v1/embeddings", ("emb2", "/deep/emb2", "/v1/embeddings")),
        ("/v1/models/emb", ("emb", "", "/v1/models/emb")),
        ("/v1/models/emb:predict", ("emb", "", "/v1/models/emb:predict")),
        ("/v1/models/BAAI/bge-m3", ("emb", "", "/v1/models/BAAI/bge-m3")),
        ("/v1/models/x:8b", ("emb", "", "/v1/models/x:8b")),
        ("/v2/models/rank/ready", ("rank", "", "/v2/models/rank/ready")),
        ("/openai/v1/models/rank", ("rank", "/openai", "/v1/models/rank")),
        ("/v1/rerank", ("rank", "", "/v1/rerank")),
        ("/openai/v1/rerank", ("rank", "/openai", "/v1/rerank")),
        ("/v1/models", ("own", "", "/v1/models")),
        ("/openai/v1/models", ("own", "/openai", "/v1/models")),
        ("/", ("own", "", "/")),
    ],
)
def test_paths(path: str, expected: tuple[str, ...]) -> None:
    assert find(path) == expected


@pytest.mark.parametrize("name", ["emb", "BAAI/bge-m3", "x:8b"])
def test_a_name_or_alias_in_the_body(name: str) -> None:
    assert find("/v1/embeddings", model=name)[0] == "emb"


@pytest.mark.parametrize(
    "host",
    ["emb2-predictor", "emb2-predictor:80", "emb2-predictor.ai-ml", "emb2-predictor.ai-ml.svc.cluster.local:8000"],
)
def test_the_host_alias_decides_where_nothing_else_does(host: str) -> None:
    assert find("/v1/embeddings", host)[0] == "emb2"
    assert find("/v1/models", host) == ("emb2", "", "/v1/models")
    assert find("/whatever", host) == ("emb2", "", "/whatever")


@pytest.mark.parametrize(
    ("path", "model"),
    [("/emb/v1/embeddings", None), ("/v2/models/emb", None), ("/v1/embeddings", "emb"), ("/v1/embeddings", "nope")],
)
def test_the_host_alias_restricts(path: str, model: str | None) -> None:
    with pytest.raises(ModelNotFound, match="Models here: emb2"):
        find(path, "emb2-predictor", model)


@pytest.mark.parametrize(
    ("path", "model", "error", "says"),
    [
        ("/nope", None, NotFound, "/emb/, /deep/emb2/, /rank/"),
        ("/embx/v1/embeddings", None, NotFound, "nothing at"),
        ("/v1/models/nope", None, ModelNotFound, "Model with name nope does not exist"),
        ("/v1/models/nope:predict", None, ModelNotFound, "Model with name nope does not exist"),
        ("/v1/embeddings", "nope", ModelNotFound, "emb, emb2"),
        ("/v1/embeddings", "rank", BadRequest, "does rerank"),
        ("/v1/embeddings", None, BadRequest, "emb, emb2"),
    ],
)
def test_refusals_name_what_is_valid(path: str, model: str | None, error: type[ServeAppError], says: str) -> None:
    with pytest.raises(error, match=says):
        find(path, model=model)


def test_a_task_that_no_model_serves_is_not_found() -> None:
    with pytest.raises(NotFound, match="no model here does rerank"):
        find("/v1/rerank", routes=Routes([EMBED]))


WITH_GRAPH = Routes([EMBED, RANK], graphs=["rag"])


@pytest.mark.parametrize(
    ("path", "host", "expected"),
    [
        ("/graphs/rag", "localhost", ("graph", "rag", "")),
        ("/graphs/rag/readyz", "localhost", ("graph", "rag", "/readyz")),
        ("/", "rag", ("graph", "rag", "/")),
        ("/v1/models/emb:predict", "rag.ai-hub.svc.cluster.local:8080", ("graph", "rag", "/v1/models/emb:predict")),
        ("/graphs/rag", "rag", ("graph", "rag", "/graphs/rag")),
        ("/emb/v1/embeddings", "localhost", ("emb", "/emb", "/v1/embeddings")),
    ],
)
def test_graphs(path: str, host: str, expected: tuple[str, ...]) -> None:
    assert find(path, host, routes=WITH_GRAPH) == expected


@pytest.mark.parametrize(
    ("path", "host"), [("/graphs/nope", "localhost"), ("/graphs/", "localhost"), ("/graphs/rag", "emb-predictor")]
)
def test_graphs_that_are_not_there(path: str, host: str) -> None:
    with pytest.raises(NotFound, match="graphs: rag" if host == "localhost" else "graphs: none"):
        find(path, host, routes=WITH_GRAPH)


def test_a_model_is_found_by_its_name_or_alias() -> None:
    assert ROUTES.named("BAAI/bge-m3") is ROUTES.named("emb") is EMBED
    with pytest.raises(ModelNotFound, match="emb, emb2, rank"):
        ROUTES.named("nope")
