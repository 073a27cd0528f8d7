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


def test_a_port_is_not_free_while_something_listens_on_it() -> None:
    port = machine.free_port()
    assert machine.is_free(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not machine.is_free(port)


def test_a_block_leaves_out_the_ports_that_are_for_others_and_those_given_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = iter([20_000, 20_003, 20_000, 20_003, 20_006])
    monkeypatch.setattr(random, "randrange", lambda *_: next(chosen))
    monkeypatch.setattr(machine, "is_free", lambda port: True)
    monkeypatch.setattr(machine, "_given", set())
    assert machine.free_block(3, apart_from=(20_002, 20_007)) == 20_003
    assert machine.free_block(3) == 20_000
    assert machine.free_block(3) == 20_006


def test_ports_are_below_those_that_connections_get() -> None:
    assert max(machine.free_port() for _ in range(100)) < 32_768
