"""What is taken and free on a GPU, by a driver and a torch that are made up: there is no GPU here."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch._utils import _get_device_index

from deployments import gpu

GIB = 1 << 30
TOTAL = 24 * GIB


class NVMLError(Exception):
    """As pynvml's."""


class Driver(SimpleNamespace):
    """What stands for the module `pynvml`: GPUs, each with processes and what they hold."""

    NVMLError = NVMLError

    def __init__(self, *gpus: dict[int, int | None]) -> None:
        super().__init__(gpus=gpus, inits=0)

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        self.inits += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.inits -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, at: int) -> dict[int, int | None]:  # noqa: N802
        found: dict[int, int | None] = self.gpus[at]
        return found

    def nvmlDeviceGetComputeRunningProcesses(self, device: dict[int, int | None]) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in device.items()]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Driver]:
    """Installs a driver of these GPUs, whose process ids are this machine's or, in a container, others."""

    def install(*gpus: dict[int, int | None], container: bool = False) -> Driver:
        made = Driver(*gpus)
        monkeypatch.setitem(sys.modules, "pynvml", made)
        (tmp_path / "pid").symlink_to("pid:[4026532001]" if container else gpu.FIRST_PID_NAMESPACE)
        monkeypatch.setattr(gpu, "PID_NAMESPACE", tmp_path / "pid")
        return made

    return install


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch with one GPU of 24 GiB, of which these numbers are taken."""
    state = SimpleNamespace(taken=0, reserved=0, allocated=0, fraction=None)

    def bound(fraction: float, device: Any) -> None:
        state.fraction = (fraction, _get_device_index(device))  # which refuses a device without an index

    real_empty = torch.empty

    def empty(*size: int, device: str) -> Any:
        index = 0 if device.startswith("cuda") else None
        return SimpleNamespace(device=torch.device("cuda", index)) if index == 0 else real_empty(*size, device=device)

    for name, function in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "memory_reserved": lambda: state.reserved,
        "memory_allocated": lambda: state.allocated,
        "mem_get_info": lambda _at: (TOTAL - state.taken, TOTAL),
        "get_device_properties": lambda _at: SimpleNamespace(total_memory=TOTAL),
        "set_per_process_memory_fraction": bound,
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch, "empty", empty)
    return state


@pytest.mark.parametrize("asked", ["auto", "cuda", "cuda:0"])
def test_a_share_bounds_torch_and_leaves_room_for_the_context(cuda: SimpleNamespace, asked: str) -> None:
    assert gpu.choose_device(asked, 0.25) == torch.device("cuda:0")
    fraction, index = cuda.fraction
    assert index == 0
    assert fraction * TOTAL + gpu.CONTEXT_BYTES == pytest.approx(0.25 * TOTAL)


def test_a_tiny_share_keeps_half_of_it_for_torch(cuda: SimpleNamespace) -> None:
    gpu.choose_device("auto", 0.04)
    assert cuda.fraction == (0.02, 0)


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_whole_gpus_are_not_bounded(cuda: SimpleNamespace, gpus: float) -> None:
    assert gpu.choose_device("auto", gpus).type == ("cuda" if gpus else "cpu")
    assert cuda.fraction is None


def test_the_driver_counts_this_process_and_its_children_on_all_gpus(
    cuda: SimpleNamespace, driver: Callable[..., Driver]
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        made = driver({os.getpid(): 3 * GIB, 1: 9 * GIB}, {child.pid: 5 * GIB, os.getpid(): GIB})
        assert gpu.used_bytes(0.5) == 9 * GIB
        assert made.inits == 0
        child.communicate(b"\n")


def test_before_anything_is_loaded_the_driver_counts_nothing(
    cuda: SimpleNamespace, driver: Callable[..., Driver]
) -> None:
    driver({1: 9 * GIB})
    cuda.taken = 9 * GIB
    assert gpu.used_bytes(0.5) == 0


@pytest.mark.parametrize(
    ("held", "container"), [({os.getpid(): GIB}, True), ({os.getpid(): None}, False)], ids=["container", "untold"]
)
def test_where_the_driver_does_not_tell_by_process_everybody_is_counted(
    cuda: SimpleNamespace, driver: Callable[..., Driver], held: dict[int, int | None], container: bool
) -> None:
    driver(held, container=container)
    cuda.taken = 7 * GIB
    assert gpu.used_bytes(0.5) == 7 * GIB


def test_without_nvml_everybody_is_counted(cuda: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    cuda.taken = 7 * GIB
    assert gpu.used_bytes(0.5) == 7 * GIB


def test_a_driver_that_fails_tells_nothing(driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver({1: GIB})

    def fail() -> int:
        raise NVMLError("driver and library differ")

    monkeypatch.setattr(made, "nvmlDeviceGetCount", fail)
    assert gpu.held_by_process() is None
    assert made.inits == 0


def test_what_is_free_is_what_the_share_and_the_gpu_leave(cuda: SimpleNamespace, driver: Callable[..., Driver]) -> None:
    driver({os.getpid(): 5 * GIB, 1: 4 * GIB})
    cuda.taken = 9 * GIB
    assert gpu.free_bytes(0.5, 0) == 7 * GIB
    cuda.taken = 20 * GIB
    assert gpu.free_bytes(0.5, 0) == 4 * GIB


def test_what_torch_keeps_for_itself_is_free(cuda: SimpleNamespace, driver: Callable[..., Driver]) -> None:
    driver({os.getpid(): 12 * GIB})
    cuda.taken, cuda.reserved, cuda.allocated = 12 * GIB, 11 * GIB, 2 * GIB
    assert gpu.free_bytes(0.5, 0) == 9 * GIB


def test_where_the_driver_does_not_tell_the_loaded_model_counts(
    cuda: SimpleNamespace, driver: Callable[..., Driver]
) -> None:
    driver({os.getpid(): GIB}, container=True)
    cuda.taken = 10 * GIB
    assert gpu.free_bytes(0.5, 10 * GIB) == 2 * GIB


def test_without_gpus_memory_is_ram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "CGROUP", Path("/nowhere"))
    assert gpu.used_bytes(0) >= psutil.Process().memory_info().rss // 2
    assert 0 < gpu.free_bytes(0, 0) <= psutil.virtual_memory().total
