"""`serve-app up`: a Ray head, one Serve application on it, each model's way to readiness, and the end of it all.

Knows nothing of how requests are answered.
"""

import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import httpx
import psutil
from rich.console import Console
from rich.live import Live

from deployments.errors import ServeAppError
from deployments.protocols.models import SETTLED
from serve_app import catalog as catalogs
from serve_app import environment, instance, machine, screen
from serve_app.application import serve_config
from serve_app.catalog import Catalog
from serve_app.instance import Instance

RAY_START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.5
RAY_PORTS = 5
"""How many ports Ray itself takes, beside those of `environment.PORTS`: of its head, dashboard, metrics, dashboard's
agent, and client server."""


class StartError(ServeAppError):
    """Ray or the application did not come up."""

    code = "start_failed"


class Stopped(Exception):
    """A signal asked for the end."""


def up(name: str, host: str, port: int, grpc_port: int, console: Console) -> int:
    """Serve a catalog until a signal comes; the exit status. Raises `ServeAppError` when it cannot start."""
    catalog = catalogs.load(name)
    _check(catalog, host, port, grpc_port)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGHUP, _stop)
    began_s = time.monotonic()
    first = machine.free_block(RAY_PORTS + environment.PORTS, apart_from=(port, grpc_port))
    this = Instance(
        session=uuid.uuid4().hex,
        up_pid=psutil.Process().pid,
        host=host,
        port=port,
        grpc_port=grpc_port,
        ray_port=first,
        dashboard_port=8265 if machine.is_free(8265) else first + 1,
        metrics_port=8080 if machine.is_free(8080) else first + 2,
        token=secrets.token_hex(32),
        catalog=str(catalogs.find(name).resolve()),
    )
    supervisor = _start_ray(this)
    try:
        with console.status("starting Ray"):
            _wait_for_ray(this, supervisor)
        _deploy(this, catalog)
        _watch_models(this, catalog, supervisor, console)
        screen.show_urls(console, this, catalog, _health(this), time.monotonic() - began_s)
        while supervisor.poll() is None:
            time.sleep(POLL_S)
        raise StartError(f"Ray ended by itself. {_log_tail(port)}")
    except Stopped:
        console.print("stopping")
        return 0
    finally:
        _end(this, supervisor, console)


def down(port: int) -> bool:
    """End the instance on that port and everything it started; False if there is none.

    Raises `StartError` naming what could not be ended.
    """
    found = instance.find(port)
    if found is None:
        return False
    left = instance.sweep(found.session)
    if left:
        raise StartError(f"Could not end {', '.join(f'{p.name()} (pid {p.pid})' for p in left)}.")
    instance.forget(port)
    return True


def _check(catalog: Catalog, host: str, port: int, grpc_port: int) -> None:
    """Refuse at once what cannot work: a second start, a port in use, more than the machine has."""
    running = instance.find(port)
    if running and instance.processes(running.session):
        raise machine.MachineError(
            f"serve-app already serves {running.catalog} on port {port} (pid {running.up_pid}). "
            f"End it with `serve-app down --port {port}`, or choose another port: --port {port + 1}"
        )
    try:
        environment.api_keys()
    except ValueError as error:
        raise machine.MachineError(f"{error}.") from None
    _check_ports(host, port, grpc_port)
    memory_bytes = psutil.virtual_memory().available - machine.object_store_bytes()
    machine.check_fits(catalog, machine.cpus(), machine.gpus(), memory_bytes)


def _check_ports(host: str, port: int, grpc_port: int) -> None:
    machine.check_port(host, port, "--port")
    machine.check_port(host, grpc_port, "--grpc-port")


def _start_ray(this: Instance) -> subprocess.Popen[bytes]:
    folder = instance.new_folder(this.port)
    this.write()
    command = [
        *(sys.executable, "-m", "serve_app.supervisor", str(this.port), "--"),
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
        "--node-ip-address=127.0.0.1",
        f"--port={this.ray_port}",
        f"--dashboard-port={this.dashboard_port}",
        f"--dashboard-agent-listen-port={this.ray_port + 3}",
        f"--metrics-export-port={this.metrics_port}",
        f"--ray-client-server-port={this.ray_port + 4}",
        *("--min-worker-port=0", "--max-worker-port=0"),
        f"--num-cpus={machine.cpus()}",
        f"--num-gpus={machine.gpus()}",
        f"--object-store-memory={machine.object_store_bytes()}",
        f"--temp-dir={folder / 'ray'}",
        "--include-log-monitor=false",
        *("--log-style=record", "--log-color=false"),
    ]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        start_new_session=True,
        env=environment.for_ray(this.session, this.token, str(folder), this.ray_port + RAY_PORTS),
    )


def _wait_for_ray(this: Instance, supervisor: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + RAY_START_TIMEOUT_S
    while time.monotonic() < give_up_s:
        if supervisor.poll() is not None:
            raise StartError(f"Ray did not start. {_log_tail(this.port)}")
        try:
            if _control(this, "GET").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(POLL_S)
    raise StartError(f"Ray did not start within {RAY_START_TIMEOUT_S:.0f} s. {_log_tail(this.port)}")


def _control(this: Instance, method: str, config: dict[str, object] | None = None) -> httpx.Response:
    """Ray's own REST API for Serve, which the KubeRay operator calls too."""
    return httpx.request(
        method,
        f"http://127.0.0.1:{this.dashboard_port}/api/serve/applications/",
        json=config,
        headers={"Authorization": f"Bearer {this.token}"},
        timeout=60,
    )


def _deploy(this: Instance, catalog: Catalog) -> None:
    config = serve_config(catalog, this.host, this.port, this.grpc_port)
    answer = _control(this, "PUT", config)
    if answer.status_code != 200:
        _check_ports(this.host, this.port, this.grpc_port)  # taken since? Ray Serve tells that by a traceback
        raise StartError(f"Ray Serve refused the application: {answer.text[:1000]}")


def _watch_models(this: Instance, catalog: Catalog, supervisor: subprocess.Popen[bytes], console: Console) -> None:
    """Show each model until every one is ready or failed."""
    with Live(console=console, transient=True, refresh_per_second=4) as live:
        shown: dict[str, str] = {}
        for states in _states(this, catalog, supervisor):
            if console.is_terminal:
                live.update(screen.states_table(states))
                continue
            for state in states:
                line = screen.state_line(state)
                if shown.get(state["name"]) != line:
                    shown[state["name"]] = line
                    console.print(line)


def _states(this: Instance, catalog: Catalog, supervisor: subprocess.Popen[bytes]) -> Iterator[list[dict[str, str]]]:
    states = [
        {"name": model.name, "state": "starting", "progress": "its replica is starting"} for model in catalog.models
    ]
    while any(state["state"] not in SETTLED for state in states):
        if supervisor.poll() is not None:
            raise StartError(f"Ray ended by itself. {_log_tail(this.port)}")
        states = _health(this) or states
        yield states
        _raise_if_undeployable(this)
        time.sleep(POLL_S)


def _health(this: Instance) -> list[dict[str, str]]:
    """What the gateway says of its models; nothing while it is not up."""
    try:
        answer = httpx.get(f"{this.url}/v2/health/ready", timeout=10)
        models: list[dict[str, str]] = answer.json()["models"]
        return models
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []


def _raise_if_undeployable(this: Instance) -> None:
    try:
        applications = _control(this, "GET").json()["applications"].values()
    except (httpx.HTTPError, ValueError, KeyError):
        return
    for application in applications:
        if application["status"] == "DEPLOY_FAILED":
            parts = [application, *application.get("deployments", {}).values()]
            said = [part["message"].strip().splitlines()[-1] for part in parts if (part.get("message") or "").strip()]
            raise StartError(f"Ray Serve could not start the application: {' '.join(said)} {_log_tail(this.port)}")


def _log_tail(port: int) -> str:
    file = instance.folder(port) / "ray.log"
    try:
        last = " ".join(file.read_text(errors="replace").split()[-60:])
    except OSError:
        last = ""
    return f"The logs are in {file.parent}" + (f"; the last words of Ray's: {last}" if last else ".")


def _end(this: Instance, supervisor: subprocess.Popen[bytes], console: Console) -> None:
    """Have the supervisor end everything; do it here if it cannot. Further signals do not interrupt this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if supervisor.stdin:
        supervisor.stdin.close()
    try:
        supervisor.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        supervisor.kill()
    left = instance.sweep(this.session)
    if left:
        console.print(f"could not end: {', '.join(f'{p.name()} (pid {p.pid})' for p in left)}")
    else:
        instance.forget(this.port)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise Stopped
