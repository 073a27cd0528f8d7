"""Models in ONNX files, by ONNX Runtime. The files hold no code.

The rows of requests that wait are computed in one call, where the model has rows. Knows nothing of HTTP.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from deployments.engines import LoadContext, _networks
from deployments.engines._loading import find_file, library, said
from deployments.engines._networks import NetworkEngine, bytes_of, length, refusal, texts_of
from deployments.engines._rows import Tensors, Wanted
from deployments.errors import EngineError, LoadError
from deployments.settings import Frozen
from deployments.specs import Array, Datatype, TensorSpec

DATATYPES: dict[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""By ONNX Runtime's names of types."""
ZIPPED = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")
"""Probabilities as skl2onnx writes them unless told otherwise: of each row a number by class."""


class Options(_networks.Options):
    file: str | None = Field(None, description="the model's file, where the folder has several")


class Engine(NetworkEngine):
    """Engine `onnx`, task predict: inputs and outputs are those of the file, by its names.

    A list of maps from classes to numbers is answered as a matrix, in the order of the model's classes.
    """

    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Make a session on the file, and read what it takes and gives. Raises `LoadError`."""
        context.progress("importing onnxruntime")
        self._onnxruntime = library("onnxruntime", "onnx")
        file = find_file(path, options.file, (".onnx",))
        context.progress(f"reading {file.name}")
        settings = self._onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads or context.threads
        settings.inter_op_num_threads = 1
        providers = self._providers(options.device, context.gpus)
        try:
            self._model = self._onnxruntime.InferenceSession(str(file), settings, providers=providers)
        except Exception as error:
            raise LoadError(f"cannot read {file.name}: {said(error)}") from error
        self.inputs = tuple(_spec(one) for one in self._model.get_inputs())
        self._zipped = {one.name for one in self._model.get_outputs() if one.type in ZIPPED}
        self.outputs = tuple(_output(one) for one in self._model.get_outputs())
        self._begin(options, context, self._compute)

    def _providers(self, device: str, gpus: float) -> list[Any]:
        """ONNX Runtime's names of where it computes. Raises `LoadError` for a device that is not there."""
        have = self._onnxruntime.get_available_providers()
        if device == "cpu" or (device == "auto" and not (gpus > 0 and "CUDAExecutionProvider" in have)):
            return ["CPUExecutionProvider"]
        if "CUDAExecutionProvider" not in have:
            raise LoadError(f"device {device!r}: this ONNX Runtime has no CUDA; install onnxruntime-gpu in its place")
        settings = {"device_id": int(device.partition(":")[2] or 0), "arena_extend_strategy": "kSameAsRequested"}
        return [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]

    def _compute(self, tensors: Tensors, wanted: Wanted) -> dict[str, Array]:
        given = {name: texts_of(name, one) if one.dtype.kind == "O" else one for name, one in tensors.items()}
        refused = self._onnxruntime.capi.onnxruntime_pybind11_state
        try:
            made = self._model.run(list(wanted), given)
        except (refused.InvalidArgument, refused.RuntimeException, refused.Fail) as error:
            if "allocate memory" in str(error):
                raise EngineError(f"no memory for this input: {said(error)}") from error
            raise refusal(error, self.inputs) from error
        return {name: self._array(name, one) for name, one in zip(wanted, made, strict=True)}

    def _array(self, name: str, made: Any) -> Array:
        if name in self._zipped:
            return np.array([list(row.values()) for row in made], np.float32)
        array = np.asarray(made)
        return bytes_of(array) if array.dtype.kind in "OU" else array


def _spec(declared: Any) -> TensorSpec:
    """ONNX Runtime's description of a tensor as ours. Raises `LoadError`."""
    datatype = DATATYPES.get(declared.type)
    if datatype is None:
        raise LoadError(f"{declared.name!r} is {declared.type}, which no datatype stands for")
    return TensorSpec(name=declared.name, datatype=datatype, shape=tuple(length(one) for one in declared.shape))


def _output(declared: Any) -> TensorSpec:
    if declared.type in ZIPPED:
        return TensorSpec(name=declared.name, datatype="FP32", shape=(-1, -1))
    return _spec(declared)
