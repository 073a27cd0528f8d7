"""Which engine does what a model format, a runtime or an image did, and its arguments as options.

Formats and runtimes are those that KServe 0.21 ships.
"""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML

from deployments import engines
from deployments.engines import _vllm_arguments as vllm
from rayservice.kserve.words import UNFILLED

FORMATS = {
    "sklearn": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "onnx": "onnx",
    "tensorflow": "tensorflow",
    "pytorch": "torchscript",
    "vllm": "vllm",
    "huggingface": "vllm",
}
"""Engines by `modelFormat.name`, and by the predictors' old keys."""
OLD_KEYS = (
    "sklearn",
    "xgboost",
    "tensorflow",
    "pytorch",
    "triton",
    "onnx",
    "huggingface",
    "lightgbm",
    "pmml",
    "paddle",
)
IMAGES = (
    (r"vllm", "vllm"),
    (r"whisper", "faster_whisper"),
    (r"xtts|coqui|tts", "xtts"),
    (r"rerank", "cross_encoder"),
    (r"embed|bge|text-embeddings|sentence", "sentence_transformers"),
    (r"huggingfaceserver", "vllm"),
    (r"sglang|tgi|text-generation|llm", "vllm"),
)
"""Engines by what is in a custom container's image or name; the first that is."""
TASKS = {
    "text_embedding": "sentence_transformers",
    "embed": "sentence_transformers",
    "embedding": "sentence_transformers",
    "text_ranking": "cross_encoder",
    "score": "cross_encoder",
    "sequence_classification": "cross_encoder",
}
"""Engines by the huggingface runtime's `--task`, where it is not text generation."""
STAND_INS = {
    "faster_whisper": "hf://Systran/faster-whisper-large-v3",
    "xtts": "hf://coqui/XTTS-v2",
    "sentence_transformers": "hf://BAAI/bge-m3",
    "cross_encoder": "hf://BAAI/bge-reranker-v2-m3",
    "vllm": "hf://Qwen/Qwen3-8B",
}
"""Models of the same task, where an image hid its own."""
MODEL_FLAGS = ("model", "model_id", "model_dir")
NAME_FLAGS = ("served_model_name", "model_name")
OTHERS_FLAGS = {"task": "it chose the engine", "backend": "it chose the engine"}


@dataclass
class Arguments:
    """What a container's command line says: the model, further names of it, options, and what is not one."""

    model: str | None = None
    names: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    backend: str | None = None
    lost: list[str] = field(default_factory=list)


def engine_there(name: str) -> str | None:
    """That engine, if this version has it."""
    return name if name in engines.names() else None


def of_image(*words: str | None) -> str | None:
    """The engine that an image or a name hints at."""
    said = " ".join(word for word in words if word).lower()
    return next((engine for pattern, engine in IMAGES if re.search(pattern, said)), None)


def is_llm(*words: str | None) -> bool:
    """Whether names hint at a language model."""
    said = " ".join(word for word in words if word).lower()
    return re.search(r"llama|qwen|mistral|mixtral|gemma|deepseek|falcon|phi-?\d|gpt|llm", said) is not None


def arguments(words: Sequence[str], engine: str) -> Arguments:
    """A command line, `--key=value`, `--key value` or `--flag`, read for an engine.

    Words in which something is unfilled are left out: `words` reports them.
    """
    found = Arguments()
    for key, values in _flags(words):
        if key not in vllm.REFUSED and any(UNFILLED.search(value) for value in values):
            continue
        value = values[0] if values else None
        if key == "" or key in MODEL_FLAGS:
            found.model = value if key else (found.model or value)
        elif key in NAME_FLAGS:
            found.names += values
        elif key in OTHERS_FLAGS:
            setattr(found, key, value)
        elif engine != "vllm":
            found.lost.append(f"--{key}: it is no option of engine {engine}")
        elif key in vllm.REFUSED:
            found.lost.append(f"--{key}: {vllm.REFUSED[key]}")
        else:
            negated = key.startswith("no_") and key not in vllm.known()
            option = key.removeprefix("no_") if negated else key
            if vllm.known() and option not in vllm.known():
                found.lost.append(f"--{key}: the vLLM of this version has no such argument")
            else:
                found.options[option] = not negated if value is None else _value(values)
    return found


def _flags(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Keys with their values; the empty key for what stands alone, as in `vllm serve <model>`."""
    split = [part for word in words for part in (shlex.split(word) if " --" in f" {word}" and " " in word else [word])]
    key: str | None = None
    values: list[str] = []
    for word in split:
        if word.startswith("--"):
            if key is not None:
                yield key, values
            name, equals, value = word[2:].partition("=")
            key, values = name.replace("-", "_").replace(".", "_"), [value] if equals else []
        elif key is not None and (not values or key in NAME_FLAGS):
            values.append(word)
        elif "/" in word and not word.startswith(("/", "-")) and " " not in word:
            yield "", [word]
    if key is not None:
        yield key, values


def _value(values: list[str]) -> Any:
    text = values[0]
    if text[:1] in "{[":
        try:
            return json.loads(text)
        except ValueError:
            return text
    loaded = YAML(typ="safe").load(text)
    return loaded if isinstance(loaded, int | float | bool) else text
