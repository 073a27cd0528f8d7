"""What can be imported here, found out without importing it, on machines where little is installed."""

import importlib.util
from collections.abc import Iterable

NEEDED = ("numpy", "psutil", "pydantic", "safetensors", "tokenizers", "torch", "transformers")
"""What the check needs for anything at all."""
HOW_TO_INSTALL = (
    "Beside torch and transformers, with what those bring, our engines need pydantic (with pydantic-core, "
    "annotated-types, typing-inspection, typing-extensions) and psutil, a few MB in all: pip install pydantic psutil. "
    "Without network, fetch their wheels for that Python elsewhere (pip download), bring them in a folder, and there "
    "pip install --no-index --find-links FOLDER --target SITE pydantic psutil, and set PYTHONPATH=SITE. "
    "The embedder and the reranker need sentence-transformers too; vllm and faster-whisper add a model each."
)


def missing(packages: Iterable[str]) -> list[str]:
    """Those that cannot be imported."""
    return [one for one in packages if not _is_there(one)]


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False
