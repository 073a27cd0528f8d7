"""What is wrong with manifests of the application, before an API server, KubeRay or Ray finds out.

Each finding says where, what, and what to do. Reads files only: no cluster is asked.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rayservice import lint_cluster, lint_serve, schema
from rayservice.documents import GRAPH_LABEL, KSERVE_LABEL, Document

LINTED = ("RayService", "Service")
"""Kinds that are looked into: of Services, the ExternalName ones."""
INCREMENTAL = "NewClusterWithIncrementalUpgrade"


@dataclass(frozen=True)
class Finding:
    """`where` is the file and the object, `place` is in it."""

    where: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.place}: {self.message}" if self.place else f"{self.where}: {self.message}"


def lint(documents: Iterable[Document]) -> list[Finding]:
    """Everything that is wrong with these objects, together."""
    documents = list(documents)
    found = [*_doubles(documents), *_aliases(documents)]
    if not any(document.kind in LINTED for document in documents):
        seen = ", ".join(f"{one.kind} {one.name}".strip() for one in documents) or "nothing"
        found.append(
            Finding("nothing was checked", "", f"lint takes manifests, {' and '.join(LINTED)}; these files hold {seen}")
        )
    for document in documents:
        if document.kind == "RayService":
            found += _ray_service(document)
    return found


def unchecked(documents: Iterable[Document]) -> list[Finding]:
    """What could not be looked into from here, and is none of `lint`'s findings."""
    found = []
    for document in documents:
        spec = document.data.get("spec")
        if document.kind == "RayService" and isinstance(spec, dict):
            try:
                found += [Finding(str(document), place, message) for place, message in lint_serve.unchecked(spec)]
            except (AttributeError, TypeError):
                continue  # not in its shape, as `lint` says
    return found


def _ray_service(document: Document) -> Iterator[Finding]:
    where = str(document)
    refused = schema.complaints(document.data)
    for place, message in refused:
        yield Finding(where, place, message)
    spec = document.data.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("rayClusterConfig"), dict):
        return
    try:
        for place, message in (*lint_cluster.complaints(document.data), *lint_serve.complaints(spec)):
            yield Finding(where, place, message)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        if not refused:  # what is not in the schema's shape cannot be looked into; the schema said why
            yield Finding(where, "", f"cannot be looked into: {error}")


def _doubles(documents: list[Document]) -> Iterator[Finding]:
    seen: dict[tuple[str, str, str], Document] = {}
    for document in documents:
        if document.data.get("apiVersion") == "kustomize.config.k8s.io/v1beta1":
            continue
        key = (document.kind, document.namespace, document.name)
        if key in seen:
            first = seen[key].file
            yield Finding(
                str(document), "metadata.name", f"is in {first} too: of the two, the one applied last remains"
            )
        seen.setdefault(key, document)


def _aliases(documents: list[Document]) -> Iterator[Finding]:
    """ExternalName services against the RayServices and Services that they stand for."""
    rays = {(one.namespace, f"{one.name}-serve-svc"): one for one in documents if one.kind == "RayService"}
    made = {name for ns, svc in rays for name in ((ns, svc), (ns, svc.removesuffix("serve-svc") + "head-svc"))}
    plain = {(one.namespace, one.name): one for one in documents if one.kind == "Service" and not _external(one)}
    for alias in documents:
        if alias.kind != "Service" or not (external := _external(alias)):
            continue
        if (alias.namespace, alias.name) in made:
            yield Finding(str(alias), "metadata.name", "is what KubeRay calls a Service of its own")
        name, _, rest = external.partition(".")
        target = (rest.partition(".")[0] or alias.namespace, name)
        ray = rays.get(target) or _behind(plain.get(target), rays)
        if ray is None:
            if rays:
                have = ", ".join(sorted(name for _, name in rays))
                yield Finding(str(alias), "spec.externalName", f"{external} is no Service of these files; have: {have}")
            continue
        try:
            checks = [*_target(ray, target[1]), *_ports(alias, ray, plain.get(target)), *_known(alias, ray)]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            checks = [("", f"cannot be looked into: {error}")]
        for place, message in checks:
            yield Finding(str(alias), place, message)


def _external(document: Document) -> str | None:
    spec = document.data.get("spec") or {}
    return str(spec.get("externalName", "")) if spec.get("type") == "ExternalName" else None


def _behind(service: Document | None, rays: dict[tuple[str, str], Document]) -> Document | None:
    """The RayService whose workers a Service selects."""
    wanted = ((service.data.get("spec") or {}).get("selector") or {}) if service else {}
    for ray in rays.values():
        for group in ((ray.data.get("spec") or {}).get("rayClusterConfig") or {}).get("workerGroupSpecs") or []:
            labels = ((group.get("template") or {}).get("metadata") or {}).get("labels") or {}
            if wanted and all(
                labels.get(key, "true" if key == "ray.io/serve" else "") == v for key, v in wanted.items()
            ):
                return ray
    return None


def _target(ray: Document, service: str) -> Iterator[tuple[str, str]]:
    upgrade = ((ray.data.get("spec") or {}).get("upgradeStrategy") or {}).get("type")
    if upgrade == INCREMENTAL and service == f"{ray.name}-serve-svc":
        yield (
            "spec.externalName",
            f"{ray.name} upgrades by {INCREMENTAL}, under which there is no {service}: choose NewCluster or None",
        )


def _ports(alias: Document, ray: Document, service: Document | None) -> Iterator[tuple[str, str]]:
    """An alias changes no port: it is whatever the Service behind it has."""
    found: Any = ((service or ray).data.get("spec") or {}) if service else {}
    if not service:
        found = ((ray.data.get("spec") or {}).get("serveService") or {}).get("spec") or {"ports": [{"port": 8000}]}
    have = {port.get("port") for port in found.get("ports") or []}
    for index, port in enumerate(alias.data["spec"].get("ports") or []):
        if port.get("port") not in have:
            listed = ", ".join(str(one) for one in sorted(have))
            yield (
                f"spec.ports[{index}]",
                f"{port.get('port')} is not a port of the Service behind it, which has {listed}",
            )


def _known(alias: Document, ray: Document) -> Iterator[tuple[str, str]]:
    hosts = lint_serve.hosts(ray.data["spec"])
    if not hosts:
        return
    if alias.name not in hosts:
        yield "metadata.name", f"no model or graph of {ray.name} has this alias; have: {', '.join(sorted(hosts))}"
        return
    kind, name = hosts[alias.name]
    key = KSERVE_LABEL if kind == "models" else GRAPH_LABEL
    label = ((alias.data.get("metadata") or {}).get("labels") or {}).get(key)
    if label != name:
        yield "metadata.labels", f"{key} is {label!r}, and this is {name!r}: KServe's tools look for that"
