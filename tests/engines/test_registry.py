"""Finding engines by name."""

from pathlib import Path
from typing import get_args

import pytest

from deployments import engines
from deployments.errors import BadRequest
from deployments.settings import ExplainerSettings, Frozen

CLASSIC = (Path(__file__).parents[2] / "docs" / "classic.md").read_text()


def test_every_engine_has_a_task_and_options() -> None:
    for name in engines.names():
        engine = engines.find(name)
        assert engine.task in get_args(engines.Task)
        assert isinstance(engine.note, str)
        engine.options_type()


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(BadRequest, match="bi_encoder, cross_encoder, "):
        engines.find("foo")


@pytest.mark.parametrize("name", [one for one in engines.names() if engines.find(one).task == "predict"])
def test_every_option_of_a_classic_engine_is_documented(name: str) -> None:
    assert f"| `{name}` |" in CLASSIC
    assert not undocumented(engines.find(name).options_type)


def test_every_key_of_explainers_is_documented() -> None:
    assert not undocumented(ExplainerSettings)


def undocumented(shape: type[Frozen]) -> list[str]:
    names = [field.alias or name for name, field in shape.model_fields.items()]
    return [name for name in names if f"`{name}`" not in CLASSIC]
