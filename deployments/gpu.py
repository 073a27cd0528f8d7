"""Which device an engine computes on, and how much memory is free there. Knows nothing of models."""

from typing import TYPE_CHECKING

import psutil

from deployments.errors import LoadError

if TYPE_CHECKING:
    import torch


def choose_device(asked: str, gpus: float) -> "torch.device":
    """The torch device for `asked` (`auto`, or a torch name such as `cpu`, `cuda:0`, `mps`).

    `auto` is the replica's GPU when it reserved one and torch sees it, else the CPU. On a fraction
    of a GPU, torch's allocator is bounded to that fraction: Ray's fractions isolate nothing.
    Raises `LoadError` for a device that is not there.
    """
    import torch

    if asked == "auto":
        asked = "cuda" if gpus > 0 and torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LoadError(f"device {asked!r} is not usable here: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and 0 < gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus, device)
    return device


def free_bytes(gpus: float) -> int:
    """Bytes a further model may take: of GPU memory when the replica reserved some, else of RAM."""
    if gpus > 0:
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            share = int(total * min(gpus, 1.0))
            return min(free, share - torch.cuda.memory_allocated())
    return int(psutil.virtual_memory().available)
