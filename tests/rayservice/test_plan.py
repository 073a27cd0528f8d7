"""Plans for people: what does not fit is named, with what would help; estimates are computed from the files."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.gpu import CONTEXT_BYTES
from rayservice.cli import app
from rayservice.estimate import Estimate, estimate, kv_cache_bytes, weight_bytes
from rayservice.plan import PlanError, grows, plan
from rayservice.plan_screen import doubts
from serve_app import catalog as catalogs
from tests.rayservice.catalogs import NVIDIA, catalog, model

LLAMA_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("models", "complaint"),
    [
        (
            [model("a", resources={"gpu": 0.7}), model("b", resources={"gpu": 0.5})],
            "b needs 0.5 GPU, 1 CPU on pool gpu, and there is no room; what would help: one more machine in gpu; "
            "or at most 0.3 of a GPU of gpu",
        ),
        (
            [model("a", resources={"vram": "20GiB"}), model("b", resources={"vram": "6GiB"})],
            "b needs 0.25 GPU, 1 CPU on pool gpu, and there is no room; what would help: one more machine in gpu; "
            "or at most 0.1666 of a GPU of gpu",
        ),
        (
            [model("a", resources={"cpu": 20})],
            "a needs 20 CPU on pool gpu, and there is no room; what would help: fewer CPUs for it, or more of them in "
            "the pool",
        ),
        (
            [model("a", resources={"memory": "65GiB"})],
            "a needs 1 CPU, 65.0GiB of memory on pool gpu, and there is no room; what would help: less memory for it, "
            "or more of it in the pool",
        ),
        (
            [model("a", resources={"gpu": 0.6}, scaling={"min": 2, "max": 2})],
            "a needs 0.6 GPU, 1 CPU 2 times on pool gpu, and there is no room; what would help: one more machine in "
            "gpu; or fewer replicas",
        ),
        (
            [model("a", resources={"gpu": 4})],
            "a needs 4 GPUs on one machine, which no pool has: gpu has 1 of nvidia, 24.0GiB each",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_what_would_help(models: list[Any], complaint: str) -> None:
    assert plan(catalog(*models, pools=[NVIDIA])).complaints == (complaint,)


def test_a_pool_may_have_as_many_machines_as_it_may_grow_to() -> None:
    models = [model("a", resources={"gpu": 1}, scaling={"min": 2, "max": 3})]
    assert plan(catalog(*models, pools=[NVIDIA])).complaints
    grown = catalog(*models, pools=[NVIDIA | {"max_nodes": 2}])
    assert not plan(grown).complaints
    assert not grows(grown)
    assert grows(catalog(*models, pools=[NVIDIA | {"max_nodes": 3}]))


def test_a_share_of_memory_is_of_no_card_whose_memory_nobody_says() -> None:
    pools = [NVIDIA, {"name": "small", "kind": "nvidia", "cpu": 16, "memory": "64GiB"}]
    models = [model("a", resources={"vram": "20GiB"}), model("b", resources={"vram": "6GiB"})]
    found = plan(catalog(*models, pools=pools))
    assert [place.pool for place in found.packing.places if place.name == "a"] == ["gpu"]
    assert len(found.complaints) == 1
    assert found.complaints[0].startswith("b needs 0.25 GPU, 1 CPU on pool gpu, and there is no room")
    assert found.complaints[0].endswith("; small: no gpu_memory is said, which vram is a part of")
    of_all = plan(catalog(*models, pools=pools, gpu_memory="8GiB"))
    assert not of_all.complaints
    assert of_all.catalog.models[1].resources.model_dump(include={"pool", "gpu"}) == {"pool": "small", "gpu": 0.75}
    shown = plan(catalog(model("a", resources={"gpu": 4}), pools=pools)).complaints[0]
    assert shown.endswith("gpu has 1 of nvidia, 24.0GiB each, small has 1 of nvidia, and says no gpu_memory")


def test_a_name_too_long_for_kuberay_is_refused_before_it_is_rendered() -> None:
    with pytest.raises(PlanError, match="has 50 letters; KubeRay takes 47"):
        plan(catalogs.parse({"name": "a" * 50, "models": [model("a")]}))


def test_models_in_the_gateway_take_no_place_of_their_own_and_those_on_demand_one() -> None:
    of = catalog(
        model("a", inline=True),
        model("b", load="on-demand"),
        model("c", load="on-demand"),
        pools=[NVIDIA],
        on_demand={"resources": {"vram": "12GiB"}},
    )
    found = plan(of)
    assert sorted(place.name for place in found.packing.places) == ["gateway-0", "on-demand"]
    assert found.catalog.on_demand.resources.gpu == 0.5
    assert found.catalog.on_demand.resources.pool == "gpu"


def safetensors(file: Path, **tensors: tuple[str, list[int]]) -> None:
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)


def test_weights_are_counted_as_they_are_when_loaded(tmp_path: Path) -> None:
    safetensors(tmp_path / "x.safetensors", a=("F32", [1000, 1000]), b=("I8", [500]), c=("F8_E4M3", [8, 8]))
    assert weight_bytes(tmp_path / "x.safetensors") == 4_000_000 + 500 + 64
    assert weight_bytes(tmp_path / "x.safetensors", float_bits=16) == 2_000_000 + 500 + 64


@pytest.mark.parametrize(
    ("config", "options", "tokens", "size"),
    [
        # 2 x 32 layers x 8 heads x 128 x 2 bytes = 131,072 bytes a token: Llama 3's, as widely published.
        (LLAMA_8B, {"max_model_len": 8192}, 8192, 8192 * 131_072),
        (LLAMA_8B, {}, 131_072, 131_072 * 131_072),
        (LLAMA_8B, {"max_model_len": 8192, "kv_cache_dtype": "fp8"}, 8192, 8192 * 65_536),
        ({"text_config": LLAMA_8B}, {"max_model_len": 1024}, 1024, 1024 * 131_072),
        (LLAMA_8B | {"head_dim": 64}, {"max_model_len": 1024}, 1024, 1024 * 65_536),
        (LLAMA_8B | {"torch_dtype": "float32"}, {"context_length": 1024}, 1024, 1024 * 262_144),
        ({}, {"max_model_len": 1024}, 0, 0),
    ],
)
def test_kv_cache_of_one_text(config: dict[str, Any], options: dict[str, Any], tokens: int, size: int) -> None:
    assert kv_cache_bytes(config, options) == (tokens, size)


def test_an_estimate_says_what_it_is_made_of(tmp_path: Path) -> None:
    safetensors(tmp_path / "model-1.safetensors", a=("BF16", [1 << 20, 512]))
    safetensors(tmp_path / "model-2.safetensors", b=("BF16", [1 << 20, 512]))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    options = {"context_length": 8192}
    of = catalog(
        {"name": "llm", "engine": "transformers", "source": f"file://{tmp_path}", "options": options},
        pools=[NVIDIA],
    )
    found = estimate(of.models[0])
    assert isinstance(found, Estimate)
    assert (found.weights, found.kv_cache) == (2 << 30, 1 << 30)
    assert found.total == (3 << 30) + CONTEXT_BYTES
    assert found.said == "weights 2.0GiB, KV cache 1.0GiB for one text of 8,192 tokens, context 768.0MiB"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no safetensors headers"), (b"\xff" * 100, "is no safetensors file"), (b"1", "cannot be judged")],
)
def test_files_that_cannot_be_judged_are_said_to_be_so(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content:
        (tmp_path / "x.safetensors").write_bytes(content)
    found = estimate(catalog(model("a", source=f"file://{tmp_path}")).models[0])
    assert isinstance(found, str)
    assert reason in found


def test_nothing_is_fetched_for_an_estimate() -> None:
    found = estimate(catalog(model("a", source="hf://nobody/has-this")).models[0])
    assert found == "not on this machine; `hf download nobody/has-this` fetches it"


def test_a_share_smaller_than_the_files_suggest_is_doubted() -> None:
    llm = {"name": "llm", "engine": "transformers", "source": "package://deployments.embedded_llm"}
    tight = catalog(llm | {"resources": {"vram": "512MiB"}}, pools=[NVIDIA])
    assert [line.partition(" (")[0] for line in doubts(plan(tight).catalog)] == [
        "llm: its share is 0.5 GiB of each GPU, and it is estimated to take 0.8 GiB"
    ]
    assert not doubts(plan(catalog(llm | {"resources": {"vram": "1GiB"}}, pools=[NVIDIA])).catalog)


def test_the_command_draws_a_bar_for_each_gpu_and_tells_whether_all_fits(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["plan", "homelab"])
    assert shown.exit_code == 0
    assert "[████████████████████████████████████████] tts 0.5 whisper 0.5" in shown.output
    assert "embeddings 0.8 free 0.2" in shown.output
    file = tmp_path / "full.yaml"
    file.write_text(
        "pools: [{name: gpu, kind: nvidia, cpu: 8, memory: 32GiB}]\n"
        "models:\n"
        "  - {name: a, engine: espeak, source: pypi://espeakng-loader, resources: {gpu: 0.7}}\n"
        "  - {name: b, engine: espeak, source: pypi://espeakng-loader, resources: {gpu: 0.7}}\n"
    )
    shown = CliRunner().invoke(app, ["plan", str(file)])
    assert shown.exit_code == 1
    assert "b needs 0.7 GPU" in shown.output
