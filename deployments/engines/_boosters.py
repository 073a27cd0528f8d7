"""What the engines of gradient boosted trees share: a matrix or its columns in, classes, probabilities or scores out.

Knows no library of such trees.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from deployments.engines import LoadContext
from deployments.engines._answers import datatype_of
from deployments.engines._loading import PICKLES, find_file, said
from deployments.engines._rows import BATCH_ROWS, Rows, RowsEngine, Tensors, Wanted, column_of
from deployments.errors import LoadError
from deployments.settings import Frozen
from deployments.specs import INPUT, OUTPUT, Array, Datatype, TensorSpec, object_array

Method = Literal["booster", "predict", "predict_proba", "decision_function"]
Kind = Literal["binary", "multiclass", "multilabel", "other"]


class Options(Frozen):
    file: str | None = Field(None, description="the model's file, where the folder has several")
    trust: bool = Field(False, description="whether code in the file may run: pickles")
    method: Method = Field(
        "booster",
        description="the answer to a request that names no output. booster: what the library's Booster.predict says, "
        "as KServe's servers answer; predict: classes, or numbers of a regressor; predict_proba; decision_function: "
        "scores before they are made probabilities",
    )
    batch_rows: int = Field(BATCH_ROWS, gt=0, description="rows of several requests computed together")
    threads: int | None = Field(None, gt=0, description="CPU threads; by default the replica's whole CPUs, else all")


class Booster(NamedTuple):
    """What an engine has read: the library's own model, and what it says of itself."""

    model: Any
    kind: Kind
    features: int
    columns: tuple[str, ...]
    """Names of the features; none where the model has none."""
    classes: Array
    """What a classifier's outputs stand for."""


class BoosterEngine(RowsEngine):
    """A subclass reads a file and calls the library; `predict` and the like are made of what that says.

    Besides `output-0` there is an output for each of the methods that scikit-learn's interface to the library has.
    """

    options_type: ClassVar[type[Frozen]] = Options
    files: ClassVar[tuple[str, ...]]
    """What the files end in that hold no code."""
    datatype: ClassVar[Datatype]
    dtype: ClassVar[Any]
    """What the library computes with."""

    def load(self, path: Path, options: Any, context: LoadContext) -> None:
        """Read the model, and call it once on a made-up row. Raises `LoadError`."""
        self._begin(options, context)
        file = find_file(path, options.file, self.files, PICKLES)
        context.progress(f"reading {file.name}")
        try:
            booster = self._read(file, options)
        except LoadError:
            raise
        except Exception as error:
            raise LoadError(f"cannot read {file.name}: {plain(error)}") from error
        self._model, self._kind = booster.model, booster.kind
        words = booster.classes.dtype.kind in "OU"
        self._classes = bytes_of(booster.classes) if words else booster.classes
        self.inputs = (TensorSpec(name=INPUT, datatype=self.datatype, shape=(-1, booster.features)),)
        self.columns, self.named = booster.columns, False
        proba: tuple[Method, ...] = () if self._kind == "other" else ("predict_proba",)
        methods: dict[str, Method] = {one: one for one in ("predict", *proba, "decision_function")}
        if options.method not in ("booster", *methods):
            raise LoadError(f"{file.name} holds no classifier: options.method may be booster, {', '.join(methods)}")
        self._methods = {OUTPUT: options.method} | methods
        made = self._answers(np.zeros((1, booster.features), self.dtype), tuple(self._methods))
        self.outputs = tuple(
            TensorSpec(name=name, datatype=datatype_of(name, array), shape=(-1, *array.shape[1:]))
            for name, array in made.items()
        )
        self._default = (OUTPUT,)
        self._rows = Rows(context.name, self._compute, max_rows=options.batch_rows, max_queue=context.max_queue)

    def _begin(self, options: Any, context: LoadContext) -> None:
        """Import the library, and find out where to compute."""
        raise NotImplementedError

    def _read(self, file: Path, options: Any) -> Booster:
        raise NotImplementedError

    def _call(self, table: Array, *, scores: bool, sklearn: bool) -> Array:
        """The library's prediction for rows `[n, features]`, or the scores behind it.

        With `sklearn`, by the trees that its interface for scikit-learn uses.
        """
        raise NotImplementedError

    def _compute(self, tensors: Tensors, wanted: Wanted) -> dict[str, Array]:
        if INPUT in tensors:
            return self._answers(tensors[INPUT], wanted)
        columns = [column_of(name, tensors[name], self.dtype) for name in self.columns]
        return self._answers(np.stack(columns, axis=1), wanted)

    def _answers(self, table: Array, wanted: Wanted) -> dict[str, Array]:
        made = {method: self._answer(table, method) for method in {self._methods[name] for name in wanted}}
        return {name: made[self._methods[name]] for name in wanted}

    def _answer(self, table: Array, method: Method) -> Array:
        if method == "booster":
            return self._call(table, scores=False, sklearn=False)
        if method == "decision_function":
            return self._call(table, scores=True, sklearn=True)
        if self._kind == "other":
            return self._call(table, scores=False, sklearn=True)
        proba = self._probabilities(table)
        if method == "predict_proba":
            return proba
        if self._kind == "multilabel":
            return (proba > 0.5).astype(np.int64)
        predicted: Array = self._classes[np.argmax(proba, axis=1)]
        return predicted

    def _probabilities(self, table: Array) -> Array:
        """`[n, classes]`, or `[n, labels]` where each label is there or not."""
        if self._kind == "multiclass":
            scores = self._call(table, scores=True, sklearn=True) if self._softmax else None
            return self._call(table, scores=False, sklearn=True) if scores is None else softmax(scores)
        proba = self._call(table, scores=False, sklearn=True)
        return proba if self._kind == "multilabel" else np.stack([1 - proba, proba], axis=1)

    _softmax = False
    """Whether the library's own prediction of several classes is the best one, not their probabilities."""


def bytes_of(words: Array) -> Array:
    """Words `[n]` as BYTES."""
    return object_array([str(word).encode() for word in words])


def softmax(scores: Array) -> Array:
    """Scores `[n, classes]` as probabilities."""
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    proba: Array = grown / grown.sum(axis=1, keepdims=True)
    return proba


def plain(error: BaseException) -> str:
    """An error of the library's in one line, without the place in its source."""
    text = said(error)
    return text.partition("Check failed: ")[2] or text
