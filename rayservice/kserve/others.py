"""What stands around InferenceServices: storage, claims, alias services, graphs."""

import re
from typing import Any

from rayservice.documents import KSERVE_LABEL
from rayservice.kserve.predictors import Imported
from rayservice.kserve.reading import Reading
from rayservice.yaml_text import Said
from serve_app.catalog import Catalog

GRAPHS = "graphs" in Catalog.model_fields
"""Whether catalogs of this version have graphs."""


def storage_container(one: Reading, variables: list[tuple[dict[str, Any], str]], report: list[str]) -> None:
    """Its environment is every pod's here, where models are fetched."""
    for index, variable in enumerate(one.take("spec", "container", "env") or []):
        variables.append((variable, one.where("spec", "container", "env", index)))
    one.take("spec", "supportedUriFormats")
    one.take("spec", "container", "name")
    image = one.text("spec", "container", "image")
    report.append(f"{one.where('spec', 'container', 'image')}: {image}; replicas fetch models themselves")


def claim(one: Reading, models: list[Imported], report: list[str]) -> None:
    """It stays as it is, and is mounted where a model's source is in it."""
    name = one.document.name
    modes = one.take("spec", "accessModes") or []
    one.take("spec")
    one.take("metadata")
    users = [model.name for model in models if name in model.claims]
    if not users:
        report.append(f"{one.where()}: no model's source is in it; it stays as it is")
        return
    only = (
        "" if "ReadWriteMany" in modes or "ReadOnlyMany" in modes else f"; {', '.join(modes)}: on one machine at a time"
    )
    report.append(f"{one.where()}: it stays as it is, mounted for {', '.join(users)}{only}")


def alias(one: Reading, models: list[Imported], catalog: dict[str, Any], report: list[str]) -> None:
    """An ExternalName service that clients know: its name, its target and its ports."""
    if one.text("spec", "type") != "ExternalName":
        one.take("spec")
        one.take("metadata")
        report.append(
            f"{one.where()}: it is no ExternalName; a Service that KServe made goes with its InferenceService"
        )
        return
    target = one.text("spec", "externalName") or ""
    ports = [port.get("port") for port in one.take("spec", "ports") or []]
    label = one.text("metadata", "labels", KSERVE_LABEL)
    service, _, rest = target.partition(".")
    if service.endswith("-serve-svc"):
        catalog["name"] = Said(service.removesuffix("-serve-svc"), one.where("spec", "externalName"))
        catalog["namespace"] = Said(rest.partition(".")[0] or one.document.namespace, one.where("spec", "externalName"))
    name = one.document.name
    model = next((m for m in models if m.name in (label, name.removesuffix("-predictor"))), None)
    if model is None:
        report.append(f"{one.where()}: its model {label or name} is not in these files")
    elif name != f"{model.name}-predictor":
        model.entry["predictor"] = Said(name, one.where("metadata", "name"))
    wanted = sorted({port for port in ports if port in (80, 8000, 9000)})
    report += [
        f"{one.where('spec', 'ports')}: {port}; aliases have 80, 8000, 9000" for port in ports if port not in wanted
    ]
    asked = catalog.setdefault("cluster", {})
    had = asked["alias_ports"].value if "alias_ports" in asked else []
    if had or wanted not in ([], [8000]):
        asked["alias_ports"] = Said(sorted({*had, *wanted, 8000}), one.where("spec", "ports"))


def graph(one: Reading, names: set[str], report: list[str]) -> dict[str, Any] | None:
    """An InferenceGraph in a catalog's form, which is KServe's; None, and a line for each of its nodes, where a
    service that it asks is none of these models.

    A node without a `routerType`, as people write them, only names the service behind a step.
    """
    nodes = one.take("spec", "nodes") or {}
    routers = {name: spec for name, spec in nodes.items() if "routerType" in spec or "serviceName" not in spec}
    made = {}
    missing: list[str] = []
    for name, spec in routers.items():
        steps = [_step(step, nodes) for step in spec.get("steps") or []]
        missing += [step["serviceName"] for step in steps if step.get("serviceName", next(iter(names))) not in names]
        made[name] = spec | {"steps": steps}
    if not missing and GRAPHS:
        return {"name": Said(one.document.name, one.where()), "nodes": made}
    why = (
        f"not in these files: {', '.join(missing)}" if missing else "this version has no graphs: ask them in the client"
    )
    for name, spec in made.items():
        said = ", ".join(_said(step) for step in spec["steps"])
        report.append(f"{one.where('spec', 'nodes', name)}: {spec.get('routerType')} of {said}; {why}")
    return None


def _step(step: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """The step, with the service that it comes to."""
    called = step.get("serviceName")
    return step if called is None else step | {"serviceName": (nodes.get(called) or {}).get("serviceName", called)}


def _said(step: dict[str, Any]) -> str:
    target = step.get("serviceName") or step.get("nodeName") or step.get("serviceUrl") or "?"
    rest = {key: value for key, value in step.items() if key not in ("serviceName", "nodeName", "serviceUrl")}
    return target + (f" [{re.sub('[{}]', '', str(rest))}]" if rest else "")


def variables(found: list[tuple[dict[str, Any], str]], report: list[str]) -> list[Any]:
    """Environment variables as the catalog has them: the same in every pod."""
    made: dict[str, tuple[dict[str, Any], str]] = {}
    for given, where in found:
        name = str(given.get("name"))
        secret = (given.get("valueFrom") or {}).get("secretKeyRef")
        entry: dict[str, Any] = {"value": str(given["value"])} if given.get("value") is not None else {}
        if secret:
            entry["secret"] = {"name": secret.get("name"), "key": secret.get("key")}
        elif "value" not in entry:
            report.append(f"{where}: {name} has neither a value nor a secretKeyRef; set it under cluster.env")
            continue
        if name in made and made[name][0] != entry:
            report.append(f"{where}: {name} is another value in {made[name][1]}, and all pods have the same one")
            continue
        made.setdefault(name, (entry, where))
    return [
        {"name": name, **{key: Said(value, where) for key, value in entry.items()}}
        for name, (entry, where) in made.items()
    ]
