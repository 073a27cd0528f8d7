"""A Ray cluster of a head and two machines, made of a rendered RayService, and what is deployed on it.

What of a real cluster this does not show:
- Kubernetes and KubeRay: nothing here applies manifests. `ray start` is given what KubeRay would take from the
  rendered groups (CPUs, GPUs, memory, labels, environment); the Serve config goes by the REST API that it calls.
- GPUs. They are declared, and no card is there: shares of them are Ray's bookkeeping, and no model here uses one.
- A network. All "machines" are processes on one, with loopback addresses and a port each for their HAProxy, where
  pods have port 8000 each. A killed machine closes its connections at once; one that loses its power does not.
- A Service before the proxies, and readiness probes: clients here choose a proxy themselves.
- Images, volumes, users, limits of memory and CPU, Redis, autoscaling, a head that ends.
"""

import copy
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from rayservice.documents import Document, read
from rayservice.kserve import convert
from rayservice.lint import lint
from serve_app import catalog as catalogs
from tests.cluster.nodes import Cluster, running
from tests.engines.estimators import IRIS_ROWS, make_constants, make_identity, make_iris
from tests.rayservice.catalogs import documents, parsed, ray_service, shared

LAYOUTS = ["single", "per-model"]
CLIENTS = 2
"""For each model and proxy."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A catalog but for its layout: two models on one GPU, a third on one that KubeRay does not see by itself."""
    folder = tmp_path_factory.mktemp("models")
    make_iris(folder / "iris")
    make_identity(folder / "identity")
    make_constants(folder / "constants", 2)

    def model(name: str, engine: str, source: str, pool: str, gpu: float) -> dict[str, Any]:
        needs = {"cpu": 0.1, "gpu": gpu, "pool": pool}
        return {"name": name, "engine": engine, "source": f"file://{folder}/{source}", "resources": needs}

    of_all = {"cpu": 2, "memory": "2GiB", "gpu_memory": "8GiB"}
    return {
        "name": "stack",
        "gateway": {"scaling": {"min": 2, "max": 2}},
        "cluster": {"auth_secret": "stack-auth"},
        "pools": [
            {"name": "left", "kind": "nvidia", **of_all},
            {"name": "right", "kind": "intel-i915", **of_all},
        ],
        "models": [
            model("iris", "sklearn", "iris", "left", 0.5),
            model("identity", "python", "identity", "left", 0.5),
            model("constant", "sklearn", "constants/0", "right", 0.8),
        ],
    }


@pytest.fixture(scope="module")
def machines(models: dict[str, Any]) -> Iterator[Cluster]:
    """The cluster with nothing on it: both layouts have the same pods, and are deployed one after the other."""
    with running(ray_service(catalogs.parse(models))) as cluster:
        yield cluster


@pytest.fixture(scope="module", params=LAYOUTS)
def catalog(models: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    return models | {"layout": request.param}


@pytest.fixture(scope="module")
def file(catalog: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("catalog") / "catalog.yaml", catalog)


@pytest.fixture(scope="module")
def cluster(machines: Cluster, file: Path) -> Cluster:
    machines.deploy(file)
    machines.wait_until_ready(file)
    return machines


def write(file: Path, catalog: dict[str, Any]) -> Path:
    with file.open("w") as out:
        YAML(typ="safe").dump(catalog, out)
    return file


def changed(catalog: dict[str, Any], file: Path, name: str, **keys: Any) -> Path:
    """The catalog with other keys of one model, in a file of its own."""
    other = copy.deepcopy(catalog)
    next(model for model in other["models"] if model["name"] == name).update(keys)
    return write(file, other)


def ask(cluster: Cluster, name: str, proxy: str = "head", instances: Any = None) -> httpx.Response:
    """A V1 request by the model's Host alias."""
    host = {"host": f"{name}-predictor.default.svc.cluster.local"}
    path = f"{cluster.url(proxy)}/v1/models/{name}:predict"
    return httpx.post(path, json={"instances": instances or [[1.0]]}, headers=host, timeout=30)


def test_models_are_on_the_machines_of_their_pools(cluster: Cluster) -> None:
    found = {name: [one["pool"] for one in cluster.replicas(name)] for name in ("iris", "identity", "constant")}
    assert found == {"iris": ["left"], "identity": ["left"], "constant": ["right"]}
    assert {one["pool"] for one in cluster.replicas("gateway")} == {"left", "right"}


def test_two_halves_share_one_declared_gpu(cluster: Cluster) -> None:
    left = next(node for node in cluster.alive().values() if node["labels"].get("pool") == "left")
    assert left["resources_total"]["GPU"] == 1
    shares = {
        name: one["required_resources"]["GPU"]
        for application in cluster.applications().values()
        for name, one in application["deployments"].items()
        if any(replica["node_id"] == left["node_id"] for replica in one["replicas"]) and name != "gateway"
    }
    assert shares == {"iris": 0.5, "identity": 0.5}


@pytest.mark.parametrize("proxy", ["head", "left", "right"])
def test_host_aliases_reach_their_models_through_every_machine(cluster: Cluster, proxy: str) -> None:
    cluster.until(lambda: answers(cluster, proxy))
    assert ask(cluster, "iris", proxy, IRIS_ROWS).json() == {"predictions": [0, 1, 2]}
    assert ask(cluster, "identity", proxy, [7]).json() == {"predictions": [7]}
    assert ask(cluster, "constant", proxy).json() == {"predictions": [0]}
    other = httpx.post(
        f"{cluster.url(proxy)}/v1/models/iris:predict", json={}, headers={"host": "identity-predictor"}, timeout=30
    )
    assert other.status_code == 404


def answers(cluster: Cluster, proxy: str) -> bool:
    try:
        return httpx.get(f"{cluster.url(proxy)}/-/healthz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def test_a_changed_model_takes_over_and_no_process_is_replaced(
    cluster: Cluster, catalog: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    before = cluster.pids()
    other = catalog["models"][2]["source"].replace("constants/0", "constants/1")
    cluster.deploy(changed(catalog, tmp_path / "changed.yaml", "constant", source=other))
    cluster.until(lambda: ask(cluster, "constant").json() == {"predictions": [1]})
    cluster.deploy(file)
    cluster.until(lambda: ask(cluster, "constant").json() == {"predictions": [0]})
    assert cluster.pids() == before


def test_a_model_is_given_a_range_of_replicas_and_no_process_is_replaced(
    cluster: Cluster, catalog: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    before = cluster.pids()
    ranged = changed(catalog, tmp_path / "ranged.yaml", "constant", scaling={"min": 1, "max": 2})
    for one in (ranged, file):
        cluster.deploy(one)
        cluster.wait_until_ready(one)
        assert cluster.pids() == before


def test_a_version_that_cannot_load_never_interrupts_the_running_one(
    cluster: Cluster, catalog: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    before = cluster.pids()
    broken = changed(catalog, tmp_path / "broken.yaml", "iris", source="file:///nowhere")
    with clients(cluster, ["iris"], ["head"]) as seen:
        cluster.deploy(broken)
        cluster.until(lambda: "nowhere" in cluster.status(broken)[1])
        enough(seen, 20)
        cluster.deploy(file)
        cluster.wait_until_ready(file)
    assert {status for _, status in seen} == {200}
    assert cluster.pids() == before


def test_what_has_no_place_is_said_with_what_is_asked_and_what_is_free(
    cluster: Cluster, catalog: dict[str, Any], file: Path, tmp_path: Path
) -> None:
    """The catalog claims two GPUs for a machine that has one, so that 0.5 and 0.7 seem to fit."""
    claimed = copy.deepcopy(catalog)
    claimed["pools"][0]["gpus"] = 2
    needs = {"cpu": 0.1, "gpu": 0.7, "pool": "left"}
    too_much = changed(claimed, tmp_path / "much.yaml", "identity", resources=needs)
    cluster.deploy(too_much)
    why = "each asks for 0.7 GPU, 0.1 CPU on pool left; 127.0.0.3 has 0.5 of 1 GPU"
    cluster.until(lambda: why in cluster.status(too_much)[1], said=lambda: cluster.status(too_much)[1])
    code, said = cluster.status(too_much)
    assert code == 1
    assert "1 of 1 replicas has no place" in said
    assert "the catalog says 2 GPUs" in said
    assert ask(cluster, "iris", instances=IRIS_ROWS).json() == {"predictions": [0, 1, 2]}
    cluster.deploy(file)
    cluster.wait_until_ready(file)


def test_a_machine_that_dies_takes_its_own_models_alone_and_they_return_with_it(
    cluster: Cluster, catalog: dict[str, Any], file: Path
) -> None:
    with clients(cluster, ["iris", "identity"], ["head", "left"]) as seen:
        enough(seen, 50)
        killed_s = time.monotonic()
        cluster.kill("right")
        gone_s = time.monotonic()
        cluster.until(lambda: not cluster.replicas("constant"))
        cluster.until(lambda: "no machine is up" in cluster.status(file)[1], said=lambda: cluster.status(file)[1])
        enough(seen, 50)
    said = cluster.status(file)[1]
    assert "each asks for 0.8 GPU, 0.1 CPU on pool right, of which no machine is up; the catalog says 1" in said
    lost = [(began_s - killed_s, status) for began_s, status in seen if status != 200]
    assert not lost, (gone_s - killed_s, lost)  # HAProxy sends again what the gateway there had taken on
    cluster.start_machine("right")
    cluster.wait_until_ready(file)
    assert ask(cluster, "constant").json() == {"predictions": [0]}
    assert [one["pool"] for one in cluster.replicas("constant")] == ["right"]


def test_an_imported_service_is_answered_by_its_alias(
    machines: Cluster, models: dict[str, Any], tmp_path: Path
) -> None:
    """As docs/from-kserve.md says: import, name the machines that there are, render, lint, deploy, ask."""
    text, _ = convert(read([shared("kserve-examples/sklearn-iris-inferenceservice.yaml")]))
    imported = parsed(text)
    as_it_is: list[Document] = documents(catalogs.parse(imported))
    assert lint(as_it_is) == []
    imported["models"][0]["source"] = models["models"][0]["source"]
    imported["models"][0]["resources"] = {"gpu": 0.25, "cpu": 1, "pool": "left"}
    imported["pools"] = models["pools"]
    file = write(tmp_path / "imported.yaml", imported)
    assert lint(documents(catalogs.load(str(file)))) == []
    machines.deploy(file, "--no-gpus")
    machines.wait_until_ready(file)
    (application,) = machines.applications().values()
    asked = application["deployments"]["sklearn-iris"]["required_resources"]
    assert (asked["CPU"], asked["GPU"]) == (0.25, 0)
    host = {"host": "sklearn-iris-predictor.ml-serving"}
    path = f"{machines.url()}/v1/models/sklearn-iris:predict"
    answer = httpx.post(path, json={"instances": IRIS_ROWS}, headers=host, timeout=30)
    assert answer.json() == {"predictions": [0, 1, 2]}


@contextmanager
def clients(cluster: Cluster, models: list[str], proxies: list[str]) -> Iterator[list[tuple[float, object]]]:
    """Clients that ask these models by their aliases through these proxies; when each request began, and its status."""
    seen: list[tuple[float, object]] = []
    stop = threading.Event()

    def run(name: str, proxy: str) -> None:
        host, path = {"host": f"{name}-predictor"}, f"{cluster.url(proxy)}/v1/models/{name}:predict"
        body = {"instances": IRIS_ROWS[:1] if name == "iris" else [7]}
        with httpx.Client(timeout=60) as client:
            while not stop.wait(0.02):  # room for the others on a small machine
                began_s = time.monotonic()
                try:
                    seen.append((began_s, client.post(path, json=body, headers=host).status_code))
                except httpx.HTTPError as error:
                    seen.append((began_s, repr(error)))

    asked = [(name, proxy) for name in models for proxy in proxies for _ in range(CLIENTS)]
    threads = [threading.Thread(target=run, args=one) for one in asked]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def enough(seen: list[tuple[float, object]], more: int) -> None:
    target, give_up_s = len(seen) + more, time.monotonic() + 60
    while len(seen) < target:
        assert time.monotonic() < give_up_s, seen[-20:]
        time.sleep(0.05)
