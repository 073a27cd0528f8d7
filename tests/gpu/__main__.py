"""`make gpu-check`: several models on fractions of one NVIDIA GPU, each in its own process, as replicas share one.

Checks that what they answer is what the CPU answers, that each stays within its share of memory, also when asked for
too much, and prints their throughput alone and together. Makes its checkpoints of random weights; downloads nothing.
Ends with 0 if all was as it should be, 1 if not, 2 if nothing could be checked.
"""

import argparse
import json
import signal
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from tests.gpu.installed import HOW_TO_INSTALL, NEEDED, missing

if TYPE_CHECKING:
    from tests.gpu.device import Device
    from tests.gpu.meter import Driver

NOTHING_CHECKED, INTERRUPTED = 2, 130
"""Exit statuses."""


def explain(text: str) -> int:
    """Say why nothing was checked."""
    print(textwrap.fill(text, 110, break_on_hyphens=False), file=sys.stderr)
    return NOTHING_CHECKED


def check(asked: argparse.Namespace, device: "Device | None", driver: "Driver", where: str) -> int:
    """Check what can be checked, print it, and return the exit status."""
    from tests.gpu.check import Check
    from tests.gpu.meter import Meter
    from tests.gpu.report import Report, show
    from tests.gpu.shares import choose

    shares, left_out = choose(asked.models, asked.tiny, device)
    if not shares:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        return explain(f"gpu-check has nothing that it can check here. {reasons}.")
    report = Report(where, left_out=left_out)
    meter = Meter(driver)
    try:
        with tempfile.TemporaryDirectory(prefix="serve-app-gpu-check-") as folder:
            Check(shares, meter, Path(folder), asked.seconds).run(report)
    finally:
        meter.end()
    show(report)
    if asked.json:
        asked.json.write_text(json.dumps(report.as_json(), indent=1))
    return 0 if report.passed else 1


def on_gpu(asked: argparse.Namespace) -> int:
    """Find the GPU, and check on it."""
    from tests.gpu.device import GIB, Device, torch_process
    from tests.gpu.meter import driver

    with torch_process() as torch:
        said = torch.said
        if "name" not in said:
            return explain(
                f"gpu-check needs an NVIDIA GPU, and torch {said['torch']} (CUDA {said['cuda'] or 'none'}) sees none "
                "here. Run it on a machine that has one, with a torch built for CUDA and a driver that fits it (does "
                "nvidia-smi list the GPU?). CUDA_VISIBLE_DEVICES chooses among several. Without any, --cpu "
                "--tiny tries the check itself."
            )
        questions = driver(said["uuid"], torch.taken_bytes)
        device = Device(said["total_bytes"], questions.taken())
        where = f"{said['name']}, {device.total_bytes / GIB:.1f} GiB, torch {said['torch']}, CUDA {said['cuda']}"
        return check(asked, device, questions, where)


def arguments() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each throughput is measured")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="which; by default all that can run here")
    parser.add_argument("--tiny", action="store_true", help="tiny checkpoints, for a quick look")
    parser.add_argument("--cpu", action="store_true", help="no GPU: tries the check itself, says nothing of a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures are written too")
    return parser


def main() -> int:
    """Parse the command line and run."""
    parser = arguments()
    asked = parser.parse_args()
    if absent := missing(NEEDED):
        have_not = f"gpu-check needs Python packages that {sys.executable} does not have: {', '.join(absent)}."
        return explain(f"{have_not} {HOW_TO_INSTALL}")
    from tests.gpu.shares import MODELS

    names = [one.name for one in MODELS]
    asked.models = asked.models or names
    if unknown := set(asked.models) - set(names):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; have: {', '.join(names)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process and no folder is left
    try:
        if not asked.cpu:
            return on_gpu(asked)
        from tests.gpu.meter import NO_GPU

        return check(asked, None, NO_GPU, "REHEARSAL on the CPU: nothing was found out about any GPU")
    except KeyboardInterrupt:
        print("interrupted; all processes are ended", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
