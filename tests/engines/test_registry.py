"""Finding engines by name."""

import re
import subprocess
import sys
from importlib.util import find_spec
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


@pytest.mark.parametrize("name", engines.names())
def test_what_is_imported_ahead_is_what_loading_imports(name: str) -> None:
    """By the text of the engine's file, and of those that it shares."""
    shared = {"sklearn": ["_estimator_files", "_loading"], "bi_encoder": ["sentence_transformers"]}.get(name, [])
    code = "\n".join((Path(engines.__file__).parent / f"{one}.py").read_text() for one in (name, *shared))
    for library in engines.find(name).libraries:
        assert find_spec(library.partition(".")[0])
        assert re.search(rf'(library|import_module)\("{library}"|import {library}\b|from {library} import', code)


@pytest.mark.slow
def test_libraries_imported_ahead_go_together_and_what_is_missing_is_left_out() -> None:
    """In a process of its own, also with TensorFlow, which is imported when a model of it is loaded."""
    code = """
import sys
from deployments import engines
from deployments.engines._ahead import await_imports, import_ahead
from deployments.engines.tensorflow import import_tensorflow
engines.find("onnx").libraries = ("no_such_library", "onnxruntime")
import_ahead(["sklearn", "espeak", "onnx", "xgboost", "lightgbm", "torchscript"])
await_imports()
import_tensorflow()
print([one in sys.modules for one in ("skops.io", "onnxruntime", "xgboost", "lightgbm", "torch", "tensorflow")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{[True] * 6}\n"), done.stderr


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
