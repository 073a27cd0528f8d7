"""The bi-encoder reranker against cosines computed by the library."""

from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from deployments.engines.bi_encoder import Engine, Options
from tests.engines.loading import loaded

DOCUMENTS = ["A man is eating pasta.", "The stock market fell today.", "Someone is having dinner."]


async def test_scores_are_the_sigmoid_of_scaled_cosines(minilm: Path) -> None:
    reference = SentenceTransformer(str(minilm), device="cpu")
    cosines = reference.encode(DOCUMENTS) @ reference.encode("a person eats food")
    with loaded(Engine(), minilm, Options()) as engine:
        done = await engine.rerank("a person eats food", DOCUMENTS)
    np.testing.assert_allclose(done.scores, 1 / (1 + np.exp(-10 * (cosines - 0.3))), atol=1e-5)
    assert done.scores.argsort()[0] == 1
