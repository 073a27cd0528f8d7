"""The GPU as torch sees it, told by a process of its own, so that the check itself takes none of its memory.

`python -m tests.gpu.device` prints what there is as JSON, then for every line that it reads the bytes that are taken.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

GIB = 1 << 30


class Device(NamedTuple):
    """A GPU's memory, and what others had taken of it when the check began."""

    total_bytes: int
    taken_bytes: int


class Torch:
    """A process that asks torch. It has a context on the GPU once it was asked what is taken."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.gpu.device"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin
        assert self._process.stdout
        self._ask, self._answers = self._process.stdin, self._process.stdout
        line = self._answers.readline()
        self.said: dict[str, Any] = json.loads(line) if line else {"torch": "(which cannot be imported)", "cuda": None}
        """Versions, as `torch` and `cuda`; of the GPU, where there is one, `name`, `uuid` and `total_bytes`."""

    def taken_bytes(self) -> int:
        """Bytes that are taken on the GPU, by whomever."""
        print(file=self._ask, flush=True)
        return int(self._answers.readline())

    def end(self) -> None:
        """End the process."""
        self._ask.close()
        self._process.wait()
        self._answers.close()


@contextlib.contextmanager
def torch_process() -> Iterator[Torch]:
    """A process that asks torch, for the length of the block."""
    process = Torch()
    try:
        yield process
    finally:
        process.end()


def tell() -> None:
    """What the process does."""
    import torch

    said: dict[str, object] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if torch.cuda.is_available() and torch.version.cuda:
        found = torch.cuda.get_device_properties(0)
        said |= {"name": found.name, "uuid": f"GPU-{found.uuid}", "total_bytes": found.total_memory}
    print(json.dumps(said), flush=True)
    for _ in sys.stdin:
        free, total = torch.cuda.mem_get_info(0)
        print(total - free, flush=True)


if __name__ == "__main__":
    tell()
