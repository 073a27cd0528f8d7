"""The clients that people have, against the running application, beside the library called directly."""

import asyncio
from pathlib import Path

import cohere
import httpx
import numpy as np
import openai
import pytest
import torch
from langchain_openai import OpenAIEmbeddings
from sentence_transformers import CrossEncoder, SentenceTransformer

BASES = ["/v1", "/openai/v1", "/embeddings/v1", "/embeddings/openai/v1"]


@pytest.fixture(scope="module")
def reference(minilm: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm), device="cpu")


def client(url: str, base: str = "/v1") -> openai.OpenAI:
    return openai.OpenAI(base_url=url + base, api_key="none", max_retries=0)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("encoding", [openai.omit, "float", "base64"], ids=["default", "float", "base64"])
def test_openai_embeddings_equal_the_librarys(
    url: str, reference: SentenceTransformer, sentences: list[str], base: str, encoding: object
) -> None:
    done = client(url, base).embeddings.create(model="embeddings", input=sentences, encoding_format=encoding)  # type: ignore[arg-type]
    vectors = [one.embedding for one in done.data]
    if encoding == "base64":
        import base64

        vectors = [np.frombuffer(base64.b64decode(str(v)), "<f4").tolist() for v in vectors]
    np.testing.assert_allclose(vectors, reference.encode(sentences), atol=1e-5)
    assert [one.index for one in done.data] == list(range(len(sentences)))
    assert done.usage.prompt_tokens == sum(len(ids) for ids in reference.tokenizer(sentences).input_ids)


async def test_openai_async_client(url: str, reference: SentenceTransformer, sentences: list[str]) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(
            *(client.embeddings.create(model="text-embedding-3-small", input=text) for text in sentences)
        )
    vectors = [answer.data[0].embedding for answer in answers]
    np.testing.assert_allclose(vectors, reference.encode(sentences), atol=1e-5)
    assert answers[0].model == "text-embedding-3-small"


def test_dimensions(url: str, reference: SentenceTransformer) -> None:
    done = client(url).embeddings.create(model="embeddings", input="seven ships", dimensions=64)
    expected = reference.encode("seven ships")[:64]
    np.testing.assert_allclose(done.data[0].embedding, expected / np.linalg.norm(expected), atol=1e-5)


def test_the_models_own_token_ids(url: str, reference: SentenceTransformer, sentences: list[str]) -> None:
    ids = [reference.tokenizer(text).input_ids[:256] for text in sentences]
    many = client(url).embeddings.create(model="ids", input=ids)
    one = client(url).embeddings.create(model="ids", input=ids[0])
    np.testing.assert_allclose([v.embedding for v in many.data], reference.encode(sentences), atol=1e-5)
    np.testing.assert_allclose(one.data[0].embedding, reference.encode(sentences[0]), atol=1e-5)


def test_langchain_without_its_own_tokens(url: str, reference: SentenceTransformer, sentences: list[str]) -> None:
    embeddings = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="none", model="embeddings", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(embeddings.embed_documents(sentences), reference.encode(sentences), atol=1e-5)


def test_langchains_token_ids_are_refused_where_the_table_is_not_at_hand(
    url: str, tiktoken_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_cache))
    embeddings = OpenAIEmbeddings(base_url=f"{url}/v1", api_key="none", model="embeddings", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings.embed_query("hello")


def test_tei_embed(url: str, reference: SentenceTransformer, sentences: list[str]) -> None:
    done = httpx.post(f"{url}/embeddings/embed", json={"inputs": sentences, "truncate": True}, timeout=60)
    np.testing.assert_allclose(done.json(), reference.encode(sentences), atol=1e-5)


@pytest.mark.parametrize("route", ["cross", "reranker"])
def test_cohere_both_versions_and_jina_agree(url: str, route: str) -> None:
    documents = ["Ships cross the sea.", "A cat sat on a mat.", "Lamps are blue."]
    ask = {"model": route, "query": "what sails?", "documents": documents}
    v2 = cohere.ClientV2(api_key="none", base_url=url).rerank(**ask, top_n=2)
    v1 = cohere.Client(api_key="none", base_url=url).rerank(**ask, return_documents=True)
    jina = httpx.post(f"{url}/{route}/v1/rerank", json=ask, timeout=60).json()["results"]
    scores = [(one["index"], one["relevance_score"]) for one in jina]
    assert scores == sorted(scores, key=lambda one: -one[1])
    assert [(one.index, one.relevance_score) for one in v2.results] == [pytest.approx(s) for s in scores[:2]]
    assert [(one.index, one.relevance_score) for one in v1.results] == [pytest.approx(s) for s in scores]
    assert v1.results[0].document
    assert v1.results[0].document.text == documents[scores[0][0]]
    assert jina[0]["document"]["text"] == documents[scores[0][0]]


def test_rerank_scores_equal_the_librarys(url: str, tiny_cross_encoder: Path, sentences: list[str]) -> None:
    pairs = [("blue lamps", text) for text in sentences]
    expected = CrossEncoder(str(tiny_cross_encoder), device="cpu").predict(pairs, activation_fn=torch.nn.Sigmoid())
    body = {"query": "blue lamps", "texts": sentences, "return_text": True}
    done = httpx.post(f"{url}/cross/rerank", json=body, timeout=60).json()
    assert [one["score"] for one in done] == sorted((one["score"] for one in done), reverse=True)
    for one in done:
        assert one["score"] == pytest.approx(expected[one["index"]], abs=1e-5)
        assert one["text"] == sentences[one["index"]]


def test_model_lists_in_both_dialects(url: str) -> None:
    listed = [model.id for model in client(url).models.list()]
    assert listed[:2] == ["embeddings", "text-embedding-3-small"]
    assert client(url).models.retrieve("sentence-transformers/all-MiniLM-L6-v2").id
    assert httpx.get(f"{url}/v1/models").json()["models"][:4] == ["embeddings", "ids", "reranker", "cross"]
    assert httpx.get(f"{url}/v1/models/embeddings").json()["ready"] is True
    assert httpx.get(f"{url}/reranker/v1/models").json()["models"] == ["reranker"]


def test_open_inference_metadata(url: str) -> None:
    assert httpx.get(f"{url}/v2").json()["name"] == "serve-app"
    assert httpx.get(f"{url}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{url}/v2/models/embeddings/ready").json() == {"name": "embeddings", "ready": True}
    metadata = httpx.get(f"{url}/v2/models/embeddings").json()
    assert metadata["outputs"] == [{"name": "embeddings", "datatype": "FP32", "shape": [-1, 384]}]


def test_one_broken_model_leaves_the_server_ready_and_says_why(url: str) -> None:
    health = httpx.get(f"{url}/v2/health/ready")
    assert health.status_code == 200
    states = {one["name"]: one for one in health.json()["models"]}
    assert states["broken"]["state"] == "failed"
    assert "there is nothing at" in states["broken"]["reason"]
    for path in ("/v2/models/broken/ready", "/v1/models/broken", "/broken/v2/health/ready"):
        answer = httpx.get(url + path)
        assert answer.status_code == 503
        assert "there is nothing at" in answer.text
    asked = httpx.post(f"{url}/v1/embeddings", json={"model": "broken", "input": "x"})
    assert asked.status_code == 503
    assert int(asked.headers["retry-after"]) > 0
    assert asked.json()["error"]["code"] == "model_failed"


@pytest.mark.parametrize("prefix", ["", "/embeddings"])
def test_docs_describe_every_endpoint(url: str, prefix: str) -> None:
    assert "swagger-ui" in httpx.get(f"{url}{prefix}/docs").text
    assert httpx.get(f"{url}{prefix}/static-offline-docs/swagger-ui-bundle.js").status_code == 200
    assert "/v1/embeddings" in httpx.get(f"{url}{prefix}/openapi.json").json()["paths"]


def test_a_request_id_comes_back_once(url: str) -> None:
    kept = httpx.get(f"{url}/embeddings/v2", headers={"x-request-id": "mine"})
    assert kept.headers.get_list("x-request-id") == ["mine"]
    assert len(httpx.get(f"{url}/v2").headers.get_list("x-request-id")) == 1
