"""`serve-app up` and its end: refusals at start, Ctrl-C, `down`, and `up` killed."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import tritonclient.grpc as over_grpc
from openai import OpenAI
from tritonclient.utils import InferenceServerException

from serve_app import instance
from tests.integration.applications import COMMAND, Application, engine_cores, gone

BROKEN = {
    "name": "small",
    "models": [{"name": "m", "engine": "bi_encoder", "source": "file:///nowhere", "resources": {"cpu": 0.1}}],
}

KEY = "sk-one"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """An application whose only model cannot load, which is up soon; it asks for a key."""
    monkeypatch.setenv("SERVE_APP_API_KEYS", KEY)
    application = Application(tmp_path / "small.yaml", BROKEN)
    application.wait_until_up()
    try:
        yield application
    finally:
        application.stop()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def children_of(session: str) -> int:
    return len(instance.processes(session))


def linger(application: Application, deployment: str) -> subprocess.Popen[bytes]:
    """A process like vLLM's EngineCore: started inside the session, in a session of its own, parent gone."""
    environment = psutil.Process(application.replicas(deployment)[0].pid).environ()
    return subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True)


def check_what_it_shows(small: Application) -> None:
    """States, URLs and a request to copy; and a second start refused."""
    text = small.text()
    assert "m: failed (file:///nowhere: there is nothing at /nowhere on this machine" in text
    assert f"curl http://127.0.0.1:{small.port}/m/v1/rerank" in text
    assert "Traceback" not in text
    second = command("up", str(small.file), "--port", str(small.port))
    assert second.returncode == 2
    assert f"already serves {small.file} on port {small.port}" in second.stderr
    shown = command("status", "--port", str(small.port))
    assert shown.returncode == 1
    assert "failed" in shown.stdout


def check_who_is_let_in(small: Application) -> None:
    """Those who show the key, over HTTP and gRPC; the probes."""
    assert "API keys are asked for" in small.text()
    assert KEY not in small.text()
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{small.url}/v1", api_key="sk-two").models.list()
    assert [model.id for model in OpenAI(base_url=f"{small.url}/v1", api_key=KEY).models.list()] == ["m"]
    with over_grpc.InferenceServerClient(f"127.0.0.1:{small.grpc_port}") as client:
        assert client.is_server_live()
        assert client.get_server_metadata(headers={"authorization": f"Bearer {KEY}"}).name
        with pytest.raises(InferenceServerException) as refused:
            client.get_server_metadata()
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"


def test_up_that_is_killed_takes_all_with_it(application: Application) -> None:
    """vLLM's EngineCore too. The last test that asks the session's application: see `pytest_collection_modifyitems`."""
    (core,) = engine_cores(application)
    session = application.instance().session
    orphan = linger(application, "llm")
    assert [p for p in instance.processes(session) if p.name() == "haproxy"]
    application.process.kill()
    application.process.wait(10)
    application.until(lambda: not children_of(session), 30)
    assert gone(core)
    assert orphan.wait(10) == -signal.SIGKILL
    assert not listening(application.port)
    assert not listening(application.grpc_port)
    assert "nothing of serve-app runs" in command("down", "--port", str(application.port)).stdout


@pytest.mark.parametrize("end", [signal.SIGINT, "down", "down after SIGKILL of all"])
def test_no_process_and_no_port_is_left(small: Application, end: Any) -> None:
    if end == signal.SIGINT:  # of one of the applications that come up here
        check_what_it_shows(small)
        check_who_is_let_in(small)
    session = small.instance().session
    orphan = linger(small, "m")
    haproxy = [p for p in instance.processes(session) if p.name() == "haproxy"]
    assert haproxy
    if end == "down":
        assert command("down", "--port", str(small.port)).returncode == 0
    elif end == "down after SIGKILL of all":
        supervisor = psutil.Process(small.process.pid).children()[0]
        supervisor.kill()
        small.process.kill()
        small.process.wait(10)
        assert children_of(session)
        assert command("down", "--port", str(small.port)).returncode == 0
    else:
        small.process.send_signal(end)
    small.process.wait(60)
    small.until(lambda: not children_of(session), 30)
    assert orphan.wait(10) == -signal.SIGKILL
    assert not listening(small.port)
    assert "nothing of serve-app runs" in command("down", "--port", str(small.port)).stdout
    assert "Traceback" not in small.text()


def test_a_port_in_use_is_named_with_its_holder(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("up", "embedded", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "listens on it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_while_it_starts_is_named_too(tmp_path: Path) -> None:
    application = Application(tmp_path / "small.yaml", BROKEN)
    try:
        application.until(lambda: instance.find(application.port))
        session = application.instance().session
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", application.grpc_port))
            taken.listen()
            assert application.process.wait(120) == 2
    finally:
        application.stop()
    assert f"Port {application.grpc_port} on 127.0.0.1 cannot be had" in application.text()
    assert f"(pid {os.getpid()}:" in application.text()
    assert f"--grpc-port {application.grpc_port + 1}" in application.text()
    assert not children_of(session)


def test_more_than_the_machine_has_is_refused_with_the_numbers(tmp_path: Path) -> None:
    file = tmp_path / "big.yaml"
    file.write_text(
        "models: [{name: m, engine: bi_encoder, source: 'file:///x', resources: {cpu: 999, gpu: 1, memory: 9000GiB}}]"
    )
    done = command("up", str(file))
    assert done.returncode == 2
    for number in ("999.1 CPUs", "9000.0 GiB of memory", "1 GPUs"):
        assert number in done.stderr
    assert "Traceback" not in done.stderr


def test_a_catalog_that_is_not_valid_is_a_paragraph(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("models: [{name: m, engine: foo, source: x}]")
    done = command("up", str(file))
    assert done.returncode == 2
    assert "unknown engine 'foo'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_there() -> None:
    for arguments in (["--help"], ["up", "--help"], ["catalog", "--help"]):
        assert "Usage" in command(*arguments).stdout
