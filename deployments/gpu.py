"""Which device an engine computes on, and how much memory is taken and free there. Knows nothing of models."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from deployments.errors import LoadError

if TYPE_CHECKING:
    import torch

CGROUP = Path("/sys/fs/cgroup")
PID_NAMESPACE = Path("/proc/self/ns/pid")
FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""The one whose process ids the driver speaks of: `PROC_PID_INIT_INO` in Linux's proc_ns.h."""
CONTEXT_BYTES = 768 << 20
"""Left of a share to CUDA's own context and kernels, which torch's bound does not count; at most half the share."""


def choose_device(asked: str, gpus: float) -> "torch.device":
    """The torch device for `asked` (`auto`, or a torch name such as `cpu`, `cuda:0`, `mps`).

    `auto` is the replica's GPU when it reserved one and torch sees it, else the CPU. On a fraction
    of a GPU, torch's allocator is bounded so that the process stays within that fraction: Ray's
    fractions isolate nothing. Raises `LoadError` for a device that is not there.
    """
    import torch

    if asked == "auto":
        asked = "cuda" if gpus > 0 and torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(1, device=asked).device  # with its index, without which no bound can be set
    except (RuntimeError, AssertionError) as error:
        raise LoadError(f"device {asked!r} is not usable here: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and 0 < gpus < 1:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(max(gpus / 2, gpus - CONTEXT_BYTES / total), device)
    return device


def used_bytes(gpus: float) -> int:
    """Bytes that this process and its children hold: of GPU memory when it reserved some, else of RAM.

    GPU memory is what the driver counts: all allocators, and CUDA's contexts. Where it does not tell by process,
    this is what everybody holds on this process's GPUs, of which differences still say what a model took.
    """
    if _on_gpus(gpus):
        ours = _ours_on_gpus()
        return _everybodys_on_gpus() if ours is None else ours
    held = 0
    for process in _our_processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            held += process.memory_info().rss
    return held


def free_bytes(gpus: float, model_bytes: int) -> int:
    """Bytes a further model may take: of GPU memory when the replica reserved some, else of RAM.

    `model_bytes` is what the model that is loaded took, which counts where the driver does not tell by process.
    """
    if _on_gpus(gpus):
        import torch

        total = torch.cuda.get_device_properties(0).total_memory
        reserved, ours = torch.cuda.memory_reserved(), _ours_on_gpus()
        held = max(model_bytes, reserved) if ours is None else ours
        free = total * torch.cuda.device_count() - _everybodys_on_gpus()
        return min(free, int(total * gpus) - held) + reserved - torch.cuda.memory_allocated()
    return min(int(psutil.virtual_memory().available), _free_in_cgroup())


def held_by_process() -> dict[int, int] | None:
    """Bytes of GPU memory by process id, over all GPUs, as the driver counts them.

    None where it does not tell: without its library (NVML) or the bindings to that (nvidia-ml-py), and in
    containers whose process ids are not the machine's.
    """
    if not ids_are_the_drivers():
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return _counted(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def ids_are_the_drivers() -> bool:
    """Whether the driver calls processes by the ids that they have here, which it does not in most containers."""
    try:
        return str(PID_NAMESPACE.readlink()) == FIRST_PID_NAMESPACE
    except OSError:
        return False


def _counted(nvml: Any) -> dict[int, int] | None:
    devices = [nvml.nvmlDeviceGetHandleByIndex(at) for at in range(nvml.nvmlDeviceGetCount())]
    held = Counter[int]()
    for process in (one for device in devices for one in nvml.nvmlDeviceGetComputeRunningProcesses(device)):
        if process.usedGpuMemory is None:
            return None
        held[process.pid] += process.usedGpuMemory
    return dict(held)


def _on_gpus(gpus: float) -> bool:
    if gpus <= 0:
        return False
    import torch

    return torch.cuda.is_available()


def _our_processes() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _ours_on_gpus() -> int | None:
    held = held_by_process()
    return None if held is None else sum(held.get(process.pid, 0) for process in _our_processes())


def _everybodys_on_gpus() -> int:
    """Bytes that are taken on the GPUs that this process sees, by whomever."""
    import torch

    taken = 0
    for at in range(torch.cuda.device_count()):
        try:
            taken += torch.cuda.device_memory_used(at)
        except Exception:  # no NVML, or a part of a GPU (MIG), which has no number there
            free, total = torch.cuda.mem_get_info(at)  # after the others: it gives this process a context
            taken += total - free
    return taken


def _free_in_cgroup() -> int:
    """What the container's own limit leaves (cgroup v2), where there is one; else more than any machine has."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        return int(limit) - int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return 1 << 62
