"""Classic models by LightGBM: boosters from its text files, which hold no code, or from a trusted pickle.

The rows of all requests that wait are computed in one call, on the CPU: LightGBM knows GPUs for training only.
Knows nothing of HTTP.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deployments.engines import LoadContext
from deployments.engines._boosters import Booster, BoosterEngine, Kind, Options
from deployments.engines._loading import PICKLES, library, read_pickle
from deployments.errors import LoadError
from deployments.specs import Array, Datatype

__all__ = ["Engine", "Options"]
log = logging.getLogger(__name__)
KINDS: dict[str, Kind] = {"binary": "binary", "multiclass": "multiclass", "multiclassova": "multiclass"}
"""By the objectives whose outputs are probabilities of classes."""


class Engine(BoosterEngine):
    """Engine `lightgbm`, task predict. NaN is a missing value; categories are given by their codes.

    Classes are 0, 1... but in a pickle of LightGBM's classifier, which knows what they stand for.
    """

    libraries: ClassVar[tuple[str, ...]] = ("lightgbm",)
    files = (".txt", ".bst", ".model")
    datatype: ClassVar[Datatype] = "FP64"
    dtype = np.float64

    def _begin(self, options: Options, context: LoadContext) -> None:
        context.progress("importing lightgbm")
        self._lightgbm = library("lightgbm", "lightgbm")
        self._threads = options.threads or context.threads
        if context.gpus:
            log.warning("%s reserves a GPU, and LightGBM predicts on the CPU", context.name)

    def _read(self, file: Path, options: Options) -> Booster:
        found: Any = None
        if file.suffix in PICKLES:
            found = read_pickle(file, options.trust, "save the model with save_model as .txt")
            model = getattr(found, "booster_", found)
            if not isinstance(model, self._lightgbm.Booster):
                raise LoadError(f"{file.name} holds a {type(found).__name__}, which is no model of LightGBM's")
        else:
            model = self._lightgbm.Booster(model_file=str(file))
        objective = str(model.dump_model(num_iteration=1).get("objective", "")).partition(" ")[0]
        kind: Kind = KINDS.get(objective, "other")
        names = tuple(model.feature_name())
        if names == tuple(f"Column_{at}" for at in range(len(names))):
            names = ()
        classes = getattr(found, "classes_", np.arange(max(model.num_model_per_iteration(), 2)))
        return Booster(model, kind, model.num_feature(), names, np.asarray(classes))

    def _call(self, table: Array, *, scores: bool, sklearn: bool) -> Array:  # noqa: ARG002 - one way for both
        made: Array = self._model.predict(table, raw_score=scores, num_threads=self._threads)
        return made

    def explained(self) -> Any:
        """The booster, as SHAP reads it."""
        return self._model
