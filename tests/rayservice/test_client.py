"""Deploying, waiting and deleting, against a small API server that keeps what it is given."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rayservice import client as clients
from rayservice import local
from rayservice.cli import app
from rayservice.client import ClusterError
from rayservice.progress import progress, table
from serve_app import catalog as catalogs
from tests.rayservice.catalogs import NVIDIA, catalog, documents, model
from tests.rayservice.test_render import EVERYTHING

OF = catalog(model("a", resources={"vram": "6GiB"}), pools=[NVIDIA], namespace="ml", cluster={"alias_ports": [80]})


class ApiServer(httpx2.BaseTransport):
    """Keeps objects by their paths; `missing` are kinds whose CRDs it has not."""

    def __init__(self, missing: str = "nothing") -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.missing = missing

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        self.asked.append((request.method, path.rpartition("/")[2]))
        if self.missing in path:
            return self.refusal("the server could not find the requested resource")
        if request.method == "PATCH":
            assert request.headers["content-type"] == "application/apply-patch+yaml"
            assert request.url.params["fieldManager"] == "serve-app"
            self.objects[path] = json.loads(request.read())
        if path not in self.objects:
            return self.refusal(f"{path} not found")
        found = self.objects.pop(path) if request.method == "DELETE" else self.objects[path]
        return httpx2.Response(200, json=found)

    def refusal(self, message: str) -> httpx2.Response:
        status = {"kind": "Status", "apiVersion": "v1", "code": 404, "reason": "NotFound", "message": message}
        return httpx2.Response(404, json=status)


@pytest.fixture
def kubeconfig(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": "http://api"}}],
        "users": [{"name": "me", "user": {"token": "x"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))


@pytest.mark.usefixtures("kubeconfig")
def test_what_is_deployed_is_found_and_deleted_again() -> None:
    server = ApiServer()
    client = clients.connect(None, server)
    applied = clients.deploy(client, OF)
    assert applied[-1] == "RayService stack"
    assert {"Service a-predictor", "Service stack-serve-svc", "Service stack-entrance", "PodMonitor stack"} < set(
        applied
    )
    path = "/apis/ray.io/v1/namespaces/ml/rayservices/stack"
    assert server.objects[path]["spec"]["upgradeStrategy"] == {"type": "None"}
    assert clients.look(client, OF)["metadata"]["name"] == "stack"
    assert sorted(clients.delete(client, OF)) == sorted(applied)
    assert not server.objects
    assert clients.delete(client, OF) == []
    with pytest.raises(ClusterError, match="no RayService stack in namespace ml; deploy it first"):
        clients.look(client, OF)


@pytest.mark.usefixtures("kubeconfig")
def test_what_is_applied_is_what_is_rendered() -> None:
    """The client's classes of Kubernetes' own kinds drop what they do not know, and add no nulls."""
    server = ApiServer()
    everything = catalogs.parse({"name": "stack", "models": [model("a", resources={"gpu": 0.5})], **EVERYTHING})
    clients.deploy(clients.connect(None, server), everything)
    given = {
        (one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]): one for one in server.objects.values()
    }
    rendered = {(one.kind, one.namespace, one.name): one.data for one in documents(everything)}
    assert given == {key: one for key, one in rendered.items() if key[0] != "Kustomization"}


@pytest.mark.usefixtures("kubeconfig")
def test_a_kind_that_the_cluster_lacks_is_named() -> None:
    with pytest.raises(ClusterError, match="are the CRDs of PodMonitor installed"):
        clients.deploy(clients.connect(None, ApiServer(missing="podmonitors")), OF)


@pytest.mark.usefixtures("kubeconfig")
def test_an_unknown_context_is_said() -> None:
    with pytest.raises(ClusterError, match="no cluster to talk to"):
        clients.connect("elsewhere")


def test_a_file_that_is_no_kubeconfig_is_said(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    for text in ("a: [", "just text", "{}"):
        (tmp_path / "kubeconfig").write_text(text)
        with pytest.raises(ClusterError, match=r"^no cluster to talk to: [^\n]*$"):
            clients.connect(None)


def ray_service(application: str = "RUNNING", message: str = "", **status: Any) -> dict[str, Any]:
    applications = {"stack": {"status": application, "message": message}} if application else {}
    conditions = [{"type": "Ready", "status": "True"}, {"type": "UpgradeInProgress", "status": "False"}]
    given = {"observedGeneration": 2, "conditions": conditions} | status
    return {
        "metadata": {"name": "stack", "generation": 2},
        "status": {"activeServiceStatus": {"applicationStatuses": applications}} | given,
    }


READY, LOADING = {"name": "a", "state": "ready"}, {"name": "a", "state": "loading"}
LOOKS: list[tuple[str, dict[str, Any], list[dict[str, str]] | None, str]] = [
    ("all is there", ray_service(), [READY], "ready"),
    ("models cannot be asked", ray_service(), None, "ready"),
    ("an old generation", ray_service(observedGeneration=1), [READY], "KubeRay has not seen the newest version yet"),
    ("an application deploys", ray_service("DEPLOYING"), None, "application stack is DEPLOYING"),
    ("no application", ray_service(""), None, "no application yet"),
    ("a model loads", ray_service(), [LOADING], "a is loading"),
    ("no endpoints", ray_service(conditions=[]), None, "no worker serves yet"),
    (
        "an upgrade",
        ray_service(conditions=[{"type": "Ready", "status": "True"}, {"type": "UpgradeInProgress", "status": "True"}]),
        None,
        "a second cluster is coming up",
    ),
    ("nothing yet", {"metadata": {"generation": 1}}, None, "KubeRay has not seen the newest version yet"),
]


@pytest.mark.parametrize(("manifest", "states", "said"), [look[1:] for look in LOOKS], ids=[look[0] for look in LOOKS])
def test_what_is_waited_for_is_said(manifest: dict[str, Any], states: Any, said: str) -> None:
    found = progress(manifest, states)
    assert (found.ready, found.said, found.failed) == (said == "ready", said, "")


def test_waiting_ends_after_three_looks_in_a_row_that_find_all_ready() -> None:
    looks = [ray_service(observedGeneration=1), ray_service(), ray_service("DEPLOYING"), *[ray_service()] * 3]
    slept: list[float] = []
    left, console = iter(looks), Console(record=True, width=200)
    clients.wait(lambda: next(left), lambda: [READY], console, timeout_s=60, sleep=slept.append)
    assert len(slept) == 5
    assert next(left, None) is None
    assert console.export_text().splitlines() == [
        "KubeRay has not seen the newest version yet",
        "ready",
        "application stack is DEPLOYING",
        "ready",
    ]


@pytest.mark.parametrize(
    ("manifest", "states", "reason"),
    [
        (
            ray_service("DEPLOY_FAILED", "Traceback\nImportError: no x"),
            [READY],
            "application stack failed: ImportError: no x",
        ),
        (ray_service(), [{"name": "a", "state": "failed", "reason": "no file"}], "model a failed: no file"),
        (ray_service(), [READY | {"reason": "no file"}], "model a goes on with its former settings: no file"),
        (ray_service(observedGeneration=1), None, "not ready after 0 s: KubeRay has not seen"),
        (ray_service("DEPLOY_FAILED", observedGeneration=1), None, "not ready after 0 s: KubeRay has not seen"),
    ],
)
def test_waiting_ends_with_the_reason(manifest: dict[str, Any], states: Any, reason: str) -> None:
    with pytest.raises(ClusterError, match=reason):
        clients.wait(lambda: manifest, lambda: states, Console(quiet=True), timeout_s=0, sleep=lambda _: None)


def test_what_failed_before_does_not_end_the_wait_for_what_is_newer() -> None:
    failed = [{"name": "a", "state": "failed", "reason": "no file"}]
    states = iter([failed, failed, [LOADING], [READY], [READY], [READY]])
    clients.wait(ray_service, lambda: next(states), Console(quiet=True), timeout_s=60, sleep=lambda _: None)
    assert next(states, None) is None
    slept: list[float] = []
    with pytest.raises(ClusterError, match="model a failed: no file"):
        clients.wait(ray_service, lambda: failed, Console(quiet=True), timeout_s=60, sleep=slept.append)
    assert len(slept) == 2


def test_the_table_joins_what_kuberay_and_the_models_say() -> None:
    manifest = ray_service("DEPLOYING")
    unplaced = {"status": "UPDATING", "message": "1 replica waits: {'GPU': 0.7} cannot be placed"}
    manifest["status"]["activeServiceStatus"]["applicationStatuses"]["stack"]["serveDeploymentStatuses"] = {
        "a": unplaced
    }
    console = Console(record=True, width=200)
    console.print(table(manifest, [LOADING | {"progress": "reading [weights]"}]))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert [row[:3] for row in rows[1:]] == [
        ["RayService", "stack", "waiting"],
        ["application", "stack", "DEPLOYING"],
        ["deployment", "a", "UPDATING"],
        ["model", "a", "loading"],
    ]
    assert "cannot be placed" in " ".join(rows[3])
    assert rows[4][3:] == ["reading", "[weights]"]


@pytest.fixture
def ray() -> Iterator[tuple[str, list[Any]]]:
    """A control plane that keeps what it is given, and refuses an application called `refused`."""
    given: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            given.append((self.path, self.headers["authorization"], body))
            self.send_response(500 if body["applications"][0]["name"] == "refused" else 200)
            self.end_headers()
            self.wfile.write(b"because")

        def do_GET(self) -> None:
            self.send_response(404 if "nodes" in self.path else 200)
            self.end_headers()
            self.wfile.write(b'{"applications": {}}' if "empty" in self.path else b"<html>\n  something else\n</html>")

        def log_message(self, *_: Any) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", given
    server.shutdown()
    server.server_close()


def test_a_local_ray_is_given_what_the_operator_would_give_it(
    ray: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, given = ray
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    shown = CliRunner().invoke(app, ["deploy", "homelab", "--local", "--ray-url", url])
    assert shown.exit_code == 0, shown.output
    path, authorization, config = given[0]
    assert (path, authorization) == ("/api/serve/applications/", "Bearer secret")
    actors = {one["name"]: one["ray_actor_options"] for one in config["applications"][0]["deployments"]}
    assert (actors["llm"]["num_gpus"], actors["llm"]["label_selector"]) == (0.95, {"pool": "khelben"})


def test_without_gpus_models_take_as_many_cpus(ray: tuple[str, list[Any]]) -> None:
    url, given = ray
    local.deploy(catalogs.load("homelab"), url, no_gpus=True)
    actors = {one["name"]: one["ray_actor_options"] for one in given[0][2]["applications"][0]["deployments"]}
    assert (actors["whisper"]["num_gpus"], actors["whisper"]["num_cpus"]) == (0, 0.5)
    assert actors["whisper"]["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"] == ""
    assert actors["gateway"]["num_cpus"] == 0.1


def test_a_catalog_without_pools_asks_no_labels_of_a_local_ray(ray: tuple[str, list[Any]]) -> None:
    local.deploy(catalog(model("a", resources={"gpu": 0.5})), ray[0])
    actors = [one["ray_actor_options"] for one in ray[1][0][2]["applications"][0]["deployments"]]
    assert not any("label_selector" in one for one in actors)
    assert [one.get("num_gpus", 0) for one in actors] == [0, 0.5]


def test_what_ray_refuses_is_said(ray: tuple[str, list[Any]]) -> None:
    with pytest.raises(ClusterError, match="refused the application with 500: because"):
        local.deploy(catalog(model("a"), name="refused"), ray[0])
    with pytest.raises(ClusterError, match="no Ray answers at"):
        local.deploy(OF, "http://127.0.0.1:9")
    for url in ("127.0.0.1:8265", "http://[::1"):
        with pytest.raises(ClusterError, match="no Ray answers at"):
            local.applications(url)
    with pytest.raises(ClusterError, match="is not Ray's dashboard, whose port is 8265"):
        local.applications(ray[0])
    with pytest.raises(
        ClusterError, match="says 404: <html> something else </html>; the port of Ray's dashboard is 8265"
    ):
        local.nodes(ray[0])
    found = CliRunner().invoke(app, ["status", "homelab", "--local", "--ray-url", f"{ray[0]}/empty"])
    assert "runs nothing; `serve-app deploy homelab --local` puts it there" in str(found.exception)
