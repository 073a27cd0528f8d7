"""KServe's manifests become a catalog that is valid, renders, and passes lint; nothing is lost in silence."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from deployments import engines
from rayservice.cli import app
from rayservice.documents import Document, DocumentError, read
from rayservice.kserve import convert
from rayservice.kserve.runtimes import arguments
from rayservice.lint import lint
from serve_app import catalog as catalogs
from serve_app.catalog import Catalog
from serve_app.model import Model
from tests.rayservice.catalogs import documents, parsed, shared


def service(predictor: dict[str, Any], name: str = "m", **metadata: Any) -> Document:
    data = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "ml"} | metadata,
        "spec": {"predictor": predictor},
    }
    return Document("m.yaml", data)


def kind(kind: str, name: str, spec: dict[str, Any], **rest: Any) -> Document:
    return Document("x.yaml", {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **rest}, "spec": spec})


def imported(*given: Document) -> tuple[Catalog, list[str]]:
    """The catalog, which renders and passes lint, and the report."""
    text, report = convert(given)
    found = catalogs.parse(parsed(text))
    assert not lint(documents(found))
    for line in report:
        assert f"# Not carried over: {line}" in text
    return found, report


def only(predictor: dict[str, Any], *others: Document) -> tuple[Model, list[str]]:
    found, report = imported(service(predictor), *others)
    assert len(found.models) == 1
    return found.models[0], report


def sklearn(**rest: Any) -> dict[str, Any]:
    return {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "file:///models/iris"} | rest}


def test_all_examples_import_together() -> None:
    found, report = imported(*read([shared("kserve-examples")]))
    by_name = {model.name: model for model in found.models}
    assert set(by_name) == {"llama-inference", "llm-service", "multi-model-service", "sklearn-iris", "whisper"}
    assert (found.name, found.namespace) == ("ai-inference", "ai-ml")
    llm = by_name["llm-service"]
    assert (llm.engine, llm.source) == ("vllm", "file:///mnt/claims/model-cache/models/qwen-32b")
    assert llm.options == {"tensor_parallel_size": 2, "max_model_len": 32768}
    assert (llm.resources.gpu, llm.resources.cpu, llm.resources.memory) == (2, 4, 32 << 30)
    pools = {pool.name: pool for pool in found.pools}
    a10 = pools[str(llm.resources.pool)]
    assert (a10.gpus, a10.gpu_memory, a10.selector) == (2, 24 << 30, {"nvidia.com/gpu.product": "NVIDIA-A10"})
    assert [toleration.key for toleration in a10.tolerations] == ["nvidia.com/gpu"]
    assert [(volume.claim, volume.path) for volume in a10.volumes] == [("model-cache", "/mnt/claims/model-cache")]
    assert pools[str(by_name["llama-inference"].resources.pool)].gpu_memory == 40 << 30
    assert by_name["sklearn-iris"].engine == "sklearn"
    assert by_name["whisper"].engine == "faster_whisper"
    assert by_name["whisper"].scaling.max == 3
    assert [(v.name, v.secret and v.secret.key, v.value) for v in found.cluster.env] == [
        ("AWS_ACCESS_KEY_ID", "accesskey", None),
        ("AWS_SECRET_ACCESS_KEY", "secretkey", None),
        ("S3_ENDPOINT", None, "http://minio.minio-system.svc:9000"),
        ("AWS_ENDPOINT_URL", None, "http://minio.minio-system.svc:9000"),
    ]
    assert found.cluster.alias_namespaces["llm-service"] == ("ai-hub",)
    for said in (
        "serving.kserve.io/metric: gpu-utilization",
        "the image ghcr.io/org/whisper:latest",
        "Sequence of bge-embedder, vector-search, qwen-llm; not in these files: bge-embedder, vector-search, qwen-llm",
        "Sequence of embedder, retriever ['data': '$response'], llm ['data': '$response']; not in these files: emb",
        "PersistentVolumeClaim model-cache is in ai-hub; the pods are in ai-ml",
    ):
        assert any(said in line for line in report), said


EXAMPLES = ["llama-inference", "llm-service-inference", "sklearn-iris-inference", "whisper-inference"]


@pytest.mark.parametrize("name", [f"{name}service.yaml" for name in EXAMPLES] + ["multi-model-triton.yaml"])
def test_each_example_with_a_model_imports_alone(name: str) -> None:
    found, _ = imported(*read([shared(f"kserve-examples/{name}")]))
    assert len(found.models) == 1


OTHERS = [
    "minio-clusterstoragecontainer",
    "model-cache-pvc",
    "rag-pipeline-inferencegraph",
    "rag-pipeline-as-documented",
]


@pytest.mark.parametrize("name", [*OTHERS, "vllm-runtime-servingruntime", "whisper-alias-service"])
def test_each_example_without_a_model_is_told_that_it_has_none(name: str) -> None:
    files = read([shared(f"kserve-examples/{name}.yaml")])
    with pytest.raises(DocumentError, match=f"no InferenceService in these files.*found: {files[0].kind}"):
        convert(files)
    imported(service(sklearn()), *files)


def leaves(value: Any) -> list[str]:
    """Every text and number in a manifest."""
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in leaves(one)]
    if isinstance(value, list):
        return [leaf for one in value for leaf in leaves(one)]
    return [str(value)]


def test_nothing_in_the_examples_is_lost_in_silence() -> None:
    """Every value of every example is in the catalog, in its comments, or in the report, in its form there."""
    files = read([shared("kserve-examples")])
    text, report = convert(files)
    everything = (text + "\n".join(report)).lower()
    equal = {  # what has another form in a catalog
        **{"serving.kserve.io/v1beta1": "", "serving.kserve.io/v1alpha1": "", "v1": "", "externalname": ""},
        **{"32gi": "32gib", "2gi": "2gib", "100gi": "stays as it is", "oci-bv": "stays as it is"},
        **{"readwriteonce": "readwriteonce", "true": "", "kserve-container": "", "triton": "triton"},
        **{"storage-initializer": "", "s3://": "", "kserve-torchserve": "by its name a language model", "8000": ""},
        **{"--model=$(model_id)": "", "--tensor-parallel-size=2": "tensor_parallel_size: 2"},
        **{"--max-model-len=32768": "max_model_len: 32768", "onnx": "", "tensorflow": ""},
        **{"ai-inference-serve-svc.ai-ml.svc.cluster.local": "name: ai-inference"},
    }
    for document in files:
        for leaf in leaves(document.data):
            wanted = equal.get(leaf.lower(), leaf.lower())
            assert wanted in everything, f"{leaf} of {document}"


def test_fields_that_nobody_reads_are_reported_as_they_stand() -> None:
    predictor = sklearn(livenessProbe={"httpGet": {"port": 8080}}) | {
        "affinity": {"nodeAffinity": {"x": 1}},
        "volumes": [1],
    }
    _, report = imported(service(predictor, labels={"team": "fraud"}))
    assert [line.partition("m, ")[2] for line in report] == [
        "metadata.labels: {'team': 'fraud'} has no counterpart here",
        "spec.predictor.model.livenessProbe: {'httpGet': {'port': 8080}} has no counterpart here",
        "spec.predictor.affinity: {'nodeAffinity': {'x': 1}} has no counterpart here",
        "spec.predictor.volumes: [1] has no counterpart here",
    ]


@pytest.mark.parametrize(
    ("fmt", "engine"),
    [
        ("sklearn", "sklearn"),
        ("xgboost", "xgboost"),
        ("lightgbm", "lightgbm"),
        ("onnx", "onnx"),
        ("tensorflow", "tensorflow"),
        ("pytorch", "torchscript"),
        ("huggingface", "vllm"),
        ("vLLM", "vllm"),
        ("pmml", None),
        ("mlflow", None),
    ],
)
def test_formats_map_to_engines_and_what_is_not_there_is_said(fmt: str, engine: str | None) -> None:
    model, report = only({"model": {"modelFormat": {"name": fmt}, "storageUri": "file:///models/x"}})
    there = engine in engines.names()
    assert model.engine == (engine if there else "python")
    assert any(f"{fmt}: it would be" in line for line in report) is not there


@pytest.mark.parametrize("key", ["sklearn", "xgboost", "tensorflow", "pytorch", "triton", "onnx", "lightgbm", "pmml"])
def test_the_old_keys_are_formats(key: str) -> None:
    model, report = only({key: {"storageUri": "file:///models/x", "runtimeVersion": "1.2", "protocolVersion": "v2"}})
    assert model.source == "file:///models/x"
    assert any(f"spec.predictor.{key}.runtimeVersion: 1.2" in line for line in report)
    assert not any("protocolVersion" in line for line in report)


def test_v1alpha2_is_read_too() -> None:
    old = service({})
    spec: dict[str, Any] = {"default": {"predictor": {"minReplicas": 2, "sklearn": {"storageUri": "file:///models/x"}}}}
    found, _ = imported(Document("old.yaml", old.data | {"apiVersion": "serving.kubeflow.org/v1alpha2", "spec": spec}))
    assert (found.models[0].engine, found.models[0].scaling.min) == ("sklearn", 2)
    spec = {"default": {"predictor": {"custom": {"container": {"image": "org/whisper:1"}}}}, "canaryTrafficPercent": 10}
    found, report = imported(Document("old.yaml", old.data | {"spec": spec}))
    assert found.models[0].engine == "faster_whisper"
    assert any("canaryTrafficPercent: 10 has no counterpart" in line for line in report)


@pytest.mark.parametrize(
    ("container", "engine", "source"),
    [
        ({"image": "vllm/vllm-openai:v0.8", "args": ["--model", "Qwen/Qwen3-8B"]}, "vllm", "hf://Qwen/Qwen3-8B"),
        (
            {"image": "x/y", "command": ["vllm", "serve", "Qwen/Qwen3-4B", "--port=8080"]},
            "python",
            "hf://Qwen/Qwen3-4B",
        ),
        (
            {"image": "vllm/vllm-openai", "command": ["sh", "-c"], "args": ["vllm serve Qwen/Qwen3-4B --dtype half"]},
            "vllm",
            "hf://Qwen/Qwen3-4B",
        ),
        (
            {"image": "kserve/huggingfaceserver", "args": ["--model_id=BAAI/bge-m3", "--task=text_embedding"]},
            "sentence_transformers",
            "hf://BAAI/bge-m3",
        ),
        ({"image": "org/coqui-server:1"}, "xtts", "hf://coqui/XTTS-v2"),
        ({"image": "org/bge-reranker:1"}, "cross_encoder", "hf://BAAI/bge-reranker-v2-m3"),
        ({"image": "org/fraud:1"}, "python", "file:///models/m"),
    ],
)
def test_custom_images_are_guessed_at_and_the_guess_is_said(
    container: dict[str, Any], engine: str, source: str
) -> None:
    model, report = only({"containers": [{"name": "kserve-container", **container}]})
    assert (model.engine, model.source) == (engine, source)
    assert any(f"the image {container['image']} is not used" in line for line in report)


def test_the_arguments_of_vllm_become_options() -> None:
    words = ["--max-model-len=4096", "--dtype", "half", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    words += ["--served-model-name", "gpt-4o", "chat", "--no-enable-prefix-caching", "--gpu-memory-utilization=0.9"]
    words += ["--port", "8080", "--api-key=$(KEY)", "--no-such-flag", "--hf-overrides", '{"rope_theta": 1e6}']
    found = arguments(words, "vllm")
    assert found.options == {
        "max_model_len": 4096,
        "dtype": "half",
        "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
        "enable_prefix_caching": False,
        "gpu_memory_utilization": 0.9,
        "hf_overrides": {"rope_theta": 1e6},
    }
    assert found.names == ["gpt-4o", "chat"]
    assert [line.partition(":")[0] for line in found.lost] == ["--port", "--api_key", "--no_such_flag"]


def test_a_runtime_is_found_by_its_name_or_by_its_format() -> None:
    runtime = kind(
        "ServingRuntime",
        "mine",
        {
            "supportedModelFormats": [{"name": "vllm", "autoSelect": True}],
            "containers": [
                {
                    "name": "kserve-container",
                    "image": "vllm/vllm-openai",
                    "args": ["--max-model-len=1024"],
                    "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}],
                    "resources": {"requests": {"nvidia.com/gpu": 1}},
                }
            ],
        },
    )
    for named in ({"runtime": "mine"}, {}):
        model = {"modelFormat": {"name": "vllm"}, "storageUri": "hf://a/b", "args": ["--dtype=half"], **named}
        found, _ = imported(service({"model": model}), runtime)
        assert found.models[0].options == {"max_model_len": 1024, "dtype": "half"}
        assert found.models[0].resources.gpu == 1
        assert found.cluster.env[0].secret
        assert found.cluster.env[0].secret.name == "hub"
    _, report = only({"model": {"modelFormat": {"name": "vllm"}, "storageUri": "hf://a/b", "runtime": "theirs"}})
    assert any("theirs is not in these files" in line for line in report)


def test_a_runtime_that_no_model_uses_is_reported() -> None:
    runtime = kind("ServingRuntime", "idle", {"supportedModelFormats": [{"name": "x"}], "containers": [{"image": "y"}]})
    everyones = [kind("ClusterServingRuntime", name, {"containers": [{"image": "y"}]}) for name in ("a", "b")]
    _, report = only(sklearn(), runtime, *everyones)
    assert report == ["no model uses ServingRuntime idle, ClusterServingRuntime a, ClusterServingRuntime b"]


@pytest.mark.parametrize(
    ("predictor", "annotations", "scaling", "reported"),
    [
        ({"minReplicas": 2, "maxReplicas": 5}, {}, (2, 5, 64), None),
        ({"minReplicas": 3}, {}, (3, 3, 64), None),
        ({"minReplicas": 0, "maxReplicas": 3}, {}, None, None),
        ({"scaleTarget": 8, "scaleMetric": "concurrency"}, {}, (1, 1, 8), None),
        ({"scaleTarget": 80, "scaleMetric": "cpu"}, {}, (1, 1, 64), "scaleMetric: cpu; Ray scales by requests"),
        ({"containerConcurrency": 4}, {}, (1, 1, 4), None),
        ({}, {"autoscaling.knative.dev/target": "16", "autoscaling.knative.dev/max-scale": "4"}, (1, 4, 16), None),
        ({}, {"serving.kserve.io/deploymentMode": "RawDeployment"}, (1, 1, 64), "RawDeployment; there is one way"),
    ],
)
def test_replicas_and_annotations_become_scaling(
    predictor: dict[str, Any], annotations: dict[str, str], scaling: tuple[int, int, int] | None, reported: str | None
) -> None:
    found, report = imported(service(sklearn() | predictor, annotations=annotations))
    got = found.models[0].scaling
    assert scaling is None or (got.min, got.max, got.target) == scaling
    if predictor.get("minReplicas") == 0:
        assert got.min == 0 or any("scale to zero is not there; min is 1" in line for line in report)
    assert any((reported or "has no counterpart") in line for line in report) is (reported is not None)


@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("hf://BAAI/bge-m3", "hf://BAAI/bge-m3"),
        ("pvc://cache", "file:///mnt/claims/cache"),
        ("pvc://cache/a/b", "file:///mnt/claims/cache/a/b"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("https://example.com/a.tar.gz", "https://example.com/a.tar.gz"),
    ],
)
def test_storage_uris_become_sources(uri: str, source: str) -> None:
    model, report = only(sklearn(storageUri=uri))
    assert model.source == source
    assert not any("no kind known" in line or "left out" in line for line in report)


@pytest.mark.parametrize(
    ("uri", "says"), [("oci://images/a:1", "copy the image's /models folder"), ("hdfs://a/b", "sources begin with")]
)
def test_a_model_whose_storage_is_out_of_reach_is_left_out_with_the_reason(uri: str, says: str) -> None:
    one = sklearn()
    far = one | {"model": one["model"] | {"storageUri": uri}}
    found, report = imported(service(one, "near"), service(far, "far"))
    assert [model.name for model in found.models] == ["near"]
    assert any(says in line and "InferenceService far" in line and "is left out" in line for line in report)


def test_storage_by_key_is_a_bucket_and_its_secret_is_asked_for() -> None:
    storage = {"key": "minio", "path": "models/iris", "parameters": {"bucket": "b"}}
    model, report = only({"model": {"modelFormat": {"name": "sklearn"}, "storage": storage}})
    assert model.source == "s3://b/models/iris"
    assert any("credentials of key 'minio'" in line for line in report)
    found, _ = imported(service(sklearn(), annotations={"serving.kserve.io/storageSecretName": "keys"}))
    assert found.cluster.env_secrets == ("keys",)


@pytest.mark.parametrize(
    ("resource", "kind", "own"),
    [
        ("nvidia.com/gpu", "nvidia", "nvidia.com/gpu"),
        ("amd.com/gpu", "amd", "amd.com/gpu"),
        ("gpu.intel.com/i915", "intel-i915", "gpu.intel.com/i915"),
        ("gpu.intel.com/xe", "intel-xe", "gpu.intel.com/xe"),
        ("nvidia.com/mig-1g.5gb", "nvidia", "nvidia.com/mig-1g.5gb"),
    ],
)
def test_gpus_decide_the_pool(resource: str, kind: str, own: str) -> None:
    predictor = sklearn(resources={"limits": {resource: "1", "cpu": "500m"}}) | {"nodeSelector": {"zone": "a"}}
    found, _ = imported(service(predictor))
    pool = found.pools[0]
    assert (pool.kind, pool.gpu_resource, pool.selector) == (kind, own, {"zone": "a"})
    assert (found.models[0].resources.pool, found.models[0].resources.cpu) == (pool.name, 0.5)


def test_models_that_want_the_same_machines_share_a_pool() -> None:
    gpu = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    services = [service(sklearn(**gpu) | {"minReplicas": 2}, name) for name in ("a", "b")] + [service(sklearn(), "c")]
    found, _ = imported(*services)
    assert [(pool.kind, pool.nodes) for pool in found.pools] == [("nvidia", 4), ("cpu", 1)]
    assert {model.resources.pool for model in found.models[:2]} == {found.pools[0].name}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"transformer": {"containers": [{"image": "x"}]}},
            "spec.transformer: write it as a class, and name it under the model's transformer:",
        ),
        ({"explainer": {"alibi": {}}}, "spec.explainer: say explainer: on the model in the catalog"),
        ({"canary": [{"x": 1}]}, "spec.canary: deploy the new version under a name of its own"),
    ],
)
def test_other_components_are_reported_with_what_to_do(spec: dict[str, Any], said: str) -> None:
    one = service(sklearn())
    _, report = imported(Document("m.yaml", one.data | {"spec": one.data["spec"] | spec}))
    assert any(said in line for line in report)


@pytest.mark.parametrize(
    "field",
    [
        {"canaryTrafficPercent": 10},
        {"logger": {"mode": "all", "url": "http://x"}},
        {"batcher": {"maxBatchSize": 8}},
        {"workerSpec": {"tensorParallelSize": 4}},
        {"serviceAccountName": "sa"},
    ],
)
def test_what_a_predictor_had_besides_is_reported(field: dict[str, Any]) -> None:
    _, report = only(sklearn() | field)
    assert len([line for line in report if f"spec.predictor.{next(iter(field))}: " in line]) == 1


def test_a_timeout_is_the_models() -> None:
    assert only(sklearn() | {"timeout": 90})[0].timeout == 90


def test_an_alias_names_the_application_and_keeps_its_own_name_and_ports() -> None:
    alias = kind(
        "Service",
        "iris",
        {"type": "ExternalName", "externalName": "stack-serve-svc.prod.svc.cluster.local", "ports": [{"port": 80}]},
        namespace="prod",
        labels={"serving.kserve.io/inferenceservice": "m"},
    )
    found, _ = imported(service(sklearn()), alias)
    assert (found.name, found.namespace, found.models[0].predictor) == ("stack", "prod", "iris")
    assert found.cluster.alias_ports == {80, 8000}
    _, report = imported(service(sklearn(), "other"), alias)
    assert any("its model m is not in these files" in line for line in report)


def test_a_service_that_kserve_made_is_no_alias() -> None:
    made = kind("Service", "m-predictor", {"type": "ClusterIP", "ports": [{"port": 80}]}, labels={"app": "isvc.m"})
    found, report = imported(service(sklearn()), made)
    assert found.cluster.alias_ports == {8000}
    assert report == [
        "x.yaml: Service m-predictor: it is no ExternalName; a Service that KServe made goes with its InferenceService"
    ]


def test_a_list_as_kubectl_gives_it_is_read_and_what_the_server_wrote_is_left_out(tmp_path: Path) -> None:
    one = service(sklearn(), uid="1", resourceVersion="2", creationTimestamp="now").data | {
        "status": {"url": "http://x"}
    }
    file = tmp_path / "list.yaml"
    with file.open("w") as opened:
        YAML(typ="safe").dump({"apiVersion": "v1", "kind": "List", "items": [one]}, opened)
    found, report = imported(*read([file]))
    assert ([model.name for model in found.models], report) == (["m"], [])


def test_the_same_name_in_two_namespaces_stays_two_models() -> None:
    found, report = imported(service(sklearn()), service(sklearn(), namespace="other"))
    assert [model.name for model in found.models] == ["m", "m-other"]
    assert any("it is m-other here" in line for line in report)


GRAPH: dict[str, dict[str, Any]] = {
    "root": {"routerType": "Sequence", "steps": [{"serviceName": "first"}, {"nodeName": "both"}]},
    "both": {"routerType": "Ensemble", "steps": [{"serviceName": "m"}, {"serviceUrl": "http://elsewhere/x"}]},
    "first": {"serviceName": "m"},
}


def test_a_graph_of_these_models_is_taken_or_said_step_by_step() -> None:
    text, report = convert([service(sklearn()), kind("InferenceGraph", "g", {"nodes": GRAPH})])
    steps = [{"serviceName": "m"}, {"nodeName": "both"}]
    assert parsed(text)["graphs"][0]["nodes"] == {"root": GRAPH["root"] | {"steps": steps}, "both": GRAPH["both"]}
    assert not report
    _, report = convert([service(sklearn(), "other"), kind("InferenceGraph", "g", {"nodes": GRAPH})])
    assert [line.partition("spec.nodes.")[2] for line in report] == [
        "root: Sequence of m, both; not in these files: m, m",
        "both: Ensemble of m, http://elsewhere/x; not in these files: m, m",
    ]


def test_an_unknown_kind_is_reported() -> None:
    _, report = only(sklearn(), kind("TrainedModel", "t", {}))
    assert any("x.yaml: TrainedModel t: this kind is not understood" in line for line in report)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (kind("Service", "s", {}), "there is no InferenceService"),
        (service([]), "not in the shape of an InferenceService"),  # type: ignore[arg-type]
        (service({"model": "x"}), "not in the shape of an InferenceService"),
        (
            service(sklearn(), name="No_DNS"),
            "none of the InferenceServices can be imported:\n.*no catalog takes it: models.0. .No_DNS.[.]name",
        ),
        (service(sklearn() | {"minReplicas": "many"}), "not in the shape of an InferenceService"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(document: Document, complaint: str) -> None:
    with pytest.raises(DocumentError, match=complaint):
        convert([document])


def test_the_command_writes_a_catalog_with_comments_and_replaces_none(tmp_path: Path) -> None:
    file, out = tmp_path / "m.yaml", tmp_path / "catalog.yaml"
    with file.open("w") as opened:
        YAML(typ="safe").dump(service(sklearn() | {"minReplicas": 2}).data, opened)
    shown = CliRunner().invoke(app, ["import", str(file), "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "# m.yaml: InferenceService m, spec.predictor.minReplicas" in out.read_text()
    assert catalogs.load(str(out)).models[0].scaling.min == 2
    again = CliRunner().invoke(app, ["import", str(file), "--out", str(out)])
    assert "is there already" in str(again.exception)
    assert CliRunner().invoke(app, ["import", str(file), "--out", str(out), "--force"]).exit_code == 0
    assert CliRunner().invoke(app, ["render", str(out), "--out", str(tmp_path / "k8s")]).exit_code == 0
    assert CliRunner().invoke(app, ["lint", str(tmp_path / "k8s")]).output == "nothing wrong\n"
