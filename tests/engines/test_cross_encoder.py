"""The cross-encoder engine against the library called directly."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from deployments.engines import LoadContext
from deployments.engines.cross_encoder import Engine, Options, sigmoid
from deployments.errors import BadRequest, LoadError
from tests.engines.loading import loaded


@pytest.fixture(scope="module")
def engine(tiny_cross_encoder: Path) -> Iterator[Engine]:
    with loaded(Engine(), tiny_cross_encoder, Options()) as engine:
        yield engine


@pytest.fixture(scope="module")
def reference(tiny_cross_encoder: Path) -> CrossEncoder:
    return CrossEncoder(str(tiny_cross_encoder), device="cpu")


async def test_scores_equal_the_librarys_sigmoid(engine: Engine, reference: CrossEncoder, sentences: list[str]) -> None:
    pairs = [("blue lamps", text) for text in sentences]
    expected = reference.predict(pairs, activation_fn=torch.nn.Sigmoid())
    done = await engine.rerank("blue lamps", sentences)
    np.testing.assert_allclose(done.scores, expected, atol=1e-5)
    assert len(set(done.scores.tolist())) > 10
    assert ((done.scores >= 0) & (done.scores <= 1)).all()


async def test_a_score_depends_on_its_own_document_alone(engine: Engine) -> None:
    together = await engine.rerank("ships", ["iron sea", "cat", "mat"])
    alone = await engine.rerank("ships", ["cat"])
    assert together.scores[1] == pytest.approx(alone.scores[0], abs=1e-6)


async def test_truncate_error_refuses_a_long_pair(engine: Engine) -> None:
    assert (await engine.rerank("q", ["lamp " * 300])).tokens == 128
    with pytest.raises(BadRequest, match="at most 128"):
        await engine.rerank("q", ["lamp " * 300], truncate="error")


def test_a_model_of_several_labels_is_no_reranker(minilm: Path, tmp_path: Path, context: LoadContext) -> None:
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    config.num_labels = 3
    BertForSequenceClassification(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="3"):
        Engine().load(tmp_path, Options(), context)


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(over="raise"):
        np.testing.assert_allclose(sigmoid(np.array([-1000.0, 0.0, 1000.0], np.float32)), [0.0, 0.5, 1.0])
