"""Explanations by SHAP: of each row, what each feature adds to the model's output. By the library of that name.

Knows nothing of HTTP.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from deployments import sources
from deployments.batcher import Batcher
from deployments.engines import LoadContext, PredictEngine
from deployments.engines._loading import library, said
from deployments.engines._rows import BATCH_ROWS
from deployments.errors import LoadError, ServeAppError
from deployments.explainers import Explanation, Question
from deployments.explainers.features import Features
from deployments.settings import ExplainerSettings
from deployments.specs import Array
from deployments.waiting import Item

VALUES, BASE = "values", "base_values"
RTOL, ATOL = 1e-3, 1e-4
"""How near sums of float32 are to the float32 output that they stand for."""
PERMUTATIONS = 10
"""Orders in which a row's features are mixed into the whole background, there and back: the library's `auto`."""
_drawing = threading.Lock()
"""Held while the library draws from numpy's random numbers, which are the whole process's."""


class ShapExplainer:
    """SHAP values of the model's output `output`: for each row, they and the base value add up to it.

    Trees and linear models are explained from the library's own model; others by asking the engine for many
    mixtures of a row and the background, which are the same for the same row.
    """

    def __init__(self, settings: ExplainerSettings, engine: PredictEngine, context: LoadContext) -> None:
        context.progress("importing shap")
        self._shap = library("shap", "explain")
        self._engine, self._context = engine, context
        self._features = Features.of(engine)
        self._background = self._read_background(settings)
        context.progress("making the explainer")
        self.kind = settings.kind or self._choose()
        if self._background is None and self.kind != "tree":
            raise LoadError(f"explainer: kind {self.kind} needs background: the source of an npy or csv file of rows")
        self.output = ""
        try:
            self._explainer = self._make(settings.output)
            self.output = self._find_output(settings.output)
        except ServeAppError:
            raise
        except Exception as error:
            why = f"{said(error)}; have: tree, linear, permutation"
            raise LoadError(f"explainer: kind {self.kind} does not explain this model: {why}") from error
        most = 1 if self.kind == "permutation" else BATCH_ROWS
        self._batcher: Batcher[Array, tuple[Array, Array]] = Batcher(
            f"{context.name}-explainer",
            lambda rows: [Item(row, 1) for row in rows],
            lambda rows: list(zip(*self._compute(np.stack(rows)), strict=True)),
            max_cost=most,
            max_items=most,
            max_padding=1.0,
            max_queue=context.max_queue,
            label="row",
        )

    async def explain(self, question: Question) -> Explanation:
        """See `deployments.explainers.Explainer.explain`. `values` is `[n, features]`, or `[n, features, outputs]`."""
        matrix = self._features.matrix(question.tensors)
        values, base = (np.stack(part) for part in zip(*await self._batcher.submit(list(matrix)), strict=True))
        names = list(self._features.names)
        rows = [{BASE: one_base, VALUES: one} for one_base, one in zip(base, values, strict=True)]
        v1 = {"predictions": question.predictions, "explanations": rows, "feature_names": names, "output": self.output}
        by_output = values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)
        v2 = {
            "meta": {"name": f"{self.kind.capitalize()}Shap", "output": self.output},
            "data": {
                "shap_values": np.ascontiguousarray(by_output),
                "expected_value": np.atleast_1d(base[0]),
                "feature_names": names,
                "raw": {"raw_prediction": base + values.sum(axis=1), "instances": matrix},
            },
        }
        return Explanation(v1, v2, {VALUES: values, BASE: base})

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._batcher.alive()

    def close(self) -> None:
        """Stop the thread and drop the explainer."""
        self._batcher.close()
        del self._explainer, self._engine

    def _read_background(self, settings: ExplainerSettings) -> Array | None:
        if settings.background is None:
            return None
        rows = self._features.read(sources.resolve(settings.background, self._context.progress))
        drawn: Array = self._shap.utils.sample(rows, min(settings.background_rows, len(rows)))
        return drawn

    def _masker(self) -> Any:
        assert self._background is not None, "checked for the kinds that need it"
        return self._shap.maskers.Independent(self._background, max_samples=len(self._background))

    def _choose(self) -> str:
        """The explainer that knows the model best."""
        model = self._engine.explained()
        if model is None:
            return "permutation"
        explainers = self._shap.explainers
        if explainers.TreeExplainer.supports_model_with_masker(model, None):
            return "tree"
        masker = self._shap.maskers.Independent(np.zeros((1, self._features.width)))
        linear = explainers.LinearExplainer.supports_model_with_masker(model, masker)
        return "linear" if linear else "permutation"

    def _make(self, output: str | None) -> Any:
        explainers, model = self._shap.explainers, self._engine.explained()
        if self.kind == "tree":
            made = explainers.TreeExplainer(model, self._background)
            if output == "predict_proba" and made.model.tree_output != "probability":
                if self._background is None:
                    raise LoadError("explainer: output predict_proba of these trees needs background")
                made = explainers.TreeExplainer(model, self._background, model_output="probability")
            return made
        if self.kind == "linear":
            return explainers.LinearExplainer(model, self._masker())
        have = self._candidates()
        if output and output not in have:
            raise LoadError(f"explainer.output: there is no {output!r}; outputs of numbers are {', '.join(have)}")
        self.output = output or have[0]
        calls = PERMUTATIONS * (2 * self._features.width + 1)
        return explainers.PermutationExplainer(self._ask, self._masker(), max_evals=calls, silent=True)

    def _candidates(self) -> list[str]:
        """The outputs that are numbers, those of scikit-learn's names first."""
        have = [one.name for one in self._engine.outputs if one.datatype not in ("BYTES", "BOOL")]
        first = [name for name in ("predict_proba", "decision_function", "predict") if name in have]
        if not have:
            raise LoadError("explainer: the model declares no output that is a number")
        return [*first, *(name for name in have if name not in first)]

    def _find_output(self, wanted: str | None) -> str:
        """The output that values add up to, found by trying it. Raises `LoadError` where it is not the wanted one."""
        drawn = np.random.default_rng(0).normal(size=(2, self._features.width))
        rows = drawn if self._background is None else self._background[:2]
        values, base = self._compute(rows)
        sums = base + values.sum(axis=1)
        found = [name for name in self._candidates() if _alike(sums, self._ask(rows, name))]
        if not found:
            raise LoadError(f"explainer: what kind {self.kind} says adds up to no output; use kind permutation")
        if wanted and wanted not in found:
            raise LoadError(f"explainer: kind {self.kind} explains {', '.join(found)}, not output {wanted!r}")
        return wanted or ("predict" if "predict" in found else found[0])

    def _ask(self, matrix: Array, output: str | None = None) -> Array:
        """The engine's output for rows of features. Blocks, in another thread than the loop's."""
        assert self._context.loop is not None, "explanations need LoadContext.loop: where requests come"
        name = output or self.output
        asked = self._engine.predict(self._features.tensors(np.asarray(matrix)), (name,), {})
        answer = asyncio.run_coroutine_threadsafe(_awaited(asked), self._context.loop).result()
        return answer[name].astype(np.float64)

    def _compute(self, rows: Array) -> tuple[Array, Array]:
        """Values `[n, features]` or `[n, features, outputs]` of rows `[n, features]`, and the base values of each."""
        with self._drawn() if self.kind == "permutation" else contextlib.nullcontext():
            made = self._explainer(rows)
        values = np.asarray(made.values, np.float64)
        return values, np.broadcast_to(np.asarray(made.base_values, np.float64), (len(rows), *values.shape[2:]))

    @contextlib.contextmanager
    def _drawn(self) -> Iterator[None]:
        """Have the library draw the same random numbers in each such block."""
        with _drawing:
            state = np.random.get_state()
            np.random.seed(0)
            try:
                yield
            finally:
                np.random.set_state(state)


async def _awaited(asked: Any) -> dict[str, Array]:
    found: dict[str, Array] = await asked
    return found


def _alike(sums: Array, output: Array) -> bool:
    """Whether sums `[n]` or `[n, k]` are an output; `[n]` may be that of the second of two classes."""
    if output.ndim == 2 and output.shape[1] == 1:
        output = output[:, 0]
    if sums.ndim == 2 and sums.shape[1] == 1:
        sums = sums[:, 0]
    if sums.ndim == 1 and output.ndim == 2 and output.shape[1] == 2:
        output = output[:, 1]
    return sums.shape == output.shape and bool(np.allclose(sums, output, RTOL, ATOL))
