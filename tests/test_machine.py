"""What a machine has against what a catalog asks for, and who holds a port."""

import os
import random
import socket
from typing import Any

import pytest

from serve_app import catalog as catalogs
from serve_app import machine
from serve_app.machine import MachineError


def catalog(*resources: dict[str, Any], **scaling: Any) -> catalogs.Catalog:
    models = [
        {"name": f"m{i}", "engine": "bi_encoder", "source": "file:///x", "resources": one, "scaling": scaling}
        for i, one in enumerate(resources)
    ]
    return catalogs.parse({"models": models})


@pytest.mark.parametrize(
    ("gpus", "shares", "fits"),
    [
        (0, [], True),
        (0, [0.1], False),
        (1, [0.5, 0.5], True),
        (1, [0.7, 0.5], False),
        (2, [0.6, 0.6], True),
        (2, [0.6, 0.6, 0.6], False),
        (2, [0.4, 0.6, 0.6, 0.4], True),
        (2, [2], True),
        (2, [1, 0.5, 0.5], True),
        (2, [2, 0.1], False),
    ],
)
def test_gpu_shares(gpus: int, shares: list[float], fits: bool) -> None:
    asked = catalog(*({"cpu": 0, "gpu": share} for share in shares or [0]))
    if fits:
        machine.check_fits(asked, 4, gpus, 1 << 40)
    else:
        with pytest.raises(MachineError, match="GPUs"):
            machine.check_fits(asked, 4, gpus, 1 << 40)


def test_cpus_and_memory_are_refused_with_the_numbers() -> None:
    asked = catalog({"cpu": 2, "memory": "3GiB"}, {"cpu": 1}, min=2, max=2)
    with pytest.raises(MachineError, match=r"6\.1 CPUs \(m0 2 x 2, m1 1 x 2, gateway 0\.1\), and it has 4") as refused:
        machine.check_fits(asked, 4, 0, 4 << 30)
    assert "6.0 GiB of memory" in refused.value.message


def test_a_port_in_use_names_the_process() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(MachineError, match=f"pid {os.getpid()}"):
            machine.check_port("127.0.0.1", taken.getsockname()[1], "--port")


def test_a_free_port_is_free() -> None:
    machine.check_port("127.0.0.1", machine.free_port(), "--port")


def test_in_place_of_a_port_that_is_taken_comes_the_other() -> None:
    first = machine.free_block(2)
    assert machine.free_port(first, first + 1) == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        assert machine.free_port(first, first + 1) == first + 1


def test_a_block_leaves_out_the_ports_that_are_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first = machine.free_block(3)
    chosen = iter([first, first, first + 3])
    monkeypatch.setattr(random, "randrange", lambda *_: next(chosen))
    monkeypatch.setattr(machine, "free_port", lambda port: port)
    assert machine.free_block(3, apart_from=(first + 2, first + 7)) == first + 3
    assert next(chosen, None) is None
