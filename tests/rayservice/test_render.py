"""What is rendered of a catalog: the same bytes each time, valid, placed where it belongs."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.errors import ServeAppError
from rayservice import schema
from rayservice.documents import read
from rayservice.kserve import convert
from rayservice.lint import lint
from rayservice.plan import PlanError, plan
from rayservice.render import render, write
from rayservice.services import aliases
from serve_app import catalog as catalogs
from serve_app.application import serve_config
from serve_app.catalog import Catalog
from tests.rayservice.catalogs import NVIDIA, ROOT, catalog, documents, model, parsed, ray_service, shared

COMMITTED = ("gpu-24gb", "homelab")
NOT_KUBERNETES_OWN = {"RayService", "Kustomization", "PodMonitor", "HTTPRoute"}


def check(of: Catalog) -> None:
    """Raise unless an API server would take everything rendered of it, and nothing in it hurts at run time."""
    rendered = documents(of)
    assert not lint(rendered)
    for one in rendered:
        if one.kind not in NOT_KUBERNETES_OWN:
            kubernetes_validate.validate(one.data, "1.37", strict=True)
        if one.kind == "RayService":
            assert not schema.complaints(one.data)
            cluster = one.data["spec"]["rayClusterConfig"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                pods = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
                kubernetes_validate.validate(pods | {"template": group["template"]}, "1.37", strict=True)


@pytest.mark.parametrize("layout", ["single", "per-model"])
@pytest.mark.parametrize("name", catalogs.shipped())
def test_every_shipped_catalog_renders_valid_manifests(name: str, layout: str) -> None:
    check(catalogs.load(name).model_copy(update={"layout": layout}))


@pytest.mark.parametrize("layout", ["single", "per-model"])
def test_what_is_imported_of_kserves_manifests_renders_valid_ones(layout: str) -> None:
    text, _ = convert(read([shared("kserve-examples")]))
    check(catalogs.parse(parsed(text) | {"layout": layout}))


EVERYTHING: dict[str, Any] = {
    "namespace": "ml",
    "pools": [
        NVIDIA
        | {
            "nodes": 2,
            "max_nodes": 4,
            "gpus": 2,
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "volumes": [{"claim": "models", "path": "/models", "read_only": True}],
            "image": "example.org/serve-app:1",
        },
        {"name": "intel", "kind": "intel-xe", "cpu": 4, "memory": "8GiB", "groups": [992]},
    ],
    "cluster": {
        "alias_ports": [80, 8000, 9000],
        "alias_namespaces": {"a": ["others"]},
        "auth_secret": "token",
        "env": [{"name": "HF_TOKEN", "secret": {"name": "hub", "key": "token"}}],
        "env_secrets": ["aws"],
        "image_pull_secrets": ["pull"],
        "redis": {"address": "redis.db:6379", "password": {"name": "redis"}},
        "http_route": {"gateway": "public", "gateway_namespace": "gateways", "hostnames": ["models.example.org"]},
        "network_policy": {"clients": ["apps"], "monitoring": "monitoring"},
    },
}


def test_a_catalog_with_everything_renders_valid_manifests() -> None:
    of = catalog(
        model("a", resources={"vram": "6GiB"}), model("b", resources={"gpu": 1, "pool": "intel"}), **EVERYTHING
    )
    check(of)
    cluster = ray_service(of)["spec"]["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "redis"
    assert cluster["authOptions"] == {"mode": "token", "secretName": "token"}
    gpu, intel = cluster["workerGroupSpecs"]
    assert (gpu["minReplicas"], gpu["maxReplicas"], gpu["idleTimeoutSeconds"]) == (2, 4, 300)
    assert gpu["template"]["spec"]["topologySpreadConstraints"]
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "num-gpus" not in gpu["rayStartParams"]
    assert intel["rayStartParams"]["num-gpus"] == "1"
    files, aliases = render(of, "test")
    assert {"entrance-service.yaml", "httproute.yaml", "networkpolicy.yaml", "podmonitor.yaml"} <= files.keys()
    ports = parsed(files["entrance-service.yaml"])["spec"]["ports"]
    assert [(port["port"], port["targetPort"]) for port in ports] == [(80, 8000), (8000, 8000), (9000, 9000)]
    other = parsed(aliases["a-predictor.others.yaml"])
    assert other["metadata"]["namespace"] == "others"
    assert other["spec"]["externalName"] == "stack-entrance.ml.svc.cluster.local"


@pytest.mark.parametrize("name", catalogs.shipped())
def test_the_same_catalog_gives_the_same_bytes(name: str) -> None:
    assert render(catalogs.load(name), "test") == render(catalogs.load(name), "test")


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_manifests_are_not_stale(name: str) -> None:
    out, aliases = f"rayservice/manifests/{name}", f"k8s/aliases/{name}"
    command = f"serve-app render {name} --out {out} --aliases {aliases}"
    for folder, files in zip((out, aliases), render(catalogs.load(name), command), strict=True):
        there = {path.name: path.read_text() for path in (ROOT / folder).iterdir()}
        assert there == files, f"stale: run `{command}`"


def test_how_long_threads_look_before_they_sleep_is_the_catalogs_to_say() -> None:
    mine = {"name": "GOMP_SPINCOUNT", "value": "7"}
    for env, expected in (([], {"name": "GOMP_SPINCOUNT", "value": "10000"}), ([mine], mine)):
        cluster = ray_service(catalog(model("a"), pools=[NVIDIA], cluster={"env": env}))["spec"]["rayClusterConfig"]
        containers = cluster["headGroupSpec"]["template"]["spec"]["containers"]
        assert [one for one in containers[0]["env"] if one["name"] == "GOMP_SPINCOUNT"] == [expected]


def test_the_whisper_alias_is_the_one_in_the_cluster_today() -> None:
    today = parsed(shared("kserve-examples/whisper-alias-service.yaml").read_text())
    assert parsed((ROOT / "k8s/aliases/homelab/whisper-predictor.yaml").read_text()) == today


def test_a_graph_has_an_alias_of_its_name_as_kserves_have() -> None:
    alias = aliases(catalogs.load("voice-rag"))["voice-rag"]
    assert alias["metadata"]["name"] == "voice-rag"
    assert alias["metadata"]["labels"] == {"serving.kserve.io/inferencegraph": "voice-rag"}
    assert alias["spec"]["externalName"].startswith("voice-rag-serve-svc.")


def test_homelab_places_the_models_of_its_four_machines() -> None:
    manifest = ray_service(catalogs.load("homelab"))
    groups = {one["groupName"]: one for one in manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    limits = {name: one["template"]["spec"]["containers"][0]["resources"]["limits"] for name, one in groups.items()}
    config = parsed(manifest["spec"]["serveConfigV2"])
    found = {}
    for deployment in config["applications"][0]["deployments"]:
        options = deployment["ray_actor_options"]
        if options.get("num_gpus"):
            found[deployment["name"]] = (options["label_selector"]["pool"], options["num_gpus"])
    assert found == {
        "llm": ("khelben", 0.95),
        "whisper": ("elminster", 0.5),
        "tts": ("elminster", 0.5),
        "embeddings": ("drizzt", 0.8),
        "reranker": ("danilo", 0.8),
    }
    assert {name: group["labels"] for name, group in groups.items()} == {name: {"pool": name} for name in groups}
    assert {name: key for name, one in limits.items() for key in one if "gpu" in key} == {
        "khelben": "amd.com/gpu",
        "elminster": "nvidia.com/gpu",
        "drizzt": "amd.com/gpu",
        "danilo": "gpu.intel.com/i915",
    }
    assert groups["danilo"]["rayStartParams"]["num-gpus"] == "1"
    assert manifest["spec"]["upgradeStrategy"]["type"] == "None"
    images = [one["template"]["spec"]["containers"][0]["image"].rpartition("-")[2] for one in groups.values()]
    assert images == ["rocm", "cuda", "rocm", "intel"]


def test_what_is_rendered_is_what_serve_app_deploys() -> None:
    of = catalogs.load("gpu-24gb")
    config = parsed(ray_service(of)["spec"]["serveConfigV2"])
    assert config == parsed_as_yaml(serve_config(plan(of).catalog, "0.0.0.0", 8000, 9000, pools=True))
    local = serve_config(of, "127.0.0.1", 8000, 9000)
    selectors = [
        one["ray_actor_options"].pop("label_selector", None) for one in config["applications"][0]["deployments"]
    ]
    assert selectors == [None] + [{"pool": "gpu"}] * 5
    assert config["applications"] == parsed_as_yaml(local)["applications"]  # one machine has no pools


def parsed_as_yaml(config: dict[str, Any]) -> Any:
    from rayservice.yaml_text import dump

    return parsed(dump(config))


def test_a_comment_names_the_command_and_the_reason_of_the_upgrade() -> None:
    text = render(catalogs.load("homelab"), "serve-app render homelab --out x")[0]["rayservice.yaml"]
    assert text.startswith("# Rendered by `serve-app render homelab --out x`")
    lines = text.splitlines()
    above = next(before for before, line in pairwise(lines) if line == "  upgradeStrategy:")
    assert above.startswith("  # ")


@pytest.mark.parametrize(
    ("pool", "asked", "kind"),
    [
        ({}, "auto", "None"),
        ({"max_nodes": 2}, "auto", "NewCluster"),
        ({}, "new-cluster", "NewCluster"),
        ({"max_nodes": 2}, "none", "None"),
        ({"kind": "cpu", "gpu_memory": None}, "auto", "NewCluster"),
    ],
)
def test_the_upgrade_needs_room_for_a_second_cluster(pool: dict[str, Any], asked: str, kind: str) -> None:
    of = catalog(model("a"), pools=[NVIDIA | pool], cluster={"upgrade": asked})
    assert ray_service(of)["spec"]["upgradeStrategy"] == {"type": kind}


def test_a_catalog_without_pools_gets_a_machine_made_to_measure() -> None:
    groups = ray_service(catalog(model("a", resources={"cpu": 2, "memory": "3GiB"})))["spec"]["rayClusterConfig"]
    limits = groups["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "3", "memory": "5Gi"}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (lambda: catalog(model("a"), name="x" * 48), "48 letters; KubeRay takes 47"),
        (lambda: catalog(model("a", resources={"gpu": 1})), "has no pools, and a ask for GPUs"),
        (
            lambda: catalog(model("a", resources={"gpu": 2}), pools=[NVIDIA]),
            "which no pool has: gpu has 1 of nvidia",
        ),
    ],
)
def test_what_cannot_be_deployed_is_not_rendered(given: Any, complaint: str) -> None:
    with pytest.raises(PlanError, match=complaint):
        render(given(), "test")


@pytest.mark.parametrize(
    ("pools", "rest", "complaint"),
    [
        ([NVIDIA, NVIDIA], {}, "pool 'gpu' is used twice"),
        ([NVIDIA | {"kind": "cpu"}], {}, "gpu_memory and gpu_resource are for GPUs"),
        ([NVIDIA | {"gpus": 0}], {}, "for nodes without GPUs it is cpu"),
        ([NVIDIA | {"nodes": 3, "max_nodes": 2}], {}, "max_nodes is 2, below nodes, which is 3"),
        ([NVIDIA | {"colour": "red"}], {}, r"pools\[0\] \(gpu\).colour: unknown key; valid here: .*max_nodes"),
        ([NVIDIA], {"cluster": {"alias_ports": [81]}}, "cluster.alias_ports"),
        ([NVIDIA], {"cluster": {"alias_namespaces": {"b": ["x"]}}}, "names b, which are no models; have: a"),
        ([NVIDIA], {"cluster": {"env": [{"name": "A"}]}}, "give a value or a secret"),
        ([NVIDIA], {"cluster": {"redis": {"address": "redis"}}}, "cluster.redis.address"),
    ],
)
def test_pools_that_cannot_be_are_refused(pools: list[Any], rest: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ServeAppError, match=complaint):
        catalog(model("a"), pools=pools, **rest)


def test_a_model_on_a_pool_that_is_not_there_is_refused() -> None:
    with pytest.raises(ServeAppError, match="pool is 'other'; have: gpu"):
        catalog(model("a", resources={"pool": "other"}), pools=[NVIDIA])


def test_vram_is_a_share_of_the_pool_that_the_model_is_on() -> None:
    big, small = NVIDIA | {"name": "big", "gpu_memory": "48GiB"}, NVIDIA | {"name": "small", "gpu_memory": "8GiB"}
    of = catalog(model("a", resources={"vram": "12GiB"}), model("b", resources={"vram": "4GiB"}), pools=[big, small])
    shares = {one.name: (one.resources.pool, one.resources.gpu) for one in plan(of).catalog.models}
    assert shares == {"a": ("big", 0.25), "b": ("small", 0.5)}


def test_vram_is_a_share_of_another_pool_where_the_smallest_gpu_is_taken() -> None:
    big, small = NVIDIA | {"name": "big", "gpu_memory": "48GiB"}, NVIDIA | {"name": "small", "gpu_memory": "8GiB"}
    of = catalog(*(model(name, resources={"vram": "6GiB", "cpu": 10}) for name in "ab"), pools=[big, small])
    shares = {(one.resources.pool, one.resources.gpu) for one in plan(of).catalog.models}
    assert shares == {("big", 0.125), ("small", 0.75)}
    config = parsed(ray_service(of)["spec"]["serveConfigV2"])
    rendered = [one["ray_actor_options"] for one in config["applications"][0]["deployments"][1:]]
    assert {(one["label_selector"]["pool"], one["num_gpus"]) for one in rendered} == shares


def test_what_is_no_longer_rendered_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("kind: Secret\n")
    write(render(catalog(model("a"), model("b")), "serve-app render x")[1], tmp_path)
    write(render(catalog(model("a")), "serve-app render x")[1], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-predictor.yaml", "kustomization.yaml", "mine.yaml"]


names = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
pools = st.fixed_dictionaries(
    {
        "name": names,
        "kind": st.sampled_from(["nvidia", "amd", "intel-i915", "intel-xe"]),
        "cpu": st.integers(2, 32),
        "memory": st.sampled_from(["16GiB", "1500MiB", "123456789"]),
        "nodes": st.integers(1, 3),
        "gpus": st.integers(1, 4),
    },
    optional={
        "max_nodes": st.integers(3, 5),
        "gpu_memory": st.sampled_from(["8GiB", "24GiB"]),
        "selector": st.dictionaries(names, names, max_size=2),
        "groups": st.lists(st.integers(1, 1000), max_size=2),
        "tolerations": st.just([{"key": "gpu", "operator": "Exists"}]),
        "volumes": st.just([{"claim": "models", "path": "/models"}]),
        "runtime_class": names,
    },
)
models = st.builds(
    lambda name, resources, scaling: model(name, resources=resources, scaling={"min": scaling, "max": scaling + 1}),
    names.filter(lambda name: name not in ("gateway", "on-demand", "v1", "v2", "docs", "openai", "embed", "rerank")),
    st.fixed_dictionaries(
        {"cpu": st.sampled_from([0.1, 0.5, 1, 2])}, optional={"gpu": st.sampled_from([0.3, 0.5, 1, 2])}
    ),
    st.integers(1, 3),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(pools, min_size=1, max_size=3, unique_by=lambda pool: pool["name"]),
    st.lists(models, min_size=1, max_size=5, unique_by=lambda one: one["name"]),
    st.sets(st.sampled_from([80, 8000, 9000]), min_size=1),
    st.booleans(),
)
@pytest.mark.slow
def test_any_catalog_renders_valid_manifests_or_says_what_does_not_fit(
    pools: list[Any], models: list[Any], ports: set[int], auth: bool
) -> None:
    cluster = {"alias_ports": sorted(ports), **({"auth_secret": "token"} if auth else {})}
    of = catalog(*models, pools=pools, cluster=cluster)
    complaints = plan(of).complaints
    if complaints:
        with pytest.raises(PlanError):
            render(of, "test")
    else:
        check(of)
