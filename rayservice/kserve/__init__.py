"""From KServe's manifests to a catalog: every field becomes part of it, or a line of the report.

What is understood is listed in `docs/from-kserve.md`; whatever nobody read is reported as it stands.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from deployments.errors import ServeAppError
from rayservice.documents import Document, DocumentError
from rayservice.kserve import others
from rayservice.kserve.pools import pools_of
from rayservice.kserve.predictors import Imported, imported
from rayservice.kserve.reading import Reading
from rayservice.plan import plan
from rayservice.yaml_text import Said, dump
from serve_app import catalog as catalogs
from serve_app.catalog import Catalog

KINDS = {
    "InferenceService",
    "ServingRuntime",
    "ClusterServingRuntime",
    "InferenceGraph",
    "ClusterStorageContainer",
    "PersistentVolumeClaim",
    "Service",
}
MAX_MACHINES = 64
DEFAULT_NAME = "serve-app"
"""Of the RayService, where no alias service says another."""


def convert(documents: Sequence[Document]) -> tuple[str, list[str]]:
    """The catalog's text, with a comment for where each value came from, and what could not be carried over.

    Raises `DocumentError` where there is nothing to import, `CatalogError` where what was made is no catalog.
    """
    report: list[str] = []
    by_kind: dict[str, list[Reading]] = {}
    for document in documents:
        if document.kind not in KINDS:
            report.append(f"{document}: this kind is not understood; have: {', '.join(sorted(KINDS))}")
            continue
        by_kind.setdefault(document.kind, []).append(Reading(_modern(document)))
    runtimes = by_kind.get("ServingRuntime", []) + by_kind.get("ClusterServingRuntime", [])
    services = by_kind.get("InferenceService", [])
    if not services:
        seen = ", ".join(f"{one.kind} {one.name}" for one in documents) or "nothing"
        raise DocumentError(f"there is no InferenceService in these files, so there are no models; found: {seen}")
    models = [_imported(one, runtimes, report) for one in services]
    _rename_doubles(models, report)
    catalog = _catalog(models, by_kind, report)
    for reading in (one for found in by_kind.values() for one in found):
        report += [f"{place}: {value!r} has no counterpart here" for place, value in reading.left()]
    report = list(dict.fromkeys(report))
    files = ", ".join(dict.fromkeys(one.file.rpartition("/")[2] for one in documents))
    header = "\n".join([f"Imported from {files}.", *(f"Not carried over: {line}" for line in report)])
    return _fitting(catalog, header), report


def _modern(document: Document) -> Document:
    """An InferenceService of v1alpha2, whose parts are under `spec.default`, in the form of those since."""
    spec = document.data.get("spec")
    if document.kind != "InferenceService" or not isinstance(spec, dict) or not isinstance(spec.get("default"), dict):
        return document
    spec = {key: value for key, value in spec.items() if key != "default"} | spec["default"]
    predictor = dict(spec.get("predictor") or {})
    if isinstance(custom := predictor.pop("custom", None), dict):
        predictor["containers"] = [custom.get("container") or {}]
    return Document(document.file, document.data | {"spec": spec | {"predictor": predictor}})


def _imported(service: Reading, runtimes: list[Reading], report: list[str]) -> Imported:
    try:
        return imported(service, runtimes, report)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise DocumentError(f"{service.document} is not in the shape of an InferenceService: {error}") from error


def _rename_doubles(models: list[Imported], report: list[str]) -> None:
    seen: set[str] = set()
    for one in models:
        if one.name in seen:
            other = f"{one.name}-{one.namespace}"
            report.append(f"{one.where}: another namespace has a model of this name; it is {other} here")
            one.name = one.entry["name"] = other
        seen.add(one.name)


def _catalog(models: list[Imported], by_kind: dict[str, list[Reading]], report: list[str]) -> dict[str, Any]:
    namespaces = Counter(one.namespace for one in models)
    home = namespaces.most_common(1)[0][0]
    first = next(one for one in models if one.namespace == home)
    catalog: dict[str, Any] = {"name": DEFAULT_NAME, "namespace": Said(home, first.where), "cluster": {}}
    found = [pair for one in models for pair in one.variables]
    for reading in by_kind.get("Service", []):
        others.alias(reading, models, catalog, report)
    for reading in by_kind.get("ClusterStorageContainer", []):
        others.storage_container(reading, found, report)
    for reading in by_kind.get("PersistentVolumeClaim", []):
        others.claim(reading, models, report)
    graphs = [
        others.graph(reading, {one.name for one in models}, report) for reading in by_kind.get("InferenceGraph", [])
    ]
    home = catalog["namespace"].value
    elsewhere = {one.name: [one.namespace] for one in models if one.namespace != home}
    if elsewhere:
        catalog["cluster"]["alias_namespaces"] = Said(elsewhere, "where their clients look for them")
    report += [
        f"{one.where}: PersistentVolumeClaim {claim} is in {one.namespace}; the pods are in {home} and need one there"
        for one in models
        for claim in sorted(one.claims if one.namespace != home else ())
    ]
    if made := others.variables(found, report):
        catalog["cluster"]["env"] = made
    if secrets := dict(secret for one in models for secret in one.secrets):
        catalog["cluster"]["env_secrets"] = Said(list(secrets), "; ".join(secrets.values()))
    catalog["pools"] = pools_of(models, report)
    catalog["models"] = [one.entry for one in models]
    if any(graphs):
        catalog["graphs"] = [one for one in graphs if one]
    if not catalog["cluster"]:
        del catalog["cluster"]
    return catalog


def _fitting(catalog: dict[str, Any], header: str) -> str:
    """The catalog's text, its pools grown until all models have a place."""
    for _ in range(MAX_MACHINES):
        text = dump(catalog, header)
        parsed = _parsed(text)
        found = plan(parsed)
        if not found.complaints:
            return text
        short = {pool for one in found.packing.unplaced for pool in one.gpu}
        for pool in catalog["pools"]:
            if pool["name"] in short:
                pool["nodes"] = Said(pool["nodes"].value + 1, pool["nodes"].comment)
    raise DocumentError("the models do not fit on 64 machines of a kind: " + "; ".join(found.complaints))


def _parsed(text: str) -> Catalog:
    from ruamel.yaml import YAML

    try:
        return catalogs.parse(YAML(typ="safe").load(text), "what was made of these files")
    except ServeAppError as error:
        raise DocumentError(error.message) from error
