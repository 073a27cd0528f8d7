"""Classic models by XGBoost: boosters from its JSON and UBJSON files, which hold no code, or from a trusted pickle.

The rows of all requests that wait are computed in one call. Knows nothing of HTTP.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deployments.engines import LoadContext, _boosters
from deployments.engines._boosters import Booster, BoosterEngine, Kind
from deployments.engines._loading import PICKLES, Device, library, read_pickle
from deployments.errors import BadRequest, LoadError
from deployments.settings import Frozen
from deployments.specs import Array, Datatype

KINDS: dict[str, Kind] = {"binary:logistic": "binary", "multi:softprob": "multiclass", "multi:softmax": "multiclass"}
"""By the objectives whose outputs are probabilities of classes."""


class Options(_boosters.Options):
    device: Device = "auto"


class Engine(BoosterEngine):
    """Engine `xgboost`, task predict. Rows are FP32, as XGBoost computes; NaN is a missing value.

    Classes are 0, 1...: XGBoost knows no others. Categories are given by their codes.
    """

    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("xgboost",)
    files = (".ubj", ".json", ".bst", ".model")
    datatype: ClassVar[Datatype] = "FP32"
    dtype = np.float32

    def _begin(self, options: Options, context: LoadContext) -> None:
        context.progress("importing xgboost")
        self._xgboost = library("xgboost", "xgboost")
        self._threads = options.threads or context.threads
        has_cuda = bool(self._xgboost.build_info()["USE_CUDA"])
        if options.device.startswith("cuda") and not has_cuda:
            raise LoadError(f"device {options.device!r}: this XGBoost has no CUDA; install serve-app[xgboost]")
        on_gpu = options.device == "auto" and context.gpus > 0 and has_cuda
        self._device = "cuda" if on_gpu else options.device.replace("auto", "cpu")

    def _read(self, file: Path, options: Options) -> Booster:
        if file.suffix in PICKLES:
            model = read_pickle(file, options.trust, "save the model with save_model as .ubj")
            model = model.get_booster() if hasattr(model, "get_booster") else model
            if not isinstance(model, self._xgboost.Booster):
                raise LoadError(f"{file.name} holds a {type(model).__name__}, which is no model of XGBoost's")
        else:
            named = file.suffix in (".json", ".ubj")
            model = self._xgboost.Booster(model_file=str(file) if named else bytearray(file.read_bytes()))
        model.set_param({"device": self._device, "nthread": self._threads})
        said = json.loads(model.save_config())["learner"]
        objective, counts = said["objective"]["name"], said["learner_model_param"]
        kind: Kind = KINDS.get(objective, "other")
        if kind == "binary" and int(counts["num_target"]) > 1:
            kind = "multilabel"
        self._softmax = objective == "multi:softmax"
        self._best = _best_trees(model)
        classes = np.arange(max(int(counts["num_class"]), 2))
        return Booster(model, kind, model.num_features(), tuple(model.feature_names or ()), classes)

    def _call(self, table: Array, *, scores: bool, sklearn: bool) -> Array:
        for at in np.flatnonzero(np.isinf(table).any(axis=0))[:1]:
            name = repr(self.columns[at]) if self.columns else at
            raise BadRequest(f"column {name} has an infinite number, or one too large for FP32", param="inputs")
        rows = self._xgboost.DMatrix(
            table,
            feature_names=self._model.feature_names,
            feature_types=self._model.feature_types,
            nthread=self._threads,
            enable_categorical=True,
        )
        trees = self._best if sklearn else (0, 0)
        made: Array = self._model.predict(rows, output_margin=scores, iteration_range=trees)
        return made

    def explained(self) -> Any:
        """The booster as SHAP reads it: with the trees of `predict`."""
        return self._model[: self._best[1]] if self._best[1] else self._model


def _best_trees(booster: Any) -> tuple[int, int]:
    """The iterations up to the best one, where training was stopped early; (0, 0) is all of them."""
    best = booster.attr("best_iteration")
    return (0, int(best) + 1) if best is not None else (0, 0)
