"""The Serve config of a catalog: it needs no file beside it, and says all that the catalog says."""

from typing import Any

import pytest

from serve_app import catalog as catalogs
from serve_app.application import BuildArgs, build, options, serve_config, structure

MODELS: list[dict[str, Any]] = [
    {"name": "a", "engine": "espeak", "source": "pypi://espeakng-loader", "resources": {"pool": "p"}},
    {"name": "b", "engine": "espeak", "source": "pypi://espeakng-loader", "inline": True},
    {"name": "c", "engine": "espeak", "source": "pypi://espeakng-loader", "load": "on-demand"},
    {"name": "d", "engine": "espeak", "source": "pypi://espeakng-loader", "load": "on-demand"},
]
GRAPH = {"name": "g", "nodes": {"root": {"routerType": "Sequence", "steps": [{"serviceName": "a"}]}}}
CATALOG: dict[str, Any] = {
    "models": MODELS,
    "pools": [{"name": "p", "cpu": 4, "memory": "8GiB"}],
    "on_demand": {"resources": {"pool": "p"}},
}


def deployments(args: BuildArgs) -> dict[str, tuple[Any, ...]]:
    """The arguments that each deployment is bound with; the gateway's are handles and names."""
    from ray.serve._private.build_app import build_app

    built = build_app(build(args), name="x", default_runtime_env={})
    found = {one.name: (one._replica_config.init_args, one._replica_config.init_kwargs) for one in built.deployments}
    if "gateway" not in found:
        return found
    hosts, inline = found["gateway"][0]
    return found | {"gateway": (sorted(hosts), inline)}


def test_a_structure_builds_what_its_catalog_builds() -> None:
    catalog = catalogs.parse(CATALOG)
    given = serve_config(catalog, "127.0.0.1", 8000, 9000)["applications"][0]
    assert deployments(BuildArgs(**given["args"])) == deployments(BuildArgs(catalog=CATALOG))
    assert [one["name"] for one in given["deployments"]] == ["gateway", "a", "on-demand"]


def test_the_structure_has_every_model_and_nothing_that_can_change_in_place() -> None:
    named = [{"name": name, "engine": "espeak"} for name in "abcd"]
    assert structure(catalogs.parse(CATALOG)) == {"a": named[:1], "gateway": named[1:2], "on-demand": named[2:]}


def test_each_model_may_be_an_application_of_its_own() -> None:
    """With what its transformer's replicas and those of models on demand need; the gateway knows where each is."""
    around = {"class": "a:B", "source": "file:///code", "resources": {"cpu": 1}}
    models = [*MODELS, {**MODELS[0], "name": "e", "transformer": around}]
    catalog = catalogs.parse(CATALOG | {"layout": "per-model", "models": models, "graphs": [GRAPH]})
    config = serve_config(catalog, "127.0.0.1", 8000, 9000)["applications"]
    found = {one["name"]: (one["route_prefix"], [two["name"] for two in one["deployments"]]) for one in config}
    assert found == {
        "gateway": ("/", ["gateway"]),
        "a": ("/a", ["a"]),
        "on-demand": (None, ["on-demand"]),
        "e-transformer": (None, ["e", "e-transformer"]),
    }
    assert all(deployments(BuildArgs(**one["args"])) for one in config[1:])
    entries = {one["name"]: one for one in config[0]["deployments"][0]["user_config"]["models"]}
    assert {name: (one["deployment"], one["apart"]) for name, one in entries.items()} == {
        "a": ("a", True),
        "b": ("gateway", False),
        "c": ("on-demand", True),
        "d": ("on-demand", True),
        "e": ("e-transformer", True),
    }
    direct = config[1]["deployments"][0]["user_config"]["direct"]
    assert direct["hosts"] == {f"{name}-predictor": name for name in "bcde"} | {"g": "g"}


def test_several_applications_are_not_built_as_one() -> None:
    with pytest.raises(catalogs.CatalogError, match="per-model"):
        build(BuildArgs(catalog=CATALOG | {"layout": "per-model"}))


@pytest.mark.parametrize("name", catalogs.shipped())
def test_the_config_is_one_that_ray_serve_takes(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = serve_config(catalogs.load(name), "127.0.0.1", 8000, 9000, pools=True)
    assert ServeDeploySchema.model_validate(config).applications[0].import_path == "serve_app:build"


def test_only_clusters_with_pools_keep_models_to_them() -> None:
    catalog = catalogs.parse(CATALOG)
    selectors = {
        name: one["ray_actor_options"].get("label_selector") for name, one in options(catalog, pools=True).items()
    }
    assert selectors == {"gateway": None, "a": {"pool": "p"}, "on-demand": {"pool": "p"}}
    assert not any("label_selector" in one["ray_actor_options"] for one in options(catalog).values())
