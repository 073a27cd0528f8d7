"""The Serve config of a catalog: it needs no file beside it, and says all that the catalog says."""

from typing import Any

import pytest

from serve_app import catalog as catalogs
from serve_app.application import BuildArgs, build, options, serve_config, structure

MODELS = [
    {"name": "a", "engine": "espeak", "source": "pypi://espeakng-loader", "resources": {"pool": "p"}},
    {"name": "b", "engine": "espeak", "source": "pypi://espeakng-loader", "inline": True},
    {"name": "c", "engine": "espeak", "source": "pypi://espeakng-loader", "load": "on-demand"},
    {"name": "d", "engine": "espeak", "source": "pypi://espeakng-loader", "load": "on-demand"},
]
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
