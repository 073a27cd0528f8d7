"""Imports of objects that refer to each other: runtimes, graphs, namespaces; and of some that no catalog takes."""

from typing import Any

import pytest

from rayservice.documents import Document, DocumentError
from rayservice.kserve import convert
from serve_app.graphs.spec import Graph
from tests.rayservice.test_import import imported, kind, only, service, sklearn


def runtime(kind_: str, namespace: str | None, *args: str, **container: Any) -> Document:
    spec = {"supportedModelFormats": [{"name": "vllm"}], "containers": [{"args": list(args), **container}]}
    return kind(kind_, "r", spec, **({"namespace": namespace} if namespace else {}))


def vllm(*args: str, **rest: Any) -> dict[str, Any]:
    return {"model": {"modelFormat": {"name": "vllm"}, "runtime": "r", "args": list(args), **rest}}


def graph(*steps: Any, name: str = "g", namespace: str = "ml", **spec: Any) -> Document:
    nodes = {"root": {"routerType": "Sequence", "steps": list(steps)}}
    return kind("InferenceGraph", name, {"nodes": nodes} | spec, namespace=namespace)


def with_graph(*given: Document) -> tuple[Graph, list[str]]:
    found, report = imported(*given)
    return found.graphs[0], report


def test_the_services_names_are_filled_into_its_runtimes_arguments() -> None:
    words = ["--model_name={{.Name}}", "--served-model-name={{ .Namespace }}-chat", "--dtype={{.Labels.dtype}}"]
    words += ["--max-model-len={{.Annotations.length}}"]
    env = [{"name": "CACHE", "value": "/c/{{.Name}}"}, {"name": "TEAM", "value": "{{.Labels.team}}"}]
    given = service(vllm(storageUri="hf://a/b"))
    given.data["metadata"]["annotations"] = {"length": "7"}
    found, report = imported(given, runtime("ServingRuntime", "ml", *words, env=env))
    assert (found.models[0].aliases, found.models[0].options) == (("ml-chat",), {"max_model_len": 7})
    assert [one.value for one in found.cluster.env] == [f"/c/{found.models[0].name}", "{{.Labels.team}}"]
    assert any("args[2]: --dtype={{.Labels.dtype}}: no value for {{.Labels.dtype}}" in line for line in report)
    assert any("env[1]: TEAM: no value for {{.Labels.team}}" in line for line in report)


def test_variables_in_arguments_are_those_of_the_container() -> None:
    env = [{"name": "ORG", "value": "Qwen"}, {"name": "ID", "value": "$(ORG)/Q"}, {"name": "LEN", "value": "10"}]
    words = ["--model=$(ID)", "--max-model-len=$(LEN)", "--dtype=$(NONE)", "--tokenizer=$$(ID)"]
    found, report = imported(
        service(vllm(env=[{"name": "LEN", "value": "20"}])), runtime("ClusterServingRuntime", None, *words, env=env)
    )
    assert (found.models[0].source, found.models[0].options) == ("hf://Qwen/Q", {"max_model_len": 20})
    assert any("--dtype=$(NONE): no value for $(NONE)" in line for line in report)


def test_a_runtime_is_of_the_services_namespace_or_for_all() -> None:
    one, two = (runtime("ServingRuntime", place, f"--max-model-len={n}") for place, n in (("x", 1), ("ml", 2)))
    everyones = runtime("ClusterServingRuntime", None, "--max-model-len=3")
    model = vllm(storageUri="hf://a/b")
    assert only(model, one, everyones, two)[0].options == {"max_model_len": 2}
    assert only(model, one, everyones)[0].options == {"max_model_len": 3}
    got, report = only(model, one)
    assert got.options == {}
    assert any("r is in namespace x, and not in ml: its arguments are unknown" in line for line in report)


def test_a_graph_asks_the_models_of_its_own_namespace_and_is_found_there() -> None:
    services = service(sklearn()), service(sklearn(), namespace="other")
    there = graph({"serviceName": "m"}, namespace="other", timeout=30)
    found, report = imported(*services, there)
    assert (found.graphs[0].nodes["root"].steps[0].service_name, found.graphs[0].timeout) == ("m-other", 30)
    assert found.cluster.alias_namespaces == {"m-other": ("other",), "g": ("other",)}
    assert not any("InferenceGraph" in line for line in report)
    assert imported(*services, graph({"serviceName": "m"}))[0].graphs[0].nodes["root"].steps[0].service_name == "m"


def test_a_graph_beside_no_model_of_that_name_asks_the_one_there_is() -> None:
    found, report = imported(service(sklearn()), graph({"serviceName": "m"}, namespace="other"))
    assert found.cluster.alias_namespaces == {"g": ("other",)}
    assert any("steps[0]: m is in ml, not in other; it is asked there" in line for line in report)


@pytest.mark.parametrize(
    ("url", "step"),
    [
        ("http://m-predictor.other.svc.cluster.local/v1/models/m:predict", {"serviceName": "m-other"}),
        ("http://m-predictor/v2/models/m/infer", {"serviceName": "m", "path": "/v2/models/m/infer"}),
        ("http://m.other.svc/v2/models/m/infer", {"serviceName": "m-other", "path": "/v2/models/m-other/infer"}),
        ("http://m.elsewhere.svc/x", {"serviceUrl": "http://m.elsewhere.svc/x"}),
        ("http://n.ml/x", {"serviceUrl": "http://n.ml/x"}),
    ],
)
def test_a_url_of_an_imported_service_names_its_model(url: str, step: dict[str, str]) -> None:
    services = service(sklearn()), service(sklearn(), namespace="other")
    got = with_graph(*services, graph({"serviceUrl": url}))[0].nodes["root"].steps[0]
    assert got.model_dump(by_alias=True, exclude_defaults=True) == step


def test_a_step_gets_the_request_whatever_its_data_says_but_response() -> None:
    found, report = with_graph(service(sklearn()), graph({"serviceName": "m", "data": "$foo"}))
    assert found.nodes["root"].steps[0].data == "$request"
    assert any("steps[0].data: $foo; only $response" in line for line in report)


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (graph({"serviceName": "m"}, name="m"), "'m' is used twice"),
        (graph({"serviceName": "m", "condition": "x"}), "the first step of a Sequence has no response before it"),
        (graph({"serviceName": "m", "foo": 1}), "foo: unknown key"),
        (graph("m"), "spec.nodes.root.steps[0]: 'm' is not an object"),
        (kind("InferenceGraph", "g", {"nodes": ["root"]}), "spec.nodes: ['root'] is not nodes by their names"),
        (kind("InferenceGraph", "g", {}), "there is no node 'root'"),
        (service(sklearn(), "No_DNS"), "name: String should match pattern"),
        (service(sklearn(), "v1"), "hides the application's own /v1"),
        (service({"model": 3}, "bad"), "not in the shape of an InferenceService"),
        (service(sklearn(env=["x"]), "bad"), "spec.predictor.model.env[0]: 'x' is not an object"),
        (service(sklearn(args="--x"), "bad"), "spec.predictor.model.args: '--x' is not a list"),
    ],
)
def test_what_no_catalog_takes_is_left_out_with_the_reason(refused: Document, reason: str) -> None:
    kept = graph({"serviceName": "m"}, name="kept")
    found, report = imported(service(sklearn()), refused, kept)
    assert [model.name for model in found.models] == ["m"]
    assert [one.name for one in found.graphs] == ["kept"]
    assert len([line for line in report if reason in line and "is left out" in line]) == 1


def test_a_name_that_two_models_have_in_their_arguments_is_the_firsts() -> None:
    services = [service(vllm("--served-model-name=chat", storageUri="hf://a/b"), name) for name in ("a", "b")]
    found, report = imported(*services, runtime("ServingRuntime", None))
    assert [model.aliases for model in found.models] == [("chat",), ()]
    assert any("InferenceService b: without its aliases: " in line for line in report)


def test_other_objects_in_no_shape_are_refused_with_the_place() -> None:
    alias = kind("Service", "m-predictor", {"type": "ExternalName", "externalName": 5, "ports": 80})
    with pytest.raises(DocumentError, match=r"Service m-predictor, spec.ports: 80 is not a list"):
        convert([service(sklearn()), alias])


def test_a_pool_has_the_memory_of_limits_and_comments_say_whose_resources_they_are() -> None:
    resources = {"requests": {"memory": "1Gi"}, "limits": {"memory": "4Gi"}}
    found, _ = imported(service(sklearn(resources=resources)))
    assert (found.pools[0].memory, found.models[0].resources.memory) == (4 << 30, 1 << 30)
    of_runtime = runtime("ServingRuntime", "ml", resources=resources)
    text, _ = convert([service(vllm(storageUri="hf://a/b")), of_runtime])
    assert "# x.yaml: ServingRuntime r, spec.containers[0].resources (limits: memory 4Gi)" in text


def test_the_formats_of_a_storage_container_are_reported() -> None:
    spec = {"container": {"image": "x"}, "supportedUriFormats": [{"prefix": "s3://"}, {"regex": "https://(.+?).blob"}]}
    _, report = imported(service(sklearn()), kind("ClusterStorageContainer", "c", spec))
    assert any("spec.supportedUriFormats: s3://, https://(.+?).blob; sources here are" in line for line in report)


@pytest.mark.parametrize(
    ("given", "url", "said"),
    [
        ({"S3_ENDPOINT": "minio:9000", "S3_USE_HTTPS": "0"}, "http://minio:9000", ""),
        ({"S3_ENDPOINT": "minio:9000", "S3_VERIFY_SSL": "0"}, "https://minio:9000", "S3_VERIFY_SSL is not read here"),
        ({"S3_ENDPOINT": "a:1", "AWS_ENDPOINT_URL": "http://b:2"}, "http://b:2", ""),
        ({"S3_ENDPOINT": None}, None, "S3_ENDPOINT is in a secret"),
    ],
)
def test_a_stores_address_is_also_what_all_clients_of_s3_call_it(
    given: dict[str, str | None], url: str | None, said: str
) -> None:
    secret = {"secretKeyRef": {"name": "minio", "key": "url"}}
    env = [{"name": k, "value": v} if v else {"name": k, "valueFrom": secret} for k, v in given.items()]
    found, report = imported(service(sklearn(env=env)))
    assert {one.name: one.value for one in found.cluster.env}.get("AWS_ENDPOINT_URL") == url
    assert said in "\n".join(report)
