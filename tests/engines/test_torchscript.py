"""TorchScript files behind the engine, against torch called directly."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.engines import PredictEngine
from deployments.engines.torchscript import Engine, Options
from deployments.errors import EngineError
from deployments.specs import TensorSpec
from deployments.tensors import DTYPES
from tests.engines.asking import all_at_once, counted, metadata, not_loaded, predict, refused, tensor, v1
from tests.engines.loading import loaded

X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
ROWS = np.random.default_rng(3).normal(size=(1000, 4)).astype(np.float32)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.dropout(self.layers(x))
        return found


class Pair(torch.nn.Module):
    def forward(self, words: torch.Tensor, mask: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        kept = words * mask.to(words.dtype)
        return {"sum": kept.sum(dim=1), "kept": kept}


class Several(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x.argmax(dim=1)


class Conv(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x).mean(dim=(2, 3))
        return found


class Identity(torch.nn.Module):
    def forward(this, x: torch.Tensor) -> torch.Tensor:  # noqa: N805 - torch takes any name, and so do people
        return x


def saved(model: torch.nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript is old
        torch.jit.save(torch.jit.script(model), str(file))
    return file


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    @contextmanager
    def start(model: torch.nn.Module, **options: Any) -> Iterator[PredictEngine]:
        saved(model, tmp_path / "model.pt")
        with loaded(Engine(), tmp_path, Options(**options)) as engine:
            yield engine

    return start


@pytest.mark.parametrize("rows", [ROWS[:1], ROWS])
async def test_a_network_answers_as_torch_does(serve: Callable[..., Any], rows: Any) -> None:
    model = Net().eval()
    with serve(model, inputs=[X]) as engine:
        assert engine.named
        assert await metadata(engine) == [("x", "FP32", [-1, 4]), ("output-0", "FP32", [-1, 3])]
        found = await predict(engine, {"x": rows})
        np.testing.assert_allclose(found["output-0"], model(torch.from_numpy(rows)).detach().numpy(), rtol=1e-6)
        np.testing.assert_allclose(await v1(engine, rows[:2].tolist()), found["output-0"][:2], rtol=1e-5)


async def test_several_inputs_and_a_dict_of_outputs(serve: Callable[..., Any]) -> None:
    words = {"name": "words", "datatype": "INT64", "shape": [-1, -1]}
    mask = {"name": "mask", "datatype": "BOOL", "shape": [-1, -1]}
    with serve(Pair(), inputs=[words, mask], answer=["sum"]) as engine:
        assert [(one.name, one.datatype, one.shape) for one in engine.outputs] == [
            ("sum", "INT64", (-1,)),
            ("kept", "INT64", (-1, -1)),
        ]
        given = {"mask": np.array([[True, False]]), "words": np.array([[3, 4]])}
        assert {name: one.tolist() for name, one in (await predict(engine, given)).items()} == {"sum": [3]}
        assert (await predict(engine, given, "kept"))["kept"].tolist() == [[3, 0]]
        assert await v1(engine, [{"words": [1, 2, 3], "mask": [True, True, False]}]) == [3]
        said = await refused(engine, tensor("words", "INT64", [[1, 2, 3]]), tensor("mask", "BOOL", [[True, False]]))
        assert said.startswith("the model refuses these inputs (words [-1, -1], mask [-1, -1]): ")


async def test_outputs_by_number_or_by_option(serve: Callable[..., Any]) -> None:
    with serve(Several(), inputs=[X]) as engine:
        assert [(one.name, one.datatype) for one in engine.outputs] == [("output-0", "FP32"), ("output-1", "INT64")]
    doubled, best = (
        TensorSpec(name="y", datatype="FP32", shape=(-1, 4)),
        TensorSpec(name="best", datatype="INT64", shape=(-1,)),
    )
    with serve(Several(), inputs=[X], outputs=[doubled, best]) as engine:
        found = await predict(engine, {"x": ROWS})
        np.testing.assert_array_equal(found["y"], ROWS * 2)
        np.testing.assert_array_equal(found["best"], ROWS.argmax(axis=1))
    with (
        serve(Several(), inputs=[X], outputs=[doubled]) as engine,
        pytest.raises(EngineError, match="returned output-0, output-1; declared are y"),
    ):
        await predict(engine, {"x": ROWS})


async def test_a_network_that_refuses_small_pictures_says_nothing_of_its_outputs(serve: Callable[..., Any]) -> None:
    model = Conv().eval()
    with serve(model, inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]) as engine:
        assert engine.outputs == ()
        given = np.ones((2, 3, 9, 7), np.float32)
        found = await predict(engine, {"x": given})
        np.testing.assert_allclose(found["output-0"], model(torch.from_numpy(given)).detach().numpy(), rtol=1e-5)
        assert "Kernel size" in await refused(engine, tensor("x", "FP32", np.ones((1, 3, 2, 2))))


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP64"])
async def test_every_datatype(serve: Callable[..., Any], datatype: Any) -> None:
    with serve(Identity(), inputs=[{"name": "x", "datatype": datatype, "shape": [-1, 2]}]) as engine:
        given = np.array([[0, 1], [1, 1]]).astype(DTYPES[datatype])
        found = (await predict(engine, {"x": given}))["output-0"]
        np.testing.assert_array_equal(found, given.astype(np.float32) if datatype == "BF16" else given)
        assert engine.outputs[0].datatype == ("FP32" if datatype == "BF16" else datatype)


async def test_requests_that_wait_are_computed_together(serve: Callable[..., Any]) -> None:
    model = Net().eval()
    with serve(model, inputs=[X]) as engine:
        rows = counted(engine)
        requests = [{"x": ROWS[at : at + 1 + at % 2]} for at in range(64)]
        found = await all_at_once(engine, requests)
        assert len(rows) < 10
        for request, one in zip(requests, found, strict=True):
            expected = model(torch.from_numpy(request["x"])).detach().numpy()
            np.testing.assert_allclose(one["output-0"], expected, rtol=1e-4, atol=1e-6)


async def test_bad_input_is_a_400_that_names_it(serve: Callable[..., Any]) -> None:
    with serve(Net(), inputs=[X]) as engine:
        assert "unknown input 'y'; the model has x" in await refused(engine, tensor("y", "FP32", ROWS[:1]))
        assert "'x' has shape [1, 3]; the model takes [-1, 4]" in await refused(
            engine, tensor("x", "FP32", ROWS[:1, :3])
        )
        assert "'x' is BYTES; the model takes FP32" in await refused(engine, tensor("x", "BYTES", [["a"] * 4]))


def test_what_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no file that ends in .pt, .pth" in not_loaded(Engine(), tmp_path, Options(inputs=[X]))
    torch.save(Net().state_dict(), tmp_path / "model.pt")
    said = not_loaded(Engine(), tmp_path, Options(inputs=[X]))
    assert "cannot read model.pt as TorchScript; save it with torch.jit.script(model).save: " in said
    saved(Pair(), tmp_path / "model.pt")
    said = not_loaded(Engine(), tmp_path, Options())
    assert "model.pt does not say what its inputs are: write options: {inputs: [{name: x" in said
    assert said.endswith("one for each of: words, mask, scale")
    assert "options.inputs has 1; the forward" in not_loaded(Engine(), tmp_path, Options(inputs=[X]))
    words = X | {"datatype": "BYTES"}
    assert "input 'x' is BYTES; torch has" in not_loaded(Engine(), tmp_path, Options(inputs=[words, X]))
    said = not_loaded(Engine(), tmp_path, Options(inputs=[X], device="cuda:9"))
    assert "device 'cuda:9' is not usable here" in said
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "install serve-app[torchscript]" in not_loaded(Engine(), tmp_path, Options(inputs=[X]))
