"""A real application for the tests: `serve-app up` in a process of its own, ended whatever happens."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from ruamel.yaml import YAML

from serve_app import catalog as catalogs
from serve_app import instance, machine
from serve_app.application import serve_config

COMMAND = str(Path(sys.executable).parent / "serve-app")


class Application:
    """A running `serve-app up` over a catalog file that the test may change."""

    def __init__(self, file: Path, catalog: dict[str, Any], arguments: tuple[str, ...] = ()) -> None:
        self.file = file
        self.port = machine.free_port()
        self.grpc_port = machine.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = file.with_suffix(".out")
        self.write(catalog)
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [COMMAND, "up", str(file), "--port", str(self.port), "--grpc-port", str(self.grpc_port), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def write(self, catalog: dict[str, Any]) -> None:
        with self.file.open("w") as file:
            YAML(typ="safe").dump(catalog, file)

    def text(self) -> str:
        return self.output.read_text()

    def wait_until_up(self, timeout_s: float = 240) -> None:
        self.until(lambda: "up after" in self.text() or self.process.poll() is not None, timeout_s)
        assert self.process.poll() is None, self.text()

    def until(self, condition: Callable[[], object], timeout_s: float = 60) -> None:
        give_up_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up_s, f"not within {timeout_s} s\n{self.text()}"
            time.sleep(0.1)

    def state(self, model: str) -> dict[str, str]:
        for one in httpx.get(f"{self.url}/v2/health/ready", timeout=30).json()["models"]:
            if one["name"] == model:
                return dict(one)
        raise AssertionError(f"no model {model}")

    def replicas(self, deployment: str) -> list[psutil.Process]:
        session = self.instance().session
        return [p for p in instance.processes(session) if title(p).endswith(f":{deployment}")]

    def instance(self) -> instance.Instance:
        found = instance.find(self.port)
        assert found
        return found

    def deploy(self, catalog: dict[str, Any]) -> None:
        """Put a changed catalog in place as the KubeRay operator does, through Ray's REST API."""
        self.write(catalog)
        this = self.instance()
        config = serve_config(catalogs.load(str(self.file)), this.host, this.port, this.grpc_port)
        control(this, "PUT", config)
        self.until(lambda: {a["status"] for a in self.applications()} == {"RUNNING"})

    def applications(self) -> list[dict[str, Any]]:
        return list(control(self.instance(), "GET").json()["applications"].values())

    def stop(self) -> None:
        """End it in an orderly way, and by force if that does not do."""
        found = instance.find(self.port)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            if found:
                assert not instance.sweep(found.session)


def control(this: instance.Instance, method: str, config: dict[str, Any] | None = None) -> httpx.Response:
    answer = httpx.request(
        method,
        f"http://127.0.0.1:{this.dashboard_port}/api/serve/applications/",
        json=config,
        headers={"Authorization": f"Bearer {this.token}"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return answer


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def engine_cores(application: Application) -> list[psutil.Process]:
    (replica,) = application.replicas("llm")
    return [child for child in replica.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]


def gone(process: psutil.Process) -> bool:
    """Whether it has ended, also where nobody has asked how."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@contextmanager
def running(file: Path, catalog: dict[str, Any]) -> Iterator[Application]:
    application = Application(file, catalog)
    try:
        application.wait_until_up()
        yield application
    finally:
        application.stop()
