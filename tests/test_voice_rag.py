"""The search of the catalog voice-rag: its index belongs to the language model's questions and to the embedder."""

from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from deployments.sources import resolve
from serve_app.catalogs.voice_rag.model import NEAREST, Model

FOLDER = resolve("package://serve_app.catalogs.voice_rag", lambda _: None)


@pytest.fixture(scope="module")
def search() -> Model:
    model = Model()
    model.load(FOLDER)
    return model


def test_the_index_has_the_language_models_questions(search: Model) -> None:
    """After a change of questions.yaml: `python scripts/index_questions.py`."""
    data = YAML(typ="safe").load(resolve("package://deployments.embedded_llm", lambda _: None) / "questions.yaml")
    first = [answer["questions"][0] for answer in data["answers"]]
    assert [text.decode() for text in search._questions] == first


def test_a_questions_own_vector_finds_it_first(search: Model) -> None:
    found = search.predict({"vector": search._vectors})
    assert found.shape == (len(search._questions), NEAREST)
    assert (found[:, 0] == search._questions).all()


@pytest.mark.slow
def test_the_vectors_are_the_embedders(search: Model, minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    questions = [text.decode() for text in search._questions[:8]]
    vectors = SentenceTransformer(str(minilm), device="cpu").encode(questions, normalize_embeddings=True)
    np.testing.assert_allclose(search._vectors[:8], vectors, atol=2e-3)
