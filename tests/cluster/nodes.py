"""A Ray cluster on this machine, of a rendered RayService: what KubeRay makes pods of are processes of `ray start`."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from rayservice import local
from rayservice.cli import app
from rayservice.client import ClusterError
from rayservice.lint_cluster import container, gpus_of
from rayservice.quantities import number
from serve_app import environment, instance, machine

RAY = str(Path(sys.executable).parent / "ray")
START_TIMEOUT_S = 60.0


class Cluster:
    """A head and a machine for each worker group, each with a mark of its own, so that it can be killed alone."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self._spec = manifest["spec"]["rayClusterConfig"]
        self._groups = {group["groupName"]: group for group in self._spec["workerGroupSpecs"]}
        self._session, self._token = uuid.uuid4().hex, uuid.uuid4().hex
        self._addresses = {name: f"127.0.0.{2 + index}" for index, name in enumerate(["head", *self._groups])}
        self._started: list[subprocess.Popen[bytes]] = []
        self._gcs_port, self._dashboard_port = machine.free_port(), machine.free_port()
        self.grpc_port = machine.free_port()
        self.ports = {name: machine.free_port() for name in self._addresses}
        self.ray_url = f"http://127.0.0.1:{self._dashboard_port}"
        self.environment = {"RAY_AUTH_TOKEN": self._token}

    def start(self) -> None:
        """The head, then all machines, as KubeRay waits for the head's GCS."""
        head = ["--head", f"--port={self._gcs_port}", f"--dashboard-port={self._dashboard_port}"]
        head += [f"--ray-client-server-port={machine.free_port()}", "--num-gpus=0"]
        self._start("head", self._spec["headGroupSpec"], head)
        self.until(self._head_answers, START_TIMEOUT_S)
        for name in self._groups:
            self.start_machine(name)
        self.until(lambda: len(self.alive()) == 1 + len(self._groups), START_TIMEOUT_S)

    def start_machine(self, name: str) -> None:
        """A worker group's machine: its labels, CPUs, GPUs and memory are those of the manifest."""
        group = self._groups[name]
        limits = container(group)["resources"]["limits"]
        labels = ",".join(f"{key}={value}" for key, value in group["labels"].items())
        given = [f"--address={self._addresses['head']}:{self._gcs_port}", f"--labels={labels}"]
        given += [f"--num-gpus={gpus_of(group)[0]}", f"--memory={int(number(limits['memory']))}"]
        self._start(name, group, given)

    def kill(self, name: str) -> None:
        """Every process of that machine at once, as when its power goes."""
        assert not instance.sweep(self._mark(name))

    def processes(self, name: str) -> list[psutil.Process]:
        return instance.processes(self._mark(name))

    def end(self) -> None:
        left = [process for name in self._addresses for process in instance.sweep(self._mark(name))]
        for process in self._started:
            process.wait(10)
        for name in self._addresses:
            shutil.rmtree(self._folder(name), ignore_errors=True)
        assert not left

    def alive(self) -> dict[str, dict[str, Any]]:
        """Ray's nodes that are up, by id."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_TOKEN", self._token)
            return {one["node_id"]: one for one in local.nodes(self.ray_url) if one["state"] == "ALIVE"}

    def replicas(self, deployment: str) -> list[dict[str, Any]]:
        """The deployment's replicas that run, of whichever application it is in; with their machine's pool."""
        alive = self.alive()
        return [
            {**one, "pool": alive.get(one["node_id"], {}).get("labels", {}).get("pool")}
            for application in self.applications().values()
            for name, found in application["deployments"].items()
            if name == deployment
            for one in found["replicas"]
            if one["state"] == "RUNNING"
        ]

    def pids(self) -> dict[str, set[int]]:
        """Process ids of every deployment's replicas."""
        return {
            name: {one["pid"] for one in found["replicas"]}
            for application in self.applications().values()
            for name, found in application["deployments"].items()
        }

    def applications(self) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_TOKEN", self._token)
            return local.applications(self.ray_url)

    def serve_app(self, *arguments: str) -> tuple[int, str]:
        """What `serve-app` makes of that: exit status and output."""
        shown = CliRunner().invoke(app, [*arguments, "--local", "--ray-url", self.ray_url], env=self.environment)
        assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exception
        return shown.exit_code, shown.output

    def deploy(self, file: Path, *options: str) -> None:
        ports = ("--port", str(self.ports["head"]), "--grpc-port", str(self.grpc_port))
        code, output = self.serve_app("deploy", str(file), *ports, *options)
        assert code == 0, output

    def status(self, file: Path) -> tuple[int, str]:
        return self.serve_app("status", str(file), "--port", str(self.ports["head"]))

    def wait_until_ready(self, file: Path, timeout_s: float = 90) -> None:
        self.until(lambda: self.status(file)[0] == 0, timeout_s, lambda: self.status(file)[1])

    def until(
        self, condition: Callable[[], object], timeout_s: float = 60, said: Callable[[], str] = lambda: ""
    ) -> None:
        give_up_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up_s, f"not within {timeout_s} s\n{said()}\n{self._logs()}"
            time.sleep(0.2)

    def url(self, proxy: str = "head") -> str:
        """A machine's own HAProxy: on Kubernetes each has port 8000 of its own address, here ports tell them apart."""
        return f"http://127.0.0.1:{self.ports[proxy]}"

    def _start(self, name: str, group: dict[str, Any], given: list[str]) -> None:
        folder = self._folder(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        command = [
            *(RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={self._addresses[name]}"),
            f"--num-cpus={group['rayStartParams']['num-cpus']}",
            f"--dashboard-agent-listen-port={machine.free_port()}",
            f"--metrics-export-port={machine.free_port()}",
            *("--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"),
            f"--object-store-memory={200 << 20}",
            f"--temp-dir={folder}",  # two that share one and start at once choose the same names for their sockets
            *given,
        ]
        with (folder / "start.log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(name, group),
                )
            )

    def _environment(self, name: str, group: dict[str, Any]) -> dict[str, str]:
        """The container's, and what keeps machines on one machine apart."""
        block = machine.free_block(environment.PORTS)
        ours = environment.for_ray(self._mark(name), self._token, str(self._folder(name)), block)
        image = {one["name"]: one["value"] for one in container(group)["env"]}
        ours |= {name: value for name, value in image.items() if name != "RAY_SERVE_HAPROXY_BINARY_PATH"}
        ours["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "1"  # Ray's 30 are for balancers that poll
        ours["RAY_health_check_period_ms"] = "1000"  # a machine is gone after five that fail; by default 3 s each
        if name != "head":
            ours["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = str(self.ports[name])
            ours["RAY_SERVE_WORKER_PROXY_GRPC_PORT"] = str(machine.free_port())
        return ours

    def _mark(self, name: str) -> str:
        return f"{self._session}-{name}"

    def _folder(self, name: str) -> Path:
        return Path(tempfile.gettempdir()) / f"ray-{os.getuid()}-{self._session[:8]}-{name}"

    def _head_answers(self) -> bool:
        try:
            self.alive()
        except ClusterError:
            assert self._started[0].poll() is None, self._logs()
            return False
        return True

    def _logs(self) -> str:
        folders = [self._folder(name) for name in self._addresses]
        logs = [folder / "start.log" for folder in folders]
        logs += [log for folder in folders for log in folder.glob("session_latest/logs/serve/proxy_*.log")]
        logs += [log for folder in folders for log in folder.glob("*/haproxy.sock.*.log")]
        return "\n".join(f"{log}: {log.read_text(errors='replace')[-800:]}" for log in logs if log.exists())


@contextmanager
def running(manifest: dict[str, Any]) -> Iterator[Cluster]:
    cluster = Cluster(manifest)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()
