"""Finding engines by name."""

from typing import get_args

import pytest

from deployments import engines
from deployments.errors import BadRequest


def test_every_engine_has_a_task_and_options() -> None:
    for name in engines.names():
        engine = engines.find(name)
        assert engine.task in get_args(engines.Task)
        assert isinstance(engine.note, str)
        engine.options_type()


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(BadRequest, match="bi_encoder, cross_encoder, "):
        engines.find("foo")
