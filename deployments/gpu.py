"""Which device an engine computes on, and how much memory is free there. Knows nothing of models."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from deployments.errors import LoadError

if TYPE_CHECKING:
    import torch

CGROUP = Path("/sys/fs/cgroup")


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


def used_bytes(gpus: float) -> int:
    """Bytes that this process holds: of GPU memory when it reserved some, else of RAM, its children's included."""
    if gpus > 0:
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.memory_reserved())
    this = psutil.Process()
    held = 0
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            held += process.memory_info().rss
    return held


def free_bytes(gpus: float) -> int:
    """Bytes a further model may take: of GPU memory when the replica reserved some, else of RAM."""
    if gpus > 0:
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            share = int(total * min(gpus, 1.0))
            return min(free, share - torch.cuda.memory_allocated())
    return min(int(psutil.virtual_memory().available), _free_in_cgroup())


def _free_in_cgroup() -> int:
    """What the container's own limit leaves (cgroup v2), where there is one; else more than any machine has."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        return int(limit) - int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return 1 << 62
