"""An InferenceService, with the runtime that it names, as one model of a catalog.

The fields are those of KServe 0.21; see `docs/from-kserve.md` for what becomes of each.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from deployments import sources
from rayservice.kserve import runtimes
from rayservice.kserve.reading import Key, Reading
from rayservice.kserve.words import Container, variables, words
from rayservice.quantities import number
from rayservice.yaml_text import Said
from serve_app.model import Scaling

ANNOTATION = "serving.kserve.io/"
NO_COUNTERPART = {
    "deploymentMode": "there is one way to deploy, and it needs neither Knative nor a pod for each model",
    "autoscalerClass": "Ray scales, by requests in progress",
    "metric": "Ray scales by requests in progress: set scaling.target",
    "targetUtilizationPercentage": "Ray scales by requests in progress: set scaling.target",
    "stop": "a model that is to be stopped is left out of the catalog",
}
"""Annotations that are understood and have no counterpart."""
COMPONENTS = {
    "transformer": "write it as a class, and name it under the model's transformer: in the catalog",
    "explainer": "say explainer: on the model in the catalog: SHAP, or a class of your own; :explain asks it",
    "canary": "deploy the new version under a name of its own",
}


@dataclass
class Imported:
    """A model, and what its pool must have."""

    name: str
    service: str
    """What KServe called it; `name` is another where two namespaces have the same."""
    namespace: str
    where: str
    runtime: Reading | None = None
    entry: dict[str, Any] = field(default_factory=dict)
    resource: str | None = None
    gpus: int = 0
    cpu: float = 1.0
    memory: int = 0
    memory_limit: int = 0
    replicas: int = 1
    selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    runtime_class: str | None = None
    claims: set[str] = field(default_factory=set)
    variables: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    secrets: list[tuple[str, str]] = field(default_factory=list)


def imported(service: Reading, all_runtimes: Sequence[Reading], report: list[str]) -> Imported:
    """The model of an InferenceService. What cannot be carried over goes into `report`, with the reason."""
    name = service.document.name
    one = Imported(name, name, service.document.namespace, service.where())
    base, form = _base(service)
    runtime = _runtime(service, base, form, all_runtimes, report)
    one.runtime = runtime
    containers: list[Container] = [(runtime, ("spec", "containers", 0))] if runtime else []
    containers.append((service, base))
    _engine(one, containers, form, report)
    _resources(one, service, base, runtime, report)
    _scaling(one, service, report)
    _placement(one, service)
    one.variables += variables(containers, service)
    if secret := service.text("metadata", "annotations", f"{ANNOTATION}storageSecretName"):
        one.secrets.append((secret, service.where("metadata", "annotations", f"{ANNOTATION}storageSecretName")))
    _losses(service, base, runtime, report)
    return one


def _base(service: Reading) -> tuple[tuple[Key, ...], str | None]:
    """Where the model's container is described, and its format, if it has one. Raises `ValueError`."""
    predictor = service.document.data["spec"]["predictor"]
    model_like = [predictor[key] for key in ("model", *runtimes.OLD_KEYS) if key in predictor]
    model_like += predictor.get("containers") or []
    if not model_like or not all(isinstance(one, dict) for one in model_like):
        raise ValueError("spec.predictor has no model, no containers and none of " + ", ".join(runtimes.OLD_KEYS))
    if "model" in predictor:
        model: tuple[Key, ...] = ("spec", "predictor", "model")
        return model, service.text(*model, "modelFormat", "name")
    for key in runtimes.OLD_KEYS:
        if key in predictor:
            service.take("spec", "predictor", key, "name")
            return ("spec", "predictor", key), key
    return ("spec", "predictor", "containers", 0), None


def _runtime(
    service: Reading, base: tuple[Key, ...], form: str | None, candidates: Sequence[Reading], report: list[str]
) -> Reading | None:
    """The runtime that it names, or that is chosen by itself for its format: one of its namespace, else one for all."""
    named = service.text(*base, "runtime")
    version = service.text(*base, "modelFormat", "version")
    mine = [one for one in candidates if one.document.kind == "ServingRuntime" and _reaches(one, service)]
    for one in (*mine, *(one for one in candidates if one.document.kind == "ClusterServingRuntime")):
        formats = one.objects("spec", "supportedModelFormats")
        auto = [f.get("name") for f in formats if f.get("autoSelect")]
        if one.document.name == named or (named is None and form in auto):
            one.take("spec", "protocolVersions")
            return one
    if named and not named.startswith("kserve-"):  # KServe's own need no arguments to be known
        there = ", ".join(one.document.namespace for one in candidates if one.document.name == named)
        where = f"in namespace {there}, and not in {service.document.namespace}" if there else "not in these files"
        report.append(f"{service.where(*base, 'runtime')}: {named} is {where}: its arguments are unknown")
    if version:
        report.append(f"{service.where(*base, 'modelFormat', 'version')}: {version}; the installed library decides")
    return None


def _reaches(runtime: Reading, service: Reading) -> bool:
    """Whether a ServingRuntime is for that service; a file that says no namespace is for those beside it."""
    said = (runtime.document.data.get("metadata") or {}).get("namespace")
    return said in (None, service.document.namespace)


def _engine(one: Imported, containers: list[Container], form: str | None, report: list[str]) -> None:
    """Engine, source, aliases and options, by the service's container, which is the last, and its runtime's."""
    service, base = containers[-1]
    runtime = one.runtime
    image = service.text(*base, "image") or (runtime.text("spec", "containers", 0, "image") if runtime else None)
    if form is None:
        wanted = runtimes.of_image(image, service.text(*base, "name"), one.name)
        why = f"a guess by {service.where(*base, 'image')}, {image}"
    else:
        named = service.text(*base, "runtime") or (runtime.document.name if runtime else None)
        why = f"{service.where(*base)}, {form}" + (f", runtime {named}" if named else "")
        wanted = runtimes.FORMATS.get(form.lower())
        if wanted == "torchscript" and runtimes.is_llm(one.name, service.text(*base, "storageUri")):
            wanted, why = "vllm", f"{why}, by its name a language model"
            report.append(f"{why}: engine vllm wants its folder as Hugging Face has it, not an archive of TorchServe")
    line = words(containers, service, report)
    args = runtimes.arguments(line, wanted or "python")
    if args.task and args.task in runtimes.TASKS:
        wanted, why = runtimes.TASKS[args.task], f"{why}; --task {args.task}"
        args = runtimes.arguments(line, wanted)
    engine = runtimes.engine_there(wanted) if wanted else None
    if engine is None:
        said = f"engine {wanted}, which this version lacks" if wanted else "no engine here"
        report.append(f"{why}: it would be {said}; put a class of engine python where the source says")
        engine = "python"
    if image:
        report.append(f"{service.where()}: the image {image} is not used; what was built into it is not carried over")
    if engine == "sklearn":
        why += "; if the file is a pickle and you trust where it comes from, write options: {trust: true}"
    one.entry |= {"name": one.name, "engine": Said(engine, why)}
    if names := [name for name in dict.fromkeys(args.names) if name != one.name]:
        one.entry["aliases"] = Said(names, "its names in the arguments")
    _source(one, service, base, args, engine, report)
    if args.options and engine == "vllm":
        places = [(reading, (*place, key)) for reading, place in containers for key in ("command", "args")]
        options_from = [reading.where(*place) for reading, place in places if reading.take(*place)]
        one.entry["options"] = Said(args.options, "; ".join(options_from))
    report += [f"{service.where(*base, 'args')}: {line}" for line in args.lost]


def _source(
    one: Imported,
    service: Reading,
    base: tuple[Key, ...],
    args: runtimes.Arguments,
    engine: str,
    report: list[str],
) -> None:
    uri, where = service.text(*base, "storageUri"), service.where(*base, "storageUri")
    if not uri and (storage := service.take(*base, "storage")):
        uri, where = _stored(storage), service.where(*base, "storage")
        report.append(f"{where}: credentials of key {storage.get('key')!r}; set them under cluster.env")
    if not uri and args.model and not args.model.startswith(("/", "$")):
        uri, where = f"hf://{args.model}", "--model or --model_id in the arguments"
    if not uri:
        uri = runtimes.STAND_INS.get(engine, f"file:///models/{one.name}")
        where = "no storageUri: the image held the model, and this stands in its place"
        report.append(f"{service.where()}: which model it serves is not said; the source {uri} is a stand-in")
    if uri.startswith("pvc://"):
        claim, _, path = uri.removeprefix("pvc://").partition("/")
        one.claims.add(claim)
        uri, where = f"file://{sources.CLAIMS}/{claim}/{path}".rstrip("/"), f"{where}, {uri}"
    one.entry["source"] = Said(uri, where)


def _stored(storage: dict[str, Any]) -> str:
    bucket = (storage.get("parameters") or {}).get("bucket", "")
    kind = (storage.get("parameters") or {}).get("type", "s3")
    return f"{kind}://" + "/".join(part for part in (bucket, str(storage.get("path", "")).strip("/")) if part)


def _resources(
    one: Imported, service: Reading, base: tuple[Key, ...], runtime: Reading | None, report: list[str]
) -> None:
    """What one replica had becomes what it reserves; limits are the pool's."""
    asked: dict[str, Decimal] = {}
    places: list[str] = []
    for reading, path in ((runtime, ("spec", "containers", 0, "resources")), (service, (*base, "resources"))):
        given = (reading.take(*path) if reading else None) or {}
        place = (reading or service).where(*path)
        for kind in ("limits", "requests"):
            try:
                asked |= {key: number(value) for key, value in (given.get(kind) or {}).items()}
            except ValueError as error:
                report.append(f"{place}: {error}")
        if reading and given:
            limits = given.get("limits") or {}
            said = ", ".join(f"{key} {value}" for key, value in limits.items())
            places.append(place + (f" (limits: {said})" if said else ""))
            if "memory" in limits:
                one.memory_limit = int(number(limits["memory"]))
    place = "; ".join(places) or f"{service.where(*base)} says no resources: one CPU"
    gpus = {key: int(value) for key, value in asked.items() if "gpu" in key or "nvidia.com/mig-" in key}
    for key in asked.keys() - gpus.keys() - {"cpu", "memory"}:
        report.append(f"{place}: {key} is nothing that Ray counts")
    one.cpu = float(asked.get("cpu", 1))
    one.memory = int(asked.get("memory", 0))
    one.resource, one.gpus = next(iter(gpus.items()), (None, 0))
    entry: dict[str, Any] = {"gpu": one.gpus} if one.gpus else {}
    entry |= {"cpu": int(one.cpu) if one.cpu == int(one.cpu) else one.cpu}
    entry |= {"memory": size(one.memory)} if one.memory else {}
    share = "; a GPU of its own, as KServe gives: share one by gpu: 0.5, or vram:" if one.gpus == 1 else ""
    one.entry["resources"] = Said(entry, f"{place}{share}")


def size(wanted: int) -> str:
    """Bytes as a catalog has them, rounded up."""
    return f"{wanted >> 30}GiB" if wanted % (1 << 30) == 0 else f"{math.ceil(wanted / (1 << 20))}MiB"


def _scaling(one: Imported, service: Reading, report: list[str]) -> None:
    predictor: tuple[Key, ...] = ("spec", "predictor")
    knative = "autoscaling.knative.dev/"
    found: dict[str, int] = {}
    places: list[str] = []
    for key, fields in {
        "min": (("minReplicas",), ("annotations", f"{knative}minScale"), ("annotations", f"{knative}min-scale")),
        "max": (("maxReplicas",), ("annotations", f"{knative}maxScale"), ("annotations", f"{knative}max-scale")),
        "target": (("scaleTarget",), ("annotations", f"{knative}target"), ("containerConcurrency",)),
    }.items():
        for path in (
            (*predictor, *fields[0]),
            *((*root, *one) for one in fields[1:] for root in (predictor, ("metadata",))),
        ):
            value = service.take(*path)
            if value is not None and key not in found:
                found[key] = int(value)
                places.append(service.where(*path))
    metric = service.text(*predictor, "scaleMetric")
    if metric not in (None, "concurrency"):
        found.pop("target", None)
        report.append(f"{service.where(*predictor, 'scaleMetric')}: {metric}; Ray scales by requests in progress")
    if found.get("min") == 0:
        report.append(f"{'; '.join(places)}: minReplicas is 0: scale to zero is not there; min is 1")
        found["min"] = 1
    if "min" in found and found.get("max", 0) < max(1, found["min"]):
        found["max"] = max(1, found["min"], found.get("max", 0))
    try:
        Scaling(**found)
    except ValidationError:
        report.append(
            f"{'; '.join(places)}: {found} is not possible here; at least one replica, and a target of 1, are"
        )
        found = {key: max(1, value) for key, value in found.items()}
    one.replicas = max(1, found.get("min", 1))
    if found:
        one.entry["scaling"] = Said(found, "; ".join(places))
    if timeout := service.take(*predictor, "timeout"):
        one.entry["timeout"] = Said(int(timeout), service.where(*predictor, "timeout"))


def _placement(one: Imported, service: Reading) -> None:
    """Where it may run. These are found beside the predictor too, as they are often written."""
    for root in (("spec",), ("spec", "predictor")):
        one.selector |= {str(k): str(v) for k, v in (service.take(*root, "nodeSelector") or {}).items()}
        one.tolerations += service.take(*root, "tolerations") or []
        one.runtime_class = service.text(*root, "runtimeClassName") or one.runtime_class


def _losses(service: Reading, base: tuple[Key, ...], runtime: Reading | None, report: list[str]) -> None:
    """What is understood and has no counterpart, each with what to do."""
    service.take(*base, "name")
    service.take(*base, "protocolVersion")  # every model answers V1 and V2
    if runtime:
        runtime.take("spec", "containers", 0, "name")
    for key, why in NO_COUNTERPART.items():
        path = ("metadata", "annotations", ANNOTATION + key)
        if (value := service.text(*path)) is not None:
            report.append(f"{service.where(*path)}: {value}; {why}")
    for key, why in COMPONENTS.items():
        if service.take("spec", key):
            report.append(f"{service.where('spec', key)}: {why}")
    for key, why in {
        "canaryTrafficPercent": "deploy the new version under a name of its own",
        "logger": "requests are not logged: put a proxy that does before the application",
        "batcher": "engines batch by themselves what waits",
        "workerSpec": "a replica is on one machine: choose one with so many GPUs",
        "serviceAccountName": "pods get no service account: give credentials under cluster.env",
    }.items():
        if (value := service.take("spec", "predictor", key)) is not None:
            report.append(f"{service.where('spec', 'predictor', key)}: {re.sub(r'[{}]', '', str(value))}; {why}")
    if version := service.text(*base, "runtimeVersion"):
        report.append(f"{service.where(*base, 'runtimeVersion')}: {version}; the installed library decides")
