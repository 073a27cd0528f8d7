"""Packed layers against those that they replace."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoConfig, AutoModel

from deployments.engines import _packed, cross_encoder, sentence_transformers
from deployments.engines._packed import ENCODERS, pack_convolutions, pack_linears
from tests.engines.loading import loaded

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
OTHERS: dict[str, Any] = {"pad_token_id": 0, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this build of torch has no oneDNN"
)


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing is faster, whatever this machine says."""
    monkeypatch.setattr(_packed, "is_faster", lambda: True)


@pytest.fixture
def measured_anew() -> Iterator[None]:
    _packed.is_faster.cache_clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(*_packed.CACHED)
        patched.delenv(_packed.CACHED[0])  # and is as it was after the test
        yield
    _packed.is_faster.cache_clear()


def encoder(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny one of random weights, biases included."""
    torch.manual_seed(1)
    make: Any = AutoModel.from_config  # without types
    model = make(AutoConfig.for_model(kind, **SIZES, **DISTIL, **OTHERS)).to(dtype).eval()
    for layer in linears(model):
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias)
    return model


def linears(model: torch.nn.Module) -> list[torch.nn.Linear]:
    return [one for one in model.modules() if isinstance(one, torch.nn.Linear)]


def packed(model: torch.nn.Module) -> list[torch.nn.Linear]:
    """Layers that compute in another way than by weights of their own."""
    return [one for one in linears(model) if "forward" in vars(one) and not hasattr(one, "weight")]


def read(model: Any, rows: int, length: int) -> torch.Tensor:
    """What it makes of texts of which the last is shorter."""
    ids = torch.arange(rows * length).reshape(rows, length) % 90 + 5
    mask = torch.ones_like(ids)
    mask[-1, length // 2 :] = 0
    with torch.inference_mode():
        made: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return made


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_an_encoder_makes_the_same_of_texts_with_packed_layers(kind: str) -> None:
    model = encoder(kind)
    sizes = [(1, 2), (1, 7), (5, 33)]
    before = [read(model, *size) for size in sizes]
    assert not packed(model)
    for _ in range(2):  # the second time there is nothing left to do
        pack_linears(model)
        assert packed(model) == linears(model)
    assert len(linears(model)) > 5
    for size, expected in zip(sizes, before, strict=True):
        torch.testing.assert_close(read(model, *size), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize("shape", [(7,), (1, 7), (0, 7), (3, 4, 7), (2, 3, 4, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_takes_what_linear_takes(shape: tuple[int, ...], bias: bool) -> None:
    layer, given = torch.nn.Linear(7, 5, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        by_packed = _packed.packed(layer.weight, layer.bias)
        torch.testing.assert_close(by_packed(given), layer(given))
        turned = given.transpose(0, max(given.ndim - 2, 0))
        torch.testing.assert_close(by_packed(turned), layer(turned))


CONVOLUTIONS = [
    lambda: torch.nn.Conv1d(6, 5, 3),
    lambda: torch.nn.Conv1d(6, 6, 7, padding=9, dilation=3),
    lambda: torch.nn.Conv1d(6, 4, 4, stride=2, padding=1, groups=2, bias=False),
    lambda: torch.nn.ConvTranspose1d(6, 5, 3),
    lambda: torch.nn.ConvTranspose1d(6, 3, 16, stride=8, padding=4),
    lambda: torch.nn.ConvTranspose1d(6, 4, 5, stride=3, padding=1, groups=2, dilation=2, bias=False),
]


@pytest.mark.parametrize("make", CONVOLUTIONS)
def test_a_packed_convolution_makes_the_same_of_sound_of_any_length(make: Callable[[], torch.nn.Module]) -> None:
    layer, reference = make(), make()
    reference.load_state_dict(layer.state_dict())
    pack_convolutions(torch.nn.Sequential(layer))
    with torch.inference_mode():
        for shape in [(1, 6, 64), (1, 6, 5), (3, 6, 700), (6, 9), (2, 6, _packed.SHORT + 1)]:
            given = torch.randn(shape)
            torch.testing.assert_close(layer(given), reference(given), atol=1e-5, rtol=1e-5)
            turned = torch.randn(*shape[:-2], shape[-1], 6).transpose(-1, -2)
            torch.testing.assert_close(layer(turned), reference(turned), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [torch.nn.Conv1d(6, 5, 3), torch.nn.ConvTranspose1d(6, 5, 3)])
def test_only_short_inputs_are_computed_by_packed_weights(
    layer: torch.nn.Conv1d | torch.nn.ConvTranspose1d, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    pack_convolutions(layer)
    torch.nn.init.zeros_(layer.weight)  # the packed ones are others by now
    layer.bias = None
    with torch.inference_mode():
        assert layer(torch.ones(1, 6, _packed.SHORT)).any()
        assert not layer(torch.ones(1, 6, _packed.SHORT + 1)).any()


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv1d(6, 5, 3, padding="same"),
        torch.nn.Conv1d(6, 5, 3, padding=1, padding_mode="circular"),
        torch.nn.Conv1d(6, 5, 3, dtype=torch.bfloat16),
        torch.nn.ConvTranspose1d(6, 5, 3, stride=2, dilation=4, output_padding=3),
        torch.nn.Conv2d(6, 5, 3),
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(6, 5, 3)),
    ],
)
def test_other_convolutions_stay_as_they_are(layer: torch.nn.Module) -> None:
    pack_convolutions(layer)
    assert hasattr(layer, "weight")
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("lacks", ["x86", "operator"])
def test_where_onednn_is_not_at_hand_all_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64" if lacks == "x86" else "x86_64")
    if lacks == "operator":
        monkeypatch.setattr(_packed, "OPERATORS", (*_packed.OPERATORS, "_of_another_torch"))
    layer = torch.nn.Conv1d(6, 5, 3)
    pack_convolutions(layer)
    assert "forward" not in vars(layer)


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize(("kind", "dtype"), [("t5", torch.float32), ("bert", torch.bfloat16)])
def test_other_architectures_and_dtypes_stay_as_they_are(kind: str, dtype: torch.dtype) -> None:
    model = encoder(kind, dtype)
    pack_linears(model)
    assert linears(model)
    assert not packed(model)


def test_a_machine_that_gains_nothing_keeps_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packed, "is_faster", lambda: False)
    model = encoder("bert")
    pack_linears(model)
    assert linears(model)
    assert not packed(model)


@pytest.mark.usefixtures("measured_anew")
@pytest.mark.parametrize(("slower", "faster"), [("packed", False), ("plain", True)])
def test_what_is_faster_is_found_out_by_doing_it(monkeypatch: pytest.MonkeyPatch, slower: str, faster: bool) -> None:
    def slow(given: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return given

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with monkeypatch.context() as patched:
        if slower == "packed":
            patched.setattr(_packed, "packed", lambda *_: slow)
        else:
            patched.setattr(torch, "mm", slow)
        assert _packed.is_faster() is faster
        assert os.environ[_packed.CACHED[0]] == "64"
    assert _packed.is_faster() is faster  # it is not found out again


@pytest.mark.usefixtures("measured_anew")
def test_other_processors_than_x86_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert _packed.is_faster() is False


@pytest.mark.usefixtures("faster")
async def test_vectors_of_a_packed_model_equal_the_librarys(minilm: Path, sentences: list[str]) -> None:
    reference = SentenceTransformer(str(minilm), device="cpu")
    options = sentence_transformers.Options(truncate="end")
    with loaded(sentence_transformers.Engine(), minilm, options) as engine:
        assert packed(engine._model) == linears(engine._model) != []
        found = (await engine.embed(sentences)).vectors
    np.testing.assert_allclose(found, reference.encode(sentences), atol=1e-5)


@pytest.mark.usefixtures("faster")
async def test_scores_of_a_packed_cross_encoder_equal_the_librarys(
    tiny_cross_encoder: Path, sentences: list[str]
) -> None:
    reference = CrossEncoder(str(tiny_cross_encoder), device="cpu")
    expected = reference.predict([("blue lamps", one) for one in sentences], activation_fn=torch.nn.Sigmoid())
    with loaded(cross_encoder.Engine(), tiny_cross_encoder, cross_encoder.Options()) as engine:
        assert packed(engine._model) == linears(engine._model) != []
        found = (await engine.rerank("blue lamps", sentences)).scores
    np.testing.assert_allclose(found, expected, atol=1e-5)
