"""Classic models by scikit-learn: any fitted estimator or pipeline, from a skops file or a pickle that is trusted.

The rows of all requests that wait are computed in one call. Knows nothing of HTTP.
"""

import logging
import threading
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field

from deployments.engines import LoadContext, _blame, _estimator_files, _estimators
from deployments.engines._estimators import MatrixInput
from deployments.engines._loading import PICKLES, find_file, library, said
from deployments.engines._rows import BATCH_ROWS, Rows, RowsEngine, Tensors, Wanted
from deployments.errors import BadRequest, EngineError, LoadError
from deployments.settings import Frozen
from deployments.specs import INPUT, OUTPUT, Array, TensorSpec

log = logging.getLogger(__name__)
Method = Literal["predict", "predict_proba", "transform", "decision_function"]


class Options(Frozen):
    file: str | None = Field(None, description="the model's file, where the folder has several")
    trust: bool = Field(False, description="whether code in the file may run: pickles, and any type in a skops file")
    trusted_types: tuple[str, ...] = Field((), description="types in a skops file that may be loaded")
    method: Method = Field("predict", description="what is called when a request names no output")
    input: MatrixInput | None = Field(None, description="datatype and shape of the input, where they are not found out")
    batch_rows: int | None = Field(
        None,
        gt=0,
        description=f"rows of several requests computed together; by default {BATCH_ROWS}. 1 computes requests alone, "
        "for a model whose answer to a row depends on the rows beside it: the default for NMF, and to be said for a "
        "FunctionTransformer that looks at the whole table",
    )
    threads: int | None = Field(None, gt=0, description="CPU threads; by default the replica's whole CPUs, else all")


class Engine(RowsEngine):
    """Engine `sklearn`, task predict.

    Besides `output-0` there is an output for each method that the model has, called as the method is.
    """

    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("skops.io", "joblib")

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Read the estimator, and call its methods once on a made-up row. Raises `LoadError`."""
        context.progress("importing scikit-learn")
        library("sklearn", "classic")
        _estimators.know_arrays()
        file = find_file(path, options.file, _estimator_files.SKOPS, PICKLES)
        context.progress(f"reading {file.name}")
        self._model = _estimator_files.read(file, options.trust, options.trusted_types)
        self._methods = methods_of(self._model, options.method, file.name)
        self._threads, self._ready_in = options.threads or context.threads, threading.local()
        try:
            _estimators.bound_jobs(self._model, self._threads)
            self.inputs, self.columns, sample = _estimators.declare_inputs(self._model, options.input)
            most = options.batch_rows or (BATCH_ROWS if _estimators.judges_rows_alone(self._model) else 1)
            if self.columns:
                library("pandas", "classic")
        except Exception as error:
            raise LoadError(f"cannot tell what {file.name} takes: {said(error)}") from error
        self.named = self.inputs[0].name != INPUT
        self.outputs = self._declare_outputs(sample)
        self._datatypes = {one.name: one.datatype for one in self.outputs}
        self._default = (OUTPUT,)
        self._rows = Rows(context.name, self._compute, max_rows=most, max_queue=context.max_queue)

    def explained(self) -> Any:
        """The estimator."""
        return self._model

    def _declare_outputs(self, sample: Tensors) -> tuple[TensorSpec, ...]:
        """The outputs as one row shows them; where the estimator refuses that row, by what it says of itself."""
        found: dict[str, TensorSpec] = {}
        for name, method in list(self._methods.items()):
            try:
                made = getattr(self._model, method)(self._table(sample))
            except Exception as error:
                if type(error).__name__ == "NotFittedError":
                    raise LoadError(f"this model is not fitted: {said(error)}") from error
                log.debug("%s refuses a made-up row", method, exc_info=True)
                found[name] = _estimators.guess(name, self._model, method)
                continue
            try:
                found[name] = _estimators.spec_of(name, _estimators.as_tensor(made))
            except (EngineError, ValueError) as error:
                if name == OUTPUT:
                    raise LoadError(f"{method} gives no tensor: {error}") from error
                log.info("there is no output %s: %s", method, error)
        return tuple(found.values())

    def _compute(self, tensors: Tensors, wanted: Wanted) -> dict[str, Array]:
        self._prepare_thread()
        methods = {self._methods[name] for name in wanted}
        made: dict[str, Any] = {}
        try:
            for method in methods:
                mine = tensors if len(methods) == 1 else {name: array.copy() for name, array in tensors.items()}
                made[method] = getattr(self._model, method)(self._table(mine))  # which may write to what it gets
        except (ValueError, TypeError) as error:
            first = (str(error).splitlines() or [repr(error)])[0]
            said = _blame.blame(self._model, self.inputs, self.columns, tensors, first)
            raise BadRequest(said, param="inputs") from error
        answers = {method: _estimators.as_tensor(one) for method, one in made.items()}
        return {name: _estimators.as_datatype(answers[self._methods[name]], self._datatypes[name]) for name in wanted}

    def _table(self, tensors: Tensors) -> Any:
        """What the estimator was fitted on the like of: an array, or a DataFrame if its columns have names."""
        if not self.columns:
            return _estimators.read_texts(tensors[INPUT])
        import pandas as pd

        if INPUT in tensors:
            return pd.DataFrame(_estimators.read_texts(tensors[INPUT]), columns=list(self.columns))
        return pd.DataFrame({name: _estimators.read_column(tensors[name]) for name in self.columns})

    def _prepare_thread(self) -> None:
        """Bound the threads of BLAS and OpenMP, and keep joblib from starting processes, where this thread computes."""
        if hasattr(self._ready_in, "done"):
            return
        import joblib
        import threadpoolctl

        threadpoolctl.threadpool_limits(limits=self._threads)
        joblib.parallel_config(backend="threading")
        self._ready_in.done = True


def methods_of(estimator: Any, chosen: Method, file: str) -> dict[str, str]:
    """The outputs of an estimator, and the method behind each. Raises `LoadError` if it has not the chosen one."""
    have = [name for name in get_args(Method) if callable(getattr(estimator, name, None))]
    if chosen not in have:
        kind = type(estimator).__name__
        if not have:
            raise LoadError(
                f"{file} holds a {kind}, which is no estimator: it has none of {', '.join(get_args(Method))}"
            )
        raise LoadError(f"the {kind} in {file} has no {chosen}; write options: {{method: one of {', '.join(have)}}}")
    return {OUTPUT: chosen} | {name: name for name in have}
