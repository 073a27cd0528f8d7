"""Finding engines by name."""

import pytest

from deployments import engines
from deployments.errors import BadRequest


def test_every_engine_has_a_task_and_options() -> None:
    for name in engines.names():
        engine = engines.find(name)
        assert engine.task in ("embed", "rerank")
        engine.options_type()


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(BadRequest, match="bi_encoder, cross_encoder, sentence_transformers"):
        engines.find("foo")
