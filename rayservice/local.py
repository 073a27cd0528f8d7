"""A Ray without Kubernetes, or a cluster's whose dashboard can be reached: the REST API that KubeRay calls."""

from typing import Any

import httpx

from rayservice.client import ClusterError
from rayservice.plan import placed
from rayservice.pods import DASHBOARD_PORT, GRPC_PORT, HTTP_PORT
from serve_app import environment
from serve_app.application import serve_config
from serve_app.catalog import Catalog


def deploy(
    catalog: Catalog, url: str, no_gpus: bool = False, port: int = HTTP_PORT, grpc_port: int = GRPC_PORT
) -> None:
    """Give a running Ray the Serve config that the RayService would have; with `no_gpus` models take CPUs instead.

    Nodes must have the labels of the catalog's pools, if it has any; without pools Ray places what it finds room
    for. Where Ray Serve runs already, it keeps the
    ports it has. Raises `ClusterError`.
    """
    known = placed(catalog) if catalog.pools else catalog
    config = serve_config(known, "0.0.0.0", port, grpc_port, pools=bool(catalog.pools))
    if no_gpus:
        on_cpus(config)
    _ask("PUT", f"{url}/api/serve/applications/", config)


def applications(url: str) -> dict[str, dict[str, Any]]:
    """What Ray Serve says of its applications, their deployments and replicas. Raises `ClusterError`."""
    found: dict[str, dict[str, Any]] = _said(f"{url}/api/serve/applications/", "applications")
    return found


def nodes(url: str) -> list[dict[str, Any]]:
    """Ray's nodes, those that are gone too, with their labels and resources. Raises `ClusterError`."""
    found: list[dict[str, Any]] = _said(f"{url}/api/v0/nodes?detail=1", "data", "result", "result")
    return found


def on_cpus(config: dict[str, Any]) -> None:
    """Fractions of GPUs in a Serve config become the same of CPUs."""
    for application in config["applications"]:
        for deployment in application["deployments"]:
            actor = deployment["ray_actor_options"]
            if actor.get("num_gpus"):
                actor |= {"num_cpus": actor["num_gpus"], "num_gpus": 0}
                actor.setdefault("runtime_env", {}).setdefault("env_vars", {})["CUDA_VISIBLE_DEVICES"] = ""


def _said(url: str, *keys: str) -> Any:
    try:
        found = _ask("GET", url).json()
        for key in keys:
            found = found[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"what answers at {url} is not Ray's dashboard, whose port is {DASHBOARD_PORT}") from error
    return found


def _ask(method: str, url: str, config: dict[str, Any] | None = None) -> httpx.Response:
    token = environment.ray_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.request(method, url, json=config, headers=headers, timeout=60)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ClusterError(f"no Ray answers at {url} ({error}); its dashboard's port is {DASHBOARD_PORT}") from error
    if answer.status_code in (401, 403):
        raise ClusterError(f"Ray at {url} asks for its token: set RAY_AUTH_TOKEN to it")
    if answer.status_code != 200:
        said = f"{answer.status_code}: {' '.join(answer.text.split())[:1000]}"
        if config:
            raise ClusterError(f"Ray refused the application with {said}")
        raise ClusterError(f"what answers at {url} says {said}; the port of Ray's dashboard is {DASHBOARD_PORT}")
    return answer
