"""Models in TensorFlow's SavedModel folders, by their serving signature.

The rows of requests that wait are computed in one call, where the model has rows. Knows nothing of HTTP.
"""

import contextlib
import importlib
import logging
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from deployments.engines import LoadContext, _networks
from deployments.engines._loading import library, listed, said, version_folders
from deployments.engines._networks import NetworkEngine, bytes_of, length, refusal
from deployments.engines._rows import Tensors, Wanted
from deployments.errors import LoadError
from deployments.settings import Frozen
from deployments.specs import Array, Datatype, TensorSpec

log = logging.getLogger(__name__)
FILES = ("saved_model.pb", "saved_model.pbtxt")
DATATYPES: dict[str, Datatype] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
"""By TensorFlow's names of dtypes."""


class Options(_networks.Options):
    signature: str = Field("serving_default", description="the signature that is called")
    tags: tuple[str, ...] = Field(("serve",), description="tags of the graph that is loaded")


class Engine(NetworkEngine):
    """Engine `tensorflow`, task predict: inputs and outputs are those of the signature, by its names."""

    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ()  # see import_tensorflow

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Load the graph, and read its signature. Raises `LoadError`."""
        context.progress("importing tensorflow")
        self._tensorflow = import_tensorflow()
        folder = find_folder(path)
        context.progress(f"reading {folder}")
        self._device = self._choose_device(options, context)
        try:
            with self._tensorflow.device(self._device):
                self._model = self._tensorflow.saved_model.load(str(folder), tags=list(options.tags))
        except Exception as error:
            raise LoadError(f"cannot read {folder}: {said(error)}") from error
        have = list(self._model.signatures)
        if options.signature not in have:
            names = ", ".join(have) or "none"
            raise LoadError(f"options.signature: the model has no {options.signature!r}; have: {names}")
        self._call = self._model.signatures[options.signature]
        self.inputs = tuple(_spec(name, one) for name, one in self._call.structured_input_signature[1].items())
        self.outputs = tuple(_spec(name, one) for name, one in self._call.structured_outputs.items())
        self._begin(options, context, self._compute)

    def close(self) -> None:
        """Stop the thread and drop the model."""
        super().close()
        del self._call

    def _choose_device(self, options: Options, context: LoadContext) -> str:
        """TensorFlow's name of the device, which takes of a GPU what it needs and not all.

        Threads are the process's: of several models in one, the first to load says how many.
        """
        config = self._tensorflow.config
        gpus = config.list_physical_devices("GPU")
        try:
            config.threading.set_intra_op_parallelism_threads(options.threads or context.threads)
            config.threading.set_inter_op_parallelism_threads(1)
            for gpu in gpus:
                config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:
            log.info("TensorFlow runs already, with the threads it was started with: %s", error)
        if options.device == "cpu" or (options.device == "auto" and not (context.gpus > 0 and gpus)):
            return "/CPU:0"
        number = options.device.partition(":")[2]
        if int(number or 0) >= len(gpus):
            raise LoadError(f"device {options.device!r}: TensorFlow sees {len(gpus)} GPUs here")
        return f"/GPU:{number or 0}"

    def _compute(self, tensors: Tensors, wanted: Wanted) -> dict[str, Array]:
        tensorflow = self._tensorflow
        try:
            with tensorflow.device(self._device):
                given = {one.name: tensorflow.constant(tensors[one.name], self._dtype(one.name)) for one in self.inputs}
                made = self._call(**given)
        except (tensorflow.errors.InvalidArgumentError, TypeError, ValueError) as error:
            raise refusal(error, self.inputs) from error
        return {name: _array(made[name]) for name in wanted}

    def _dtype(self, name: str) -> Any:
        return self._call.structured_input_signature[1][name].dtype


def import_tensorflow() -> Any:
    """TensorFlow, after triton's library where torch brings it: in the other order the second ends the process.

    Both carry LLVM. Another model in this process may import triton later. Raises `LoadError`.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("triton._C.libtriton")
    return library("tensorflow", "tensorflow")


def find_folder(path: Path) -> Path:
    """The SavedModel of a source: the source itself; its `model.savedmodel`; or those in the highest numbered folder.

    As TensorFlow Serving and Triton keep them. Raises `LoadError` naming what is there.
    """
    if path.is_dir():
        for parent in (path, *version_folders(path)[:1]):
            for folder in (parent, parent / "model.savedmodel"):
                if any((folder / name).is_file() for name in FILES):
                    return folder
    have = listed(path) if path.is_dir() else "a file"
    raise LoadError(f"{path} is no SavedModel, which is a folder with {FILES[0]}; have: {have}")


def _spec(name: str, declared: Any) -> TensorSpec:
    """TensorFlow's description of a tensor as ours. Raises `LoadError`."""
    datatype = DATATYPES.get(declared.dtype.name)
    if datatype is None:
        raise LoadError(f"{name!r} is {declared.dtype.name}, which no datatype stands for")
    if declared.shape.rank is None:
        raise LoadError(f"{name!r} has any number of dimensions; save the model with a signature that says how many")
    return TensorSpec(name=name, datatype=datatype, shape=tuple(length(one) for one in declared.shape.as_list()))


def _array(made: Any) -> Array:
    array: Array = made.numpy()
    return bytes_of(array) if array.dtype.kind in "OSU" else array
