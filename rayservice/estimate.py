"""What a model will take of a GPU's memory, judged by its files: weights, KV cache, CUDA's context.

Reads only the headers of safetensors files and `config.json`, and fetches nothing. Activations are not in it.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ByteSize

from deployments import sources
from deployments.errors import SourceError
from deployments.gpu import CONTEXT_BYTES
from serve_app.model import Model

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I64": 64, "I32": 32, "I16": 16} | {
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "U16": 16,
    "U32": 32,
    "U64": 64,
}
"""Bits of the datatypes of safetensors; the format is huggingface/safetensors' README."""
FLOATS = {"float64": 64, "float32": 32, "float16": 16, "half": 16, "bfloat16": 16, "float": 32}
"""Bits of the datatypes that a catalog's `dtype` or a `config.json` may name."""
MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class Estimate:
    """Bytes, and in words what they were computed from."""

    weights: int
    kv_cache: int
    said: str

    @property
    def total(self) -> int:
        """All of it, with CUDA's context."""
        return self.weights + self.kv_cache + CONTEXT_BYTES


def estimate(model: Model) -> Estimate | str:
    """What it will take, or why that cannot be told. Blocks."""
    folder = _folder(model.source)
    if isinstance(folder, str):
        return folder
    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return "its files have no safetensors headers to judge by"
    try:
        dtype = str(model.options.get("dtype", "auto"))
        weights = sum(weight_bytes(file, FLOATS.get(dtype)) for file in files)
        config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
        tokens, cache = kv_cache_bytes(config, model.options) if model.task == "generate" else (0, 0)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        return f"its files cannot be judged ({error})"
    said = f"weights {_human(weights)}" + (f" as {dtype}" if dtype in FLOATS else "")
    if cache:
        said += f", KV cache {_human(cache)} for one text of {tokens:,} tokens"
    return Estimate(weights, cache, f"{said}, context {_human(CONTEXT_BYTES)}")


def _folder(source: str) -> Path | str:
    """The model's files where they are on this machine, else why they are not."""
    kind, _, name = source.partition("://")
    repository, _, revision = name.partition("@")
    try:
        if kind != "hf":
            return sources.resolve(source, lambda _: None)
        import huggingface_hub as hub

        return Path(hub.snapshot_download(repository, revision=revision or None, local_files_only=True))
    except SourceError as error:
        return error.message
    except Exception:  # of the hub's many kinds, all of which mean this
        return f"not on this machine; `hf download {repository}` fetches it"


def weight_bytes(file: Path, float_bits: int | None = None) -> int:
    """Bytes of a safetensors file's tensors, those of floats as they are when loaded in `float_bits`.

    Raises `ValueError` for what is no such file.
    """
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{file.name} is no safetensors file")
        header: dict[str, Any] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    total = 0
    for tensor in header.values():
        stored = BITS[tensor["dtype"]]
        wide = tensor["dtype"] in ("F64", "F32", "F16", "BF16")
        total += math.prod(tensor["shape"]) * (float_bits if float_bits and wide else stored)
    return total // 8


def kv_cache_bytes(config: dict[str, Any], options: dict[str, Any]) -> tuple[int, int]:
    """Tokens of one text, and bytes of its keys and values: the least with which a language model can answer.

    2 x layers x key-value heads x size of a head x tokens x bytes of a number. No bytes where the configuration
    does not say these.
    """
    config = config.get("text_config", config)
    asked = options.get("max_model_len") or options.get("context_length") or config.get("max_position_embeddings")
    heads = config.get("num_attention_heads")
    if not asked or not heads or "num_hidden_layers" not in config:
        return 0, 0
    head = config.get("head_dim") or config["hidden_size"] // heads
    bits = FLOATS.get(str(options.get("dtype")), FLOATS.get(str(config.get("torch_dtype") or config.get("dtype")), 16))
    if str(options.get("kv_cache_dtype", "auto")).startswith("fp8"):
        bits = 8
    layers, kv_heads = config["num_hidden_layers"], config.get("num_key_value_heads") or heads
    return int(asked), 2 * layers * kv_heads * head * int(asked) * bits // 8


def _human(size: int) -> str:
    return ByteSize(size).human_readable()
