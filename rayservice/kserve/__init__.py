"""From KServe's manifests to a catalog: every field becomes part of it, or a line of the report.

What is understood is listed in `docs/from-kserve.md`; whatever nobody read is reported as it stands.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from deployments.errors import ServeAppError
from rayservice.documents import Document, DocumentError
from rayservice.kserve import graphs, others
from rayservice.kserve.pools import pools_of
from rayservice.kserve.predictors import Imported, imported
from rayservice.kserve.reading import Reading
from rayservice.plan import plan
from rayservice.yaml_text import Said, dump, plain
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
    refused: list[str] = []
    models = [one for service in services if (one := _imported(service, runtimes, report, refused))]
    _rename_doubles(models, report)
    catalog = _catalog(models, by_kind, report, refused)
    _idle(runtimes, models, report)
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


def _imported(service: Reading, runtimes: list[Reading], report: list[str], refused: list[str]) -> Imported | None:
    """The model; None where it is in no shape to be read, for which the reason is put with those `refused`."""
    try:
        return imported(service, runtimes, report)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        refused.append(f"{service.document} is not in the shape of an InferenceService: {error}")
    except DocumentError as error:
        refused.append(f"{service.document} cannot be read: {error.message}")
    service.take()  # all of it is in that line
    return None


def _idle(runtimes: list[Reading], models: list[Imported], report: list[str]) -> None:
    """One line for all runtimes that no model uses."""
    idle = [one for one in runtimes if all(one is not model.runtime for model in models)]
    for one in idle:
        one.take()
    if idle:
        report.append("no model uses " + ", ".join(f"{one.document.kind} {one.document.name}" for one in idle))


def _rename_doubles(models: list[Imported], report: list[str]) -> None:
    seen: set[str] = set()
    taken = {one.name for one in models}
    for one in models:
        if one.name in seen:
            other = f"{one.name}-{one.namespace}"
            while other in taken:
                other += "-2"
            report.append(
                f"{one.where}: another namespace has a model of this name; it is {other} here, and its clients ask "
                f"{other}-predictor"
            )
            one.name = one.entry["name"] = other
            taken.add(other)
        seen.add(one.name)


def _catalog(
    models: list[Imported], by_kind: dict[str, list[Reading]], report: list[str], refused: list[str]
) -> dict[str, Any]:
    known: dict[str, Any] = {"cluster": {}}
    for reading in by_kind.get("Service", []):
        others.alias(reading, models, known, report)
    models = _accepted(models, report, refused)
    namespaces = Counter(one.namespace for one in models)
    first = next(one for one in models if one.namespace == namespaces.most_common(1)[0][0])
    catalog: dict[str, Any] = {"name": DEFAULT_NAME, "namespace": Said(first.namespace, first.where)} | known
    home, cluster = catalog["namespace"].value, catalog["cluster"]
    found = [pair for one in models for pair in one.variables]
    for reading in by_kind.get("ClusterStorageContainer", []):
        others.storage_container(reading, found, report)
    for reading in by_kind.get("PersistentVolumeClaim", []):
        others.claim(reading, models, report)
    elsewhere = {one.name: [one.namespace] for one in models if one.namespace != home}
    made, places = _graphs(by_kind.get("InferenceGraph", []), models, home, report)
    if elsewhere := elsewhere | {name: [place] for name, place in places.items() if place != home}:
        cluster["alias_namespaces"] = Said(elsewhere, "where their clients look for them")
    report += [
        f"{one.where}: PersistentVolumeClaim {claim} is in {one.namespace}; the pods are in {home} and need one there"
        for one in models
        for claim in sorted(one.claims if one.namespace != home else ())
    ]
    if env := others.variables(found, report):
        cluster["env"] = env
    if secrets := dict(secret for one in models for secret in one.secrets):
        cluster["env_secrets"] = Said(list(secrets), "; ".join(secrets.values()))
    catalog["pools"] = pools_of(models, report)
    catalog["models"] = [one.entry for one in models]
    return {key: value for key, value in (catalog | {"graphs": made}).items() if value}


def _accepted(models: list[Imported], report: list[str], refused: list[str]) -> list[Imported]:
    """Those that a catalog takes beside each other; the others are reported. Raises `DocumentError` if none is left."""
    kept: list[Imported] = []
    for one in models:
        beside = {"models": [other.entry for other in kept]}
        reason = _refusal(beside, "models", one.entry)
        labels = [key for key in ("aliases", "predictor") if key in one.entry]
        if reason and labels:
            bare = {key: value for key, value in one.entry.items() if key not in labels}
            if not _refusal(beside, "models", bare):
                report.append(f"{one.where}: without its {' and '.join(labels)}: {reason}")
                one.entry, reason = bare, None
        if reason:
            refused.append(f"{one.where}: no catalog takes it: {reason}")
        else:
            kept.append(one)
    if not kept:
        raise DocumentError(
            "none of the InferenceServices can be imported:\n" + "\n".join(f"  {one}" for one in refused)
        )
    report += [f"{line}; the model is left out" for line in refused]
    return kept


def _graphs(
    given: list[Reading], models: list[Imported], home: str, report: list[str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Those that a catalog takes, and each one's namespace by its name; the others are reported."""
    made: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    for reading in given:
        namespace = graphs.namespace_of(reading, models, home)
        try:
            one = graphs.graph(reading, models, namespace, report)
        except DocumentError as error:
            report.append(f"{error.message}; the graph is left out")
            reading.take()
            continue
        if one is None:
            continue
        if reason := _refusal({"models": [model.entry for model in models], "graphs": made}, "graphs", one):
            graphs.said(reading, one["nodes"], f"the graph is left out: {reason}", report)
            continue
        made.append(one)
        places[reading.document.name] = namespace
    return made, places


def _refusal(beside: dict[str, Any], key: str, entry: dict[str, Any]) -> str | None:
    """Why a catalog does not take it beside what it has; None where it does."""
    try:
        catalogs.parse(plain(beside | {key: [*beside[key], entry]}))
    except ServeAppError as error:
        return "; ".join(line.strip() for line in error.message.splitlines()[1:])
    return None


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
