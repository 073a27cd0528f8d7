"""What stands around InferenceServices: storage, claims, alias services."""

from typing import Any

from deployments import sources
from rayservice.documents import KSERVE_LABEL
from rayservice.kserve.predictors import Imported
from rayservice.kserve.reading import Reading
from rayservice.kserve.words import TEMPLATE
from rayservice.yaml_text import Said


def storage_container(one: Reading, variables: list[tuple[dict[str, Any], str]], report: list[str]) -> None:
    """Its environment is every pod's here, where models are fetched."""
    for index, variable in enumerate(one.objects("spec", "container", "env")):
        variables.append((variable, one.where("spec", "container", "env", index)))
    if formats := one.values("spec", "supportedUriFormats"):
        said = ", ".join(
            str(next(iter(each.values()), each)) if isinstance(each, dict) else str(each) for each in formats
        )
        have = ", ".join(f"{scheme}://" for scheme in sources.SCHEMES)
        report.append(f"{one.where('spec', 'supportedUriFormats')}: {said}; sources here are {have}")
    one.take("spec", "container", "name")
    image = one.text("spec", "container", "image")
    report.append(f"{one.where('spec', 'container', 'image')}: {image}; replicas fetch models themselves")


def claim(one: Reading, models: list[Imported], report: list[str]) -> None:
    """It stays as it is, and is mounted where a model's source is in it."""
    name = one.document.name
    modes = [str(mode) for mode in one.values("spec", "accessModes")]
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
    ports = [port.get("port") for port in one.objects("spec", "ports")]
    label = one.text("metadata", "labels", KSERVE_LABEL)
    service, _, rest = target.partition(".")
    if service.endswith("-serve-svc"):
        catalog["name"] = Said(service.removesuffix("-serve-svc"), one.where("spec", "externalName"))
        catalog["namespace"] = Said(rest.partition(".")[0] or one.document.namespace, one.where("spec", "externalName"))
    name = one.document.name
    nearest = sorted(models, key=lambda model: model.namespace != one.document.namespace)
    model = next((m for m in nearest if m.service in (label, name.removesuffix("-predictor"))), None)
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


def variables(found: list[tuple[dict[str, Any], str]], report: list[str]) -> list[Any]:
    """Environment variables as the catalog has them: the same in every pod."""
    made: dict[str, tuple[dict[str, Any], str]] = {}
    for given, where in found:
        name = str(given.get("name"))
        secret = (given.get("valueFrom") or {}).get("secretKeyRef")
        entry: dict[str, Any] = {"value": str(given["value"])} if given.get("value") is not None else {}
        if left := TEMPLATE.findall(entry.get("value", "")):
            report.append(f"{where}: {name}: no value for {', '.join(left)} is in these files; see cluster.env")
        if secret:
            entry["secret"] = {"name": secret.get("name"), "key": secret.get("key")}
        elif "value" not in entry:
            report.append(f"{where}: {name} has neither a value nor a secretKeyRef; set it under cluster.env")
            continue
        if name in made and made[name][0] != entry:
            report.append(f"{where}: {name} is another value in {made[name][1]}, and all pods have the same one")
            continue
        made.setdefault(name, (entry, where))
    _endpoint(made, report)
    return [
        {"name": name, **{key: Said(value, where) for key, value in entry.items()}}
        for name, (entry, where) in made.items()
    ]


def _endpoint(made: dict[str, tuple[dict[str, Any], str]], report: list[str]) -> None:
    """KServe's names for a store of S3's kind, as all of AWS's clients call them; adds `AWS_ENDPOINT_URL`."""
    if "S3_ENDPOINT" in made and "AWS_ENDPOINT_URL" not in made:
        entry, where = made["S3_ENDPOINT"]
        value = entry.get("value")
        if value is None:
            report.append(f"{where}: S3_ENDPOINT is in a secret; put its URL, http:// and all, into AWS_ENDPOINT_URL")
        else:
            secure = made.get("S3_USE_HTTPS", ({}, ""))[0].get("value", "1") not in ("0", "false", "False")
            url = value if "://" in value else f"{'https' if secure else 'http'}://{value}"
            made["AWS_ENDPOINT_URL"] = ({"value": url}, f"S3_ENDPOINT of {where}")
    if "S3_VERIFY_SSL" in made:
        report.append(
            f"{made['S3_VERIFY_SSL'][1]}: S3_VERIFY_SSL is not read here; AWS_CA_BUNDLE names a file of certificates"
        )
