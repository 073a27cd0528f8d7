"""An InferenceGraph in a catalog's form, which is KServe's, its steps naming models of the catalog."""

import re
from typing import Any
from urllib.parse import urlsplit

from rayservice.documents import DocumentError
from rayservice.kserve.predictors import Imported
from rayservice.kserve.reading import Reading
from rayservice.yaml_text import Said

DATA = ("$request", "$response")


def namespace_of(one: Reading, models: list[Imported], home: str) -> str:
    """Where the graph and the services that it names are; where its file does not say, with the models."""
    said = (one.document.data.get("metadata") or {}).get("namespace")
    return str(said or (home if all(model.namespace != "default" for model in models) else "default"))


def graph(one: Reading, models: list[Imported], namespace: str, report: list[str]) -> dict[str, Any] | None:
    """The graph; None, and a line for each of its nodes, where a service that it names is none of these models.

    A node without a `routerType`, as people write them, only names the service behind a step. Raises `DocumentError`
    for what is not in the shape of a graph.
    """
    nodes = one.take("spec", "nodes") or {}
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise DocumentError(f"{one.where('spec', 'nodes')}: {nodes!r} is not nodes by their names")
    routers = {name: spec for name, spec in nodes.items() if "routerType" in spec or "serviceName" not in spec}
    made, missing = {}, []
    for name, spec in routers.items():
        steps = [
            _step(step, nodes, models, namespace, one.where("spec", "nodes", name, "steps", index), report)
            for index, step in enumerate(one.objects("spec", "nodes", name, "steps"))
        ]
        missing += [step.pop("missing") for step in steps if "missing" in step]
        made[name] = spec | {"steps": steps}
    if missing:
        said(one, made, f"not in these files: {', '.join(missing)}", report)
        return None
    timeout = one.take("spec", "timeout")
    return {
        "name": Said(one.document.name, one.where()),
        **({} if timeout is None else {"timeout": Said(timeout, one.where("spec", "timeout"))}),
        "nodes": made,
    }


def said(one: Reading, nodes: dict[str, Any], why: str, report: list[str]) -> None:
    """A line for each node of a graph that is left out."""
    for name, spec in nodes.items():
        steps = ", ".join(_said(step) for step in spec["steps"])
        report.append(f"{one.where('spec', 'nodes', name)}: {spec.get('routerType')} of {steps}; {why}")
    if not nodes:
        report.append(f"{one.where()}: {why}")


def _step(
    step: dict[str, Any], nodes: dict[str, Any], models: list[Imported], namespace: str, where: str, report: list[str]
) -> dict[str, Any]:
    """The step, with the model that it comes to; under `missing` a service that is none."""
    made = dict(step)
    if (data := made.get("data")) is not None and data not in DATA:
        report.append(f"{where}.data: {data}; only $response is anything but the request to KServe: it is $request")
        made["data"] = "$request"
    if made.get("nodeName") and "routerType" not in (nodes.get(made["nodeName"]) or {"routerType": ""}):
        made["serviceName"] = made.pop("nodeName")
    if called := made.get("serviceName"):
        called = str((nodes.get(called) or {}).get("serviceName", called))
        model = _model(called, models, namespace)
        if model is None:
            return made | {"serviceName": called, "missing": called}
        if model.namespace != namespace:
            report.append(f"{where}: {called} is in {model.namespace}, not in {namespace}; it is asked there")
        made["serviceName"] = model.name
    elif url := made.get("serviceUrl"):
        made = _at_url(made, str(url), models, namespace, where, report)
    return made


def _model(called: str, models: list[Imported], namespace: str) -> Imported | None:
    """Of the graph's namespace, else the one that there is in others."""
    found = [model for model in models if model.service == called]
    here = [model for model in found if model.namespace == namespace]
    return here[0] if here else found[0] if len(found) == 1 else None


def _at_url(
    step: dict[str, Any], url: str, models: list[Imported], namespace: str, where: str, report: list[str]
) -> dict[str, Any]:
    """A URL of a service that is imported goes away with it: its model is named in its place."""
    parts = urlsplit(url)
    host, _, rest = (parts.hostname or "").partition(".")
    model = _model(host.removesuffix("-predictor"), models, rest.partition(".")[0] or namespace)
    if model is None or (rest and rest.split(".")[0] != model.namespace):
        return step
    if parts.query:
        report.append(f"{where}.serviceUrl: {url} is {model.name} here, and a step's path has no query; change it")
        return step
    old, new = model.service, model.name
    path = re.sub(rf"^(/v[12]/models/){re.escape(old)}(?=[:/]|$)", rf"\g<1>{new}", parts.path.rstrip("/"))
    rest_of_step = {key: value for key, value in step.items() if key != "serviceUrl"}
    return {"serviceName": new, **({} if path in ("", f"/v1/models/{new}:predict") else {"path": path}), **rest_of_step}


def _said(step: dict[str, Any]) -> str:
    target = step.get("serviceName") or step.get("nodeName") or step.get("serviceUrl") or "?"
    rest = {key: value for key, value in step.items() if key not in ("serviceName", "nodeName", "serviceUrl")}
    return f"{target}" + (f" [{re.sub('[{}]', '', str(rest))}]" if rest else "")
