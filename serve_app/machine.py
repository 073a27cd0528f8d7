"""What this machine has, against what a catalog asks for; and who holds a port. Knows nothing of Ray Serve."""

import random
import socket
from collections.abc import Collection

import psutil

from deployments.errors import ServeAppError
from serve_app.catalog import Catalog
from serve_app.model import SHARED

OBJECT_STORE_SHARE = 0.15
MAX_OBJECT_STORE_BYTES = 4 << 30
_given: set[int] = set()
"""Ports that this process was told are free, for what is yet to listen on them."""


class MachineError(ServeAppError):
    """This machine, as it is now, cannot run what was asked for."""

    code = "machine"


def cpus() -> int:
    """CPUs that this process may use."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


def gpus() -> int:
    """GPUs that Ray would find here."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    return int(manager.get_current_node_num_accelerators()) if manager else 0


def object_store_bytes() -> int:
    """Shared memory for large bodies."""
    return min(MAX_OBJECT_STORE_BYTES, int(psutil.virtual_memory().total * OBJECT_STORE_SHARE))


def check_fits(catalog: Catalog, cpus: float, gpus: int, memory_bytes: int) -> None:
    """Raise `MachineError`, with the numbers, for a catalog whose least replicas cannot all be placed."""
    rows = [(name, resources, scaling.min) for m in catalog.models for name, resources, scaling in m.own]
    if any(model.deployment == SHARED for model in catalog.models):
        rows.append((SHARED, catalog.on_demand.resources, 1))
    asked_cpu = sum(r.cpu * n for _, r, n in rows) + catalog.gateway.cpu * catalog.gateway.scaling.min
    asked_memory = sum((r.memory or 0) * n for _, r, n in rows)
    fractions = [r.gpu for _, r, n in rows for _ in range(n) if r.gpu]
    lines = []
    if asked_cpu > cpus + 1e-6:
        each = ", ".join(f"{name} {r.cpu:g}" + (f" x {n}" if n > 1 else "") for name, r, n in rows)
        lines.append(f"{asked_cpu:g} CPUs ({each}, gateway {catalog.gateway.cpu:g}), and it has {cpus:g}")
    if asked_memory > memory_bytes:
        each = ", ".join(f"{name} {r.memory / 2**30:.1f} GiB x {n}" for name, r, n in rows if r.memory)
        lines.append(f"{asked_memory / 2**30:.1f} GiB of memory ({each}), and {memory_bytes / 2**30:.1f} GiB are free")
    if not _pack(fractions, gpus):
        each = ", ".join(f"{name} {r.gpu:g}" + (f" x {n}" if n > 1 else "") for name, r, n in rows if r.gpu)
        lines.append(f"{sum(fractions):g} GPUs ({each}), which do not fit on the {gpus} it has")
    if lines:
        raise MachineError(f"The catalog {catalog.name!r} asks this machine for " + "; and for ".join(lines) + ".")


def _pack(fractions: list[float], gpus: int) -> bool:
    """Whether these shares fit on so many GPUs: whole ones first, then the largest fraction where it fits."""
    free = [1.0] * gpus
    for share in sorted(fractions, reverse=True):
        if share >= 1:
            whole = [i for i, left in enumerate(free) if left == 1.0][: int(share)]
            if len(whole) < share:
                return False
            for i in whole:
                free[i] = 0.0
            continue
        fitting = [i for i, left in enumerate(free) if left + 1e-6 >= share]
        if not fitting:
            return False
        free[fitting[0]] -= share
    return True


def check_port(host: str, port: int, option: str) -> None:
    """Raise `MachineError` naming the process that holds the port, if one does, and the option to choose another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MachineError(
                f"Port {port} on {host} cannot be had: {_holder(port) or error.strerror}. "
                f"End that first, or choose another port: {option} {port + 1}"
            ) from error


def _holder(port: int) -> str | None:
    try:
        found = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port]
        pid = next((c.pid for c in found if c.pid), None)
        process = psutil.Process(pid) if pid else None
        return (
            f"{process.name()!r} (pid {process.pid}: {' '.join(process.cmdline())[:80]}) listens on it"
            if process
            else None
        )
    except psutil.Error:
        return None


def free_block(size: int, apart_from: Collection[int] = ()) -> int:
    """The first of `size` adjoining TCP ports that nothing listens on, and that this process was not given before.

    They lie below those that Linux by default gives to connections, one of which could have taken a port by the time
    that its server listens; and are chosen at random, so that two that start together do not choose the same.
    """
    for _ in range(100):
        first = random.randrange(12_000, 32_000 - size, size)  # noqa: S311  # not secret
        block = range(first, first + size)
        if all(port not in apart_from and port not in _given and is_free(port) for port in block):
            _given.update(block)
            return first
    raise MachineError(f"No {size} adjoining ports between 12000 and 32000 are free.")


def free_port() -> int:
    """One port as `free_block` has them."""
    return free_block(1)


def is_free(port: int) -> bool:
    """Whether nothing listens on that TCP port."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
