"""Each trap that the linter knows: found where it is, and nothing found where it is not."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rayservice import schema
from rayservice.cli import app
from rayservice.documents import Document, DocumentError, read
from rayservice.lint import lint, unchecked
from rayservice.lint_cluster import selects
from rayservice.quantities import number
from rayservice.render import render, write
from rayservice.yaml_text import dump
from serve_app import catalog as catalogs
from tests.rayservice.catalogs import NVIDIA, catalog, documents, model, parsed, shared

OF = catalog(
    model("a", resources={"gpu": 0.5, "pool": "gpu"}),
    model("b", resources={"gpu": 0.5, "pool": "gpu"}),
    model("c", resources={"gpu": 0.8, "pool": "arc"}),
    pools=[NVIDIA, {"name": "arc", "kind": "intel-i915", "cpu": 8, "memory": "16GiB"}],
    cluster={"auth_secret": "token"},
)
GOOD = {name: parsed(text) for files in render(OF, "test") for name, text in files.items()}
Change = Callable[[dict[str, Any]], object]


def linted(change: Change = lambda _: None, file: str = "rayservice.yaml", leave: tuple[str, ...] = ()) -> list[str]:
    """What is found after one change to one file, in those of `GOOD`."""
    changed = copy.deepcopy({name: data for name, data in GOOD.items() if name not in leave})
    change(changed[file])
    return [str(one) for one in lint(Document(name, data) for name, data in changed.items())]


def cluster(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["rayClusterConfig"]
    return found


def group(manifest: dict[str, Any], at: int) -> dict[str, Any]:
    found: dict[str, Any] = cluster(manifest)["workerGroupSpecs"][at]
    return found


def serve(change: Change) -> Change:
    """A change of what `serveConfigV2` says."""

    def changed(manifest: dict[str, Any]) -> None:
        config = parsed(manifest["spec"]["serveConfigV2"])
        change(config)
        manifest["spec"]["serveConfigV2"] = dump(config)

    return changed


def deployment(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = config["applications"][0]["deployments"]
    return next(one for one in found if one["name"] == name)


def graph(step: dict[str, Any]) -> dict[str, Any]:
    return {"name": "g", "nodes": {"root": {"routerType": "Sequence", "steps": [step]}}}


def test_nothing_is_wrong_with_what_is_rendered() -> None:
    assert linted() == []


HEAD_PORTS = [{"name": "metrics", "containerPort": 8080}]
BAD: dict[str, tuple[Change, str]] = {
    "unknown key": (lambda m: m["spec"].update(colour="red"), "'colour' was unexpected"),
    "null": (lambda m: m["spec"].update(suspend=None), "spec.suspend: None is not of type 'boolean'"),
    "no rayClusterConfig": (lambda m: m["spec"].pop("rayClusterConfig"), "'rayClusterConfig' is a required property"),
    "integer rayStartParams": (
        lambda m: cluster(m)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        "rayStartParams.num-cpus: 0 is not of type 'string'",
    ),
    "a list's key twice": (
        lambda m: group(m, 0)["template"]["spec"]["containers"][0]["env"].append({"name": "RAY_USAGE_STATS_ENABLED"}),
        "is there twice by name",
    ),
    "serveConfigV2 as a mapping": (lambda m: m["spec"].update(serveConfigV2={}), "{} is not of type 'string'"),
    "old version": (lambda m: m.update(apiVersion="ray.io/v1alpha1"), "ray.io/v1alpha1 is not served"),
    "long name": (lambda m: m["metadata"].update(name="x" * 48), "has 48 letters; KubeRay takes 47"),
    "name not DNS-1035": (lambda m: m["metadata"].update(name="1st"), "'1st' is not a DNS label"),
    "unknown upgrade": (
        lambda m: m["spec"].update(upgradeStrategy={"type": "Rolling"}),
        "'Rolling' is none of NewCluster, NewClusterWithIncrementalUpgrade, None",
    ),
    "IncrementalUpgrade with aliases": (
        lambda m: m["spec"].update(upgradeStrategy={"type": "NewClusterWithIncrementalUpgrade"}),
        "under which there is no stack-serve-svc",
    ),
    "terminal annotation": (
        lambda m: m["metadata"].update(annotations={"ray.io/initializing-timeout": "5m"}),
        "gives the RayService up for good",
    ),
    "another manager": (lambda m: m["spec"].update(managedBy="me"), "spec.managedBy: 'me' is none of"),
    "serveService without serve": (
        lambda m: m["spec"].update(serveService={"spec": {"ports": [{"name": "http", "port": 80}]}}),
        "none is named `serve`",
    ),
    "token without a secret": (lambda m: cluster(m)["authOptions"].pop("secretName"), "mode token needs secretName"),
    "secret without token": (lambda m: cluster(m)["authOptions"].pop("mode"), "without effect unless mode is token"),
    "shared Redis": (
        lambda m: cluster(m).update(gcsFaultToleranceOptions={"redisAddress": "r:1", "externalStorageNamespace": "x"}),
        "externalStorageNamespace: leave it out",
    ),
    "first autoscaler": (
        lambda m: cluster(m).update(enableInTreeAutoscaling=True),
        "autoscalerOptions.version: say v2",
    ),
    "head ports partly listed": (
        lambda m: cluster(m)["headGroupSpec"]["template"]["spec"]["containers"][0].update(ports=HEAD_PORTS),
        "dashboard, serve not listed",
    ),
    "replicas on the head": (
        lambda m: cluster(m)["headGroupSpec"]["rayStartParams"].pop("num-cpus"),
        "replicas may run on the head",
    ),
    "minReplicas over maxReplicas": (lambda m: group(m, 0).update(minReplicas=2), "minReplicas: 2 is over maxReplicas"),
    "replicas out of bounds": (lambda m: group(m, 0).update(replicas=2), "replicas: 2 is not between"),
    "i915 without num-gpus": (
        lambda m: group(m, 1)["rayStartParams"].pop("num-gpus"),
        "KubeRay does not take gpu.intel.com/i915 for GPUs: set num-gpus",
    ),
    "serveConfigV2 that is no YAML": (
        lambda m: m["spec"].update(serveConfigV2="a: [b"),
        "is not YAML of a Serve config",
    ),
    "serveConfigV2 without applications": (lambda m: m["spec"].update(serveConfigV2="a: 1"), "no list of applications"),
    "import path": (
        serve(lambda c: c["applications"][0].update(import_path="serve_app:make")),
        "import_path 'serve_app:make' does not resolve: AttributeError",
    ),
    "module": (
        serve(lambda c: c["applications"][0].update(import_path="no_such.module:app")),
        "does not resolve: ModuleNotFoundError",
    ),
    "unknown argument": (serve(lambda c: c["applications"][0]["args"].update(models=1)), "args: "),
    "catalog that is not there": (
        serve(lambda c: c["applications"][0].update(args={"catalog": "nowhere.yaml"})),
        "args: no catalog 'nowhere.yaml'",
    ),
    "unknown engine": (
        serve(lambda c: c["applications"][0]["args"]["structure"]["a"][0].update(engine="foo")),
        "a: unknown engine 'foo'; have: ",
    ),
    "deployment that is not there": (
        serve(lambda c: deployment(c, "a").update(name="z")),
        "deployment 'z' is not of this",
    ),
    "model name that does not resolve": (
        serve(lambda c: deployment(c, "a")["user_config"]["models"].update(z={"source": "x"})),
        "z: either in args or in user_config",
    ),
    "gateway's model on no deployment": (
        serve(lambda c: deployment(c, "gateway")["user_config"]["models"][0].update(deployment="z")),
        "model 'a' is on deployment 'z', which there is not",
    ),
    "gateway's settings": (
        serve(lambda c: deployment(c, "gateway")["user_config"].update(colour="red")),
        "user_config of gateway: ('colour',)",
    ),
    "model's settings": (
        serve(lambda c: deployment(c, "a")["user_config"]["models"]["a"].update(colour="red")),
        "user_config of a: ('colour',)",
    ),
    "engine's options": (
        serve(lambda c: deployment(c, "a")["user_config"]["models"]["a"].update(options={"colour": "red"})),
        "user_config of a: ('colour',)",
    ),
    "claim that no pod mounts": (
        serve(lambda c: deployment(c, "a")["user_config"]["models"]["a"].update(source="pvc://models/a")),
        "a: no claim is mounted at /mnt/claims/models in the pods of gpu",
    ),
    "graph's model that is not there": (
        serve(lambda c: deployment(c, "gateway")["user_config"].update(graphs=[graph({"serviceName": "z"})])),
        "graphs[0] (g).nodes.root.steps[0].serviceName: no model 'z'; have: a, b, c",
    ),
    "graph's path that is not there": (
        serve(
            lambda c: deployment(c, "gateway")["user_config"].update(graphs=[graph({"serviceName": "a", "path": "/x"})])
        ),
        "steps[0].path: a, of engine ",
    ),
    "deployment key that is dropped": (
        serve(lambda c: deployment(c, "a").update(num_gpus=1)),
        "deployment key 'num_gpus'",
    ),
    "actor key that is dropped": (
        serve(lambda c: deployment(c, "a")["ray_actor_options"].update(gpus=1)),
        "actor key 'gpus' is unknown",
    ),
    "value that Ray Serve refuses": (serve(lambda c: deployment(c, "a").update(num_replicas=-1)), "num_replicas"),
    "fractions over one": (
        serve(lambda c: deployment(c, "b")["ray_actor_options"].update(num_gpus=0.7)),
        "a needs 0.5 GPU, 1 CPU on gpu, where there is no room beside b",
    ),
    "CPUs over the pods'": (
        serve(lambda c: deployment(c, "b")["ray_actor_options"].update(num_cpus=15.5)),
        "on gpu, where there is no room",
    ),
    "more GPUs than a pod has": (
        serve(lambda c: deployment(c, "c")["ray_actor_options"].update(num_gpus=2)),
        "c: no group has 2 GPU, 1 CPU and labels {'pool': 'arc'}",
    ),
    "label that no group has": (
        serve(lambda c: deployment(c, "c")["ray_actor_options"].update(label_selector={"pool": "x"})),
        "c: no group has 0.8 GPU, 1 CPU and labels {'pool': 'x'}",
    ),
}


@pytest.mark.parametrize(("change", "finding"), BAD.values(), ids=BAD.keys())
def test_a_trap_is_found(change: Change, finding: str) -> None:
    found = linted(change)
    assert any(finding in line for line in found), found


MOUNT = {"name": "x", "mountPath": "/mnt/claims/models"}
HARMLESS: dict[str, Change] = {
    "name of 47 letters": lambda m: m["metadata"].update(labels={"x": "y"}),
    "no ports at all on the head": lambda m: cluster(m)["headGroupSpec"]["template"]["spec"]["containers"][0].pop(
        "ports"
    ),
    "autoscaler v2": lambda m: cluster(m).update(enableInTreeAutoscaling=True, autoscalerOptions={"version": "v2"}),
    "more replicas where there may be": lambda m: group(m, 0).update(maxReplicas=3, replicas=2),
    "NVIDIA needs no num-gpus": lambda m: group(m, 0)["rayStartParams"].pop("num-cpus"),
    "NewCluster with aliases": lambda m: m["spec"].update(upgradeStrategy={"type": "NewCluster"}),
    "managed by Kueue": lambda m: m["spec"].update(managedBy="kueue.x-k8s.io/multikueue"),
    "any of two pools": serve(
        lambda c: deployment(c, "a")["ray_actor_options"].update(label_selector={"pool": "in(gpu, other)"})
    ),
    "replicas on several groups": serve(
        lambda c: deployment(c, "gateway").update(autoscaling_config={"min_replicas": 2, "max_replicas": 2})
    ),
    "replicas that need both groups": serve(
        lambda c: (
            deployment(c, "a")["ray_actor_options"].update(num_gpus=0.2, label_selector={}),
            deployment(c, "a").update(autoscaling_config={"min_replicas": 3, "max_replicas": 3}),
        )
    ),
    "a claim that is mounted": lambda m: (
        serve(lambda c: deployment(c, "a")["user_config"]["models"]["a"].update(source="pvc://models/a"))(m),
        group(m, 0)["template"]["spec"]["containers"][0].update(volumeMounts=[MOUNT]),
    ),
    "another application": serve(
        lambda c: c["applications"].append({"name": "other", "route_prefix": "/other", "import_path": "serve_app:app"})
    ),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_is_harmless_is_not_complained_of(change: Change) -> None:
    assert linted(change) == []


ALIASES: dict[str, tuple[Change, str]] = {
    "name of no model": (
        lambda s: s["metadata"].update(name="z-predictor"),
        "no model or graph of stack has this alias",
    ),
    "another model's label": (
        lambda s: s["metadata"].update(labels={"serving.kserve.io/inferenceservice": "b"}),
        "is 'b', and this is 'a'",
    ),
    "target that is not there": (
        lambda s: s["spec"].update(externalName="other-serve-svc.default.svc.cluster.local"),
        "is no Service of these files; have: stack-serve-svc",
    ),
    "port that the target lacks": (lambda s: s["spec"].update(ports=[{"port": 80}]), "80 is not a port of the Service"),
    "twice": (lambda s: s["metadata"].update(name="b-predictor"), "is in a-predictor.yaml too"),
    "KubeRay's own name": (lambda s: s["metadata"].update(name="stack-head-svc"), "is what KubeRay calls a Service"),
}


@pytest.mark.parametrize(("change", "finding"), ALIASES.values(), ids=ALIASES.keys())
def test_an_alias_that_leads_nowhere_is_found(change: Change, finding: str) -> None:
    found = linted(change, "a-predictor.yaml")
    assert any(finding in line for line in found), found


def test_an_alias_port_that_serve_service_opens_is_right() -> None:
    def http(manifest: dict[str, Any]) -> None:
        manifest["spec"]["serveService"] = {"spec": {"ports": [{"name": "serve", "port": 80, "targetPort": 8000}]}}

    found = linted(http, leave=("serve-service.yaml",))
    assert [line.partition(":")[0] for line in found] == ["a-predictor.yaml", "b-predictor.yaml", "c-predictor.yaml"]
    assert all("8000 is not a port of the Service behind it, which has 80" in line for line in found)


def test_aliases_alone_are_judged_alone() -> None:
    assert not lint([Document("x", GOOD["a-predictor.yaml"])])


def test_the_schema_is_the_one_that_kuberay_has() -> None:
    assert schema.SCHEMA.read_text() == shared("schemas/rayservice-v1.openapi.json").read_text()


@pytest.mark.parametrize(
    ("selector", "labels", "taken"),
    [
        ({}, {}, True),
        ({"pool": "a"}, {"pool": "a"}, True),
        ({"pool": "a"}, {}, False),
        ({"pool": "!a"}, {"pool": "a"}, False),
        ({"pool": "!a"}, {}, True),
        ({"pool": "in(a, b)"}, {"pool": "b"}, True),
        ({"pool": "!in(a, b)"}, {"pool": "b"}, False),
    ],
)
def test_label_selectors_are_read_as_ray_reads_them(
    selector: dict[str, str], labels: dict[str, str], taken: bool
) -> None:
    assert selects(selector, labels) is taken


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), ("1Gi", 1 << 30), (2, 2), ("1.5k", 1500), ("64M", 64e6)])
def test_quantities(text: object, value: float) -> None:
    assert float(number(text)) == value


@pytest.mark.parametrize("text", ["", "x", "1GiB", "Gi", None])
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        number(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [b", "is not valid YAML"),
        ("- 1", "no Kubernetes object"),
        ("a: 1\na: 2", "is not valid YAML"),
        (None, "read"),
    ],
)
def test_files_that_hold_no_objects_are_refused(tmp_path: Path, text: str | None, complaint: str) -> None:
    file = tmp_path / "x.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DocumentError, match=complaint):
        read([file])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{apiVersion: v1, kind: List, items: [3]}", r"x.yaml: items\[0\]: 3 is not a Kubernetes object"),
        ("{apiVersion: v1, kind: List, items: 3}", "x.yaml: List: items: 3 is not a list of objects"),
        ("{apiVersion: v1, kind: Service, metadata: 3}", "x.yaml: Service: metadata: 3 is not an object"),
        ("{apiVersion: v1, kind: Service, spec: [1]}", r"x.yaml: Service: spec: \[1\] is not an object"),
    ],
)
def test_objects_in_no_shape_are_refused_with_file_and_place(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(DocumentError, match=complaint):
        read([tmp_path / "x.yaml"])


def own(folder: str, named: str, **rest: Any) -> list[Document]:
    options = {"options": {"class": named}}
    return documents(
        catalog(model("a", engine="python", source=f"file://{folder}", **options, **rest), layout="per-model")
    )


@pytest.mark.parametrize(
    ("named", "finding"),
    [
        ("nomodule:Thing", "options.class: there is no module 'nomodule' in "),
        ("code:Nope", "options.class: module code in .* has no Nope; its classes: Mine"),
        ("broken:Mine", "broken.py is not Python"),
        ("code:Mine", ""),
        ("code:Borrowed", ""),
        ("open:Anything", ""),
        ("json.decoder:JSONDecoder", ""),
    ],
)
def test_classes_at_hand_are_looked_for_and_not_run(tmp_path: Path, named: str, finding: str) -> None:
    code = "from json import JSONDecoder as Borrowed\nraise SystemExit\nclass Mine: pass"
    for file, text in {"code": code, "broken": "class Mine", "open": "from json import *"}.items():
        (tmp_path / f"{file}.py").write_text(text)
    found = lint(own(str(tmp_path), named))
    assert [bool(re.search(finding, str(one))) for one in found] == [True] * bool(finding), found
    assert unchecked(own(str(tmp_path), named)) == []


def test_a_catalogs_classes_are_looked_for_too(tmp_path: Path) -> None:
    model_ = f"{{name: a, engine: python, source: file://{tmp_path}, options: {{class: mine:Mine}}}}"
    (tmp_path / "c.yaml").write_text(f"models: [{model_}]")
    refused = CliRunner().invoke(app, ["catalog", "check", str(tmp_path / "c.yaml")])
    assert "a: options.class: there is no module 'mine'" in str(refused.exception)
    assert str(tmp_path) in str(refused.exception)
    (tmp_path / "mine.py").write_text("class Mine: pass")
    assert CliRunner().invoke(app, ["catalog", "check", str(tmp_path / "c.yaml")]).exit_code == 0


def test_classes_elsewhere_are_said_to_be_unchecked() -> None:
    around = {"class": "t:T", "source": "hf://org/code", "resources": {"cpu": 1}}
    given = own("/nowhere", "model:Model", transformer=around, explainer={"class": "e:E"})
    assert lint(given) == []
    said = [str(one).partition("user_config of ")[2] for one in unchecked(given)]
    assert said == [
        "a: options.class model:Model: file:///nowhere is not on this machine",
        "a: explainer.class e:E: file:///nowhere is not on this machine",
        "a: transformer.class t:T: hf://org/code is not on this machine",
    ]


def test_an_alias_in_no_shape_is_a_finding() -> None:
    found = linted(lambda one: one["spec"].update(ports=80), "a-predictor.yaml")
    assert any("a-predictor: cannot be looked into" in line for line in found)


def test_a_lint_that_checked_nothing_fails_and_says_what_it_takes(tmp_path: Path) -> None:
    for given, held in (("", "nothing"), ("{apiVersion: v1, kind: Pod, metadata: {name: a}}", "Pod a")):
        (tmp_path / "x.yaml").write_text(given)
        shown = CliRunner().invoke(app, ["lint", str(tmp_path / "x.yaml")])
        assert shown.exit_code == 1
        assert "lint takes manifests, RayService and Service; these files hold " + held in shown.output
    named = CliRunner().invoke(app, ["lint", "homelab"])
    assert isinstance(named.exception, DocumentError)
    assert "homelab is the name of a catalog, and lint takes manifests" in named.exception.message


def test_a_number_that_is_none_is_found_with_its_deployment() -> None:
    def halve(config: dict[str, Any]) -> None:
        deployment = next(one for one in config["applications"][0]["deployments"] if one["name"] == "a")
        deployment["ray_actor_options"]["num_gpus"] = "half"

    found = linted(serve(halve))
    assert any("(a).ray_actor_options.num_gpus: Input should be a valid number" in line for line in found)
    assert any("deployment a: ray_actor_options or replicas cannot be read" in line for line in found)


def test_the_command_lists_what_is_wrong_and_exits_with_1(tmp_path: Path) -> None:
    files, aliases = render(catalogs.load("homelab"), "test")
    write(files, tmp_path)
    write(aliases, tmp_path / "aliases")
    assert CliRunner().invoke(app, ["lint", str(tmp_path)]).output == "nothing wrong\n"
    text = (tmp_path / "rayservice.yaml").read_text()
    (tmp_path / "rayservice.yaml").write_text(text.replace("num-cpus: '0'", "num-cpus: 0"))
    shown = CliRunner().invoke(app, ["lint", str(tmp_path)])
    assert shown.exit_code == 1
    assert (
        "rayservice.yaml: RayService ai-inference: spec.rayClusterConfig.headGroupSpec.rayStartParams" in shown.output
    )
