"""What is rendered, put into a cluster, waited for, and taken away again.

Kubernetes is asked through lightkube (the extra `kubernetes`).
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from rich.console import Console

from deployments.errors import ServeAppError
from rayservice import services
from rayservice.pods import HTTP_PORT
from rayservice.progress import Progress, State, progress
from rayservice.render import objects
from rayservice.yaml_text import plain
from serve_app.catalog import Catalog

POLL_S = 2.0
SETTLED = 3
"""Looks in a row that must find all ready, or one failed: KubeRay puts a changed Serve config in place polls later."""
MANAGER = "serve-app"
CUSTOM = {
    "RayService": ("ray.io", "v1", "rayservices"),
    "PodMonitor": ("monitoring.coreos.com", "v1", "podmonitors"),
    "HTTPRoute": ("gateway.networking.k8s.io", "v1", "httproutes"),
}
"""Kinds that Kubernetes has not of itself: group, version, plural."""


class ClusterError(ServeAppError):
    """A cluster that cannot be asked, refused something, or did not get where it should."""

    code = "cluster"


def connect(context: str | None, transport: Any = None) -> Any:
    """A client of the cluster of that kubeconfig context, by default the current one. Raises `ClusterError`."""
    try:
        from lightkube import Client, KubeConfig
        from lightkube.core.exceptions import ConfigError
    except ImportError as error:
        raise ClusterError("lightkube is not installed; run `pip install 'serve-app[kubernetes]'`") from error
    try:
        config = KubeConfig.from_env().get(context_name=context)
        return Client(config=config, field_manager=MANAGER, transport=transport)
    except ConfigError as error:
        raise ClusterError(f"no cluster to talk to: {error}") from error
    except Exception as error:  # whatever a parser makes of a file that is no kubeconfig
        said = (str(error).splitlines() or [""])[0]
        raise ClusterError(f"no cluster to talk to: the kubeconfig cannot be read ({said})") from error


def deploy(client: Any, catalog: Catalog) -> list[str]:
    """Put everything rendered of a catalog into the cluster, by server-side apply; what was put there.

    Raises `ClusterError` naming what was refused.
    """
    return [_each(one, lambda found: client.apply(found, force=True), must=True) for one in _all(catalog)]


def delete(client: Any, catalog: Catalog) -> list[str]:
    """Take it away again, what was put last first; what is not there is left out."""
    return [
        said
        for one in reversed(_all(catalog))
        if (
            said := _each(
                one, lambda found: client.delete(type(found), found.metadata.name, namespace=_namespace(found))
            )
        )
    ]


def look(client: Any, catalog: Catalog) -> dict[str, Any]:
    """The RayService as it stands there. Raises `ClusterError`."""
    found: dict[str, Any] = {}
    one = {"kind": "RayService", "metadata": {"name": catalog.name, "namespace": catalog.namespace}}

    def get(ours: Any) -> None:
        there = client.get(type(ours), catalog.name, namespace=catalog.namespace)
        found.update(there.to_dict() if hasattr(there, "to_dict") else there)

    if not _each({"apiVersion": "ray.io/v1"} | one, get):
        raise ClusterError(f"there is no RayService {catalog.name} in namespace {catalog.namespace}; deploy it first")
    return found


def model_states(url: str) -> list[State] | None:
    """What the application at that address says of its models; None where it does not answer."""
    try:
        states: list[State] = httpx.get(f"{url}/v2/health/ready", timeout=10).json()["models"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None
    return states


def url_of(catalog: Catalog) -> str:
    """Where the application answers, inside the cluster."""
    return f"http://{services.serve_service(catalog)}.{catalog.namespace}:{HTTP_PORT}"


def wait(
    look: Callable[[], dict[str, Any]],
    states: Callable[[], Sequence[State] | None],
    console: Console,
    timeout_s: float,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Look until all is ready, and twice more; show what is waited for whenever that changes.

    Raises `ClusterError` with the reason when something failed and two more looks find it so, for what failed may be
    of the version before; or with what is still missing after `timeout_s`.
    """
    give_up_s, settled, failing, shown = time.monotonic() + timeout_s, 0, 0, ""
    while settled < SETTLED:
        now: Progress = progress(look(), states())
        late = time.monotonic() > give_up_s
        failing = failing + 1 if now.failed else 0
        if now.failed and (late or failing == SETTLED):
            raise ClusterError(now.failed)
        settled = settled + 1 if now.ready else 0
        if now.said and now.said != shown:
            shown = now.said
            console.print(shown, markup=False, highlight=False, soft_wrap=True)
        if late and not now.ready:
            raise ClusterError(f"not ready after {timeout_s:.0f} s: {now.said}")
        if settled < SETTLED:
            sleep(POLL_S)


def _all(catalog: Catalog) -> list[dict[str, Any]]:
    """Everything rendered, Services before the RayService that KubeRay would make them for."""
    manifests, aliases = objects(catalog)
    found = [plain(one) for one in (*manifests.values(), *aliases.values())]
    return sorted(found, key=lambda one: bool(one["kind"] == "RayService"))


def _each(one: dict[str, Any], do: Callable[[Any], object], must: bool = False) -> str:
    """Do that with an object, as lightkube has it; the object's name, or nothing where it is not there and need not."""
    from lightkube import codecs
    from lightkube.core.exceptions import ApiError
    from lightkube.generic_resource import create_namespaced_resource

    if one["kind"] in CUSTOM:
        group, version, plural = CUSTOM[one["kind"]]
        create_namespaced_resource(group, version, one["kind"], plural)
    said = f"{one['kind']} {one['metadata']['name']}"
    try:
        do(codecs.from_dict(one))
    except ApiError as error:
        if error.status.code == 404 and not must:
            return ""
        hint = (
            f"; are the CRDs of {one['kind']} installed?" if error.status.code == 404 and one["kind"] in CUSTOM else ""
        )
        raise ClusterError(f"{said}: {error.status.message}{hint}") from error
    except Exception as error:
        raise ClusterError(f"{said}: the cluster does not answer: {error}") from error
    return said


def _namespace(one: Any) -> str:
    return str(one.metadata.namespace)
