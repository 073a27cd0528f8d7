"""Models in TorchScript files (`torch.jit.save`), by torch. A file's operations run as they are; it holds no Python.

The rows of requests that wait are computed in one call, where the model has rows. Knows nothing of HTTP.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from deployments.engines import LoadContext, _networks
from deployments.engines._answers import datatype_of
from deployments.engines._loading import find_file, library, said
from deployments.engines._networks import NetworkEngine, refusal
from deployments.engines._rows import Tensors, Wanted
from deployments.errors import EngineError, LoadError, ServeAppError
from deployments.gpu import choose_device
from deployments.settings import Frozen
from deployments.specs import OUTPUT, Array, Datatype, TensorSpec

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
DTYPES: dict[Datatype, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "BF16": "bfloat16",
    "FP32": "float32",
    "FP64": "float64",
}
"""What torch computes with, by its names."""
FORM = "options: {inputs: [{name: x, datatype: FP32, shape: [-1, 4]}]}"


class Options(_networks.Options):
    file: str | None = Field(None, description="the model's file, where the folder has several")
    inputs: tuple[TensorSpec, ...] = Field(
        (), description="name, datatype and shape of each argument, in order: the file does not say them"
    )
    outputs: tuple[TensorSpec, ...] = Field(
        (), description="the same of what it returns; by default output-0, output-1... as two tries show them"
    )


class Engine(NetworkEngine):
    """Engine `torchscript`, task predict.

    Its `forward` takes tensors, in the order of `options.inputs`, and returns one, several, or a dict of them.
    """

    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Read the file, and try what it returns. Raises `LoadError`."""
        context.progress("importing torch")
        self._torch = library("torch", "torchscript")
        file = find_file(path, options.file, (".pt", ".pth", ".ts", ".torchscript"))
        context.progress(f"reading {file.name}")
        self._device = choose_device(options.device, context.gpus)
        self._threads, self._thread_ready = options.threads or context.threads, False
        try:
            self._model = self._torch.jit.load(str(file), map_location=self._device).eval()
        except Exception as error:
            raise LoadError(
                f"cannot read {file.name} as TorchScript; save it with torch.jit.script(model).save: {said(error)}"
            ) from error
        self.inputs = options.inputs
        self._check_inputs(file.name)
        self.outputs = options.outputs or self._try_outputs()
        self._begin(options, context, self._compute)

    def close(self) -> None:
        """Stop the thread, and give the memory back, that of a GPU to where others see it."""
        super().close()
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _check_inputs(self, file: str) -> None:
        """Raise `LoadError` unless there is one for each argument, of a datatype that torch has."""
        takes = self._model.forward.schema.arguments[1:]  # the first is the model itself, whatever it is called
        names = ", ".join(one.name for one in takes)
        needed = sum(not one.has_default_value() for one in takes)
        if not self.inputs:
            raise LoadError(f"{file} does not say what its inputs are: write {FORM}, one for each of: {names}")
        if not needed <= len(self.inputs) <= len(takes):
            raise LoadError(f"options.inputs has {len(self.inputs)}; the forward of {file} takes {names}")
        for one in self.inputs:
            if one.datatype not in DTYPES:
                raise LoadError(f"input {one.name!r} is {one.datatype}; torch has {', '.join(DTYPES)}")

    def _try_outputs(self) -> tuple[TensorSpec, ...]:
        """What it returns for zeros, where lengths that vary are 2 and 3; nothing if it refuses those."""
        tries = []
        for varying in (2, 3):
            tensors = {
                one.name: np.zeros([varying if length < 0 else length for length in one.shape], np.uint8)
                for one in self.inputs
            }
            try:
                tries.append(self._run(tensors))
            except ServeAppError as error:
                log.info("what the model returns is not known, for it refuses zeros: %s", error.message)
                return ()
        first, second = tries
        return tuple(
            TensorSpec(
                name=name,
                datatype=datatype_of(name, array),
                shape=[a if a == b else -1 for a, b in zip(array.shape, second[name].shape, strict=True)],
            )
            for name, array in first.items()
        )

    def _compute(self, tensors: Tensors, wanted: Wanted) -> dict[str, Array]:
        if not self._thread_ready:
            self._torch.set_num_threads(self._threads)
            self._thread_ready = True
        made = self._run(tensors)
        if self.outputs and made.keys() != {one.name for one in self.outputs}:
            raise EngineError(f"the model returned {', '.join(made)}; declared are {_names(self.outputs)}")
        return {name: made[name] for name in wanted} if wanted else made

    def _run(self, tensors: Tensors) -> dict[str, Array]:
        """Tensors of the inputs' names, converted to their dtypes, to all that the model returns."""
        given = [self._given(tensors[one.name], one.datatype) for one in self.inputs]
        try:
            with self._torch.inference_mode():
                made = self._model(*given)
        except self._torch.OutOfMemoryError as error:
            raise EngineError(f"no memory for this input: {said(error)}") from error
        except (RuntimeError, IndexError, ValueError) as error:
            raise refusal(error, self.inputs) from error
        return self._named(made)

    def _given(self, array: Array, datatype: Datatype) -> "torch.Tensor":
        dtype = getattr(self._torch, DTYPES[datatype])
        bits = array.view(np.int16) if array.dtype.kind == "V" else array  # torch knows no BF16 of numpy's
        tensor: torch.Tensor = self._torch.from_numpy(bits)
        return (tensor.view(dtype) if bits is not array else tensor.to(dtype)).to(self._device)

    def _named(self, made: Any) -> dict[str, Array]:
        """What `forward` returned, by its own names, or the declared ones, or numbers."""
        if isinstance(made, Mapping):
            return {str(name): _array(one) for name, one in made.items()}
        several = list(made) if isinstance(made, Sequence) else [made]
        names = [one.name for one in getattr(self, "outputs", ())]
        if len(names) != len(several):
            names = [OUTPUT.replace("0", str(at)) for at in range(len(several))]
        return {name: _array(one) for name, one in zip(names, several, strict=True)}


def _array(made: Any) -> Array:
    """A tensor as an array on the CPU; BF16 as FP32. Raises `EngineError` for anything else."""
    if not hasattr(made, "detach"):
        raise EngineError(f"the model returned a {type(made).__name__}, which is no tensor")
    tensor = made.detach().cpu()
    array: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return array


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(one.name for one in specs)
