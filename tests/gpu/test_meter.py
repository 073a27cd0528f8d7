"""Memory as a driver that is made up tells it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from deployments import gpu
from tests.gpu import meter
from tests.gpu.meter import Driver, Meter


@pytest.fixture
def looking() -> Iterator[SimpleNamespace]:
    """A meter, and what its driver says: by process, and of the whole GPU."""
    said = SimpleNamespace(by_process=None, taken=100)
    said.meter = Meter(Driver(lambda: said.by_process, lambda: said.taken))
    yield said
    said.meter.end()


def test_where_the_driver_tells_by_process_children_count_too(looking: SimpleNamespace) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        looking.meter.follow("ours", os.getpid())
        looking.by_process = {os.getpid(): 30, child.pid: 12, 1: 1000}
        looking.meter.look()
        looking.by_process = {os.getpid(): 5}
        assert looking.meter.peaks() == {"ours": 42}
        assert looking.meter.peaks() == {"ours": 5}
        child.communicate(b"\n")


@pytest.mark.parametrize("by_process", [None, {}, {1: 1000}])
def test_where_the_driver_does_not_the_change_of_the_whole_gpu_counts(
    looking: SimpleNamespace, by_process: dict[int, int] | None
) -> None:
    looking.by_process = by_process
    looking.meter.follow("first", os.getpid())
    for name, taken in (("first", 140), ("second", 150)):
        with looking.meter.alone(name):
            looking.taken = taken
    assert looking.meter.peaks() == {"first": 40, "second": 10}
    with looking.meter.alone("first"):
        looking.taken = 155
    assert looking.meter.peaks() == {"first": 45, "second": 10}


def test_nvidia_smi_is_read_where_there_is_no_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\n[ "$2" = GPU-7 ] || exit 1\n'
        'case "$3" in *apps*) printf "12, 300\\n13, 20\\n";; *) echo 512;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(gpu, "held_by_process", lambda: None)
    monkeypatch.setattr(gpu, "ids_are_the_drivers", lambda: True)
    asked = meter.driver("GPU-7", lambda: 0)
    assert asked.by_process() == {12: 300 << 20, 13: 20 << 20}
    assert asked.taken() == 512 << 20
    monkeypatch.setattr(gpu, "ids_are_the_drivers", lambda: False)
    assert asked.by_process() is None


@pytest.mark.parametrize(
    ("listed", "held"), [("", {}), ("7, 3", {7: 3 << 20}), ("7, [N/A]", None), ("7, 3\n7, 4", {7: 7 << 20})]
)
def test_processes_as_nvidia_smi_lists_them(listed: str, held: dict[int, int] | None) -> None:
    assert meter.processes_in(listed) == held
