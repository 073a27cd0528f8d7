"""What the design fixes about the code's own shape."""

import ast
import functools
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from deployments import engines

ROOT = Path(__file__).parent.parent
FILES = sorted(
    file
    for package in ("serve_app", "deployments", "rayservice")
    for file in (ROOT / package).rglob("*.py")
    if not file.stem.endswith("_pb2_grpc")  # protoc's, whose length is nobody's choice
)
LAYERS = ["deployments.engines", "deployments.protocols", "deployments.replica", "serve_app", "rayservice"]
HEAVY = {"torch", "sentence_transformers", "transformers", "tiktoken", "huggingface_hub", "vllm", "TTS"} | {
    "faster_whisper",
    "ctranslate2",
    "pocketsphinx",
    "av",
    "torchaudio",
    "sklearn",
    "skops",
    "joblib",
    "pandas",
    "threadpoolctl",
    "xgboost",
    "lightgbm",
    "onnxruntime",
    "tensorflow",
    "shap",
    "jsonschema",
    "lightkube",
}


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file: Path) -> None:
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    mine = next((i for i, layer in enumerate(LAYERS) if module.startswith(layer)), None)
    for used in imports(parsed(file)):
        theirs = next((i for i, layer in enumerate(LAYERS) if used.startswith(layer)), None)
        if module.startswith("deployments"):
            assert not used.startswith("serve_app"), f"{module} imports {used}"
        if not module.startswith("rayservice"):
            assert not used.startswith("rayservice"), f"{module} imports {used}"
        if mine is not None and theirs is not None:
            assert theirs <= mine, f"{module} imports {used}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_heavy_libraries_are_imported_inside_functions(file: Path) -> None:
    guarded = [node for node in parsed(file).body if isinstance(node, ast.Import | ast.ImportFrom)]
    top = {name.partition(".")[0] for node in guarded for name in imports(node)}
    assert not top & HEAVY


def test_engines_are_imported_with_little_installed() -> None:
    """Machines for GPU checks have torch and not much else."""
    modules = [f"deployments.engines.{module.name}" for module in pkgutil.iter_modules(engines.__path__)]
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {', '.join(modules)}\nprint(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in found.stdout.split() if not name.startswith("_")}
    allowed = {"deployments", "numpy", "psutil", "pydantic", "pydantic_core", "annotated_types"}
    assert loaded - sys.stdlib_module_names <= allowed | {"typing_extensions", "typing_inspection"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_stay_short(file: Path) -> None:
    text = file.read_text()
    assert text.count("\n") <= 320
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            allowed = 70 if node.name.endswith("router") else 45  # a router is a flat list of routes
            assert length <= allowed, f"{node.name} has {length} lines"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_module_says_what_it_does(file: Path) -> None:
    assert ast.get_docstring(parsed(file))


def test_environment_variables_are_read_in_one_module() -> None:
    readers = [file.name for file in FILES if "environ" in file.read_text().replace("environment", "")]
    setter = "_packed.py"  # sets one that oneDNN reads
    assert set(readers) <= {"environment.py", "supervisor.py", "instance.py", setter}


def test_every_engine_has_a_test() -> None:
    for name in engines.names():
        assert (ROOT / "tests" / "engines" / f"test_{name}.py").exists()
