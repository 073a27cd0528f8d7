"""Reranking by a sentence-transformers cross-encoder: each document read together with the query.

The score is the sigmoid of the model's single logit, whatever activation the model declares, so
that it lies in 0..1 and depends on its own document alone. Knows nothing of HTTP.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from deployments.batcher import Batcher
from deployments.engines import LoadContext, Reranked, Task, Truncate
from deployments.engines._packed import pack_linears
from deployments.engines._torch import (
    MAX_CHARACTERS,
    Compute,
    TorchOptions,
    check_max_length,
    model_arguments,
    pad,
    reading_weights,
    too_long,
)
from deployments.errors import BadRequest, EngineError, LoadError, ServeAppError
from deployments.settings import Frozen
from deployments.waiting import Item


class Options(TorchOptions):
    truncate: Truncate = Field("end", description="what becomes of longer pairs: cut at the end, or refused")


class _Pair(NamedTuple):
    query: str
    document: str
    truncate: Truncate


class _Logit(NamedTuple):
    logit: float
    tokens: int


class Engine:
    """Engine `cross_encoder`, task rerank."""

    task: ClassVar[Task] = "rerank"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("sentence_transformers",)
    note: ClassVar[str] = ""

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Read a cross-encoder's folder. Raises `LoadError` for a model with other than one label."""
        context.progress("importing sentence-transformers")
        from sentence_transformers import CrossEncoder

        self._compute_on = Compute.choose(options, context)
        with reading_weights(context.progress):
            self._model = CrossEncoder(str(path), **model_arguments(options, self._compute_on)).eval()
            pack_linears(self._model)
        if self._model.num_labels != 1:
            raise LoadError(f"a reranker has one label, this model has {self._model.num_labels}")
        self._options = options
        self._max_length = check_max_length(self._model, options.max_length)
        self._batcher: Batcher[_Pair, _Logit] = self._compute_on.batcher(
            options, context, self._tokenize, self._compute, "documents"
        )

    def close(self) -> None:
        """Stop the thread and drop the weights."""
        self._batcher.close()
        del self._model
        self._compute_on.release()

    def alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._batcher.alive()

    async def rerank(self, query: str, documents: Sequence[str], *, truncate: Truncate | None = None) -> Reranked:
        """See `deployments.engines.RerankEngine.rerank`."""
        policy = truncate or self._options.truncate
        done = await self._batcher.submit([_Pair(query, document, policy) for document in documents])
        logits = np.array([one.logit for one in done], np.float32)
        return Reranked(sigmoid(logits), logits, sum(one.tokens for one in done))

    def _tokenize(self, pairs: Sequence[_Pair]) -> list[Item | ServeAppError]:
        usable = [pair if _characters(pair) <= MAX_CHARACTERS else _Pair("", "", pair.truncate) for pair in pairs]
        whole = self._encode(usable, truncation=False)
        long = [i for i, one in enumerate(whole) if len(one["input_ids"]) > self._max_length]
        again = [usable[i] for i in long]
        cut = self._encode(again, truncation="longest_first", max_length=self._max_length) if again else []
        shortened = dict(zip(long, cut, strict=True))
        return [self._item(pair, whole[i], shortened.get(i)) for i, pair in enumerate(pairs)]

    def _encode(self, pairs: Sequence[_Pair], **options: Any) -> list[dict[str, list[int]]]:
        found = self._model.tokenizer(
            [pair.query for pair in pairs], [pair.document for pair in pairs], verbose=False, **options
        )
        return [{key: values[i] for key, values in found.items()} for i in range(len(pairs))]

    def _item(self, pair: _Pair, whole: dict[str, list[int]], cut: dict[str, list[int]] | None) -> Item | ServeAppError:
        if _characters(pair) > MAX_CHARACTERS:
            return BadRequest(f"query and document have {_characters(pair)} characters; at most {MAX_CHARACTERS}")
        if cut and pair.truncate == "error":
            return too_long(len(whole["input_ids"]), self._max_length)
        tokens = cut or whole
        return Item(tokens, len(tokens["input_ids"]))

    def _compute(self, batch: list[dict[str, list[int]]]) -> list[_Logit]:
        import torch

        self._compute_on.use_threads()
        features = pad(batch, self._model.tokenizer, self._compute_on.device)
        with torch.inference_mode():
            logits = self._model(features)["scores"].float().reshape(len(batch)).cpu().tolist()
        if not np.isfinite(logits).all():
            raise EngineError("the model's score is not finite (NaN or infinity)")
        return [_Logit(logit, len(one["input_ids"])) for logit, one in zip(logits, batch, strict=True)]


def _characters(pair: _Pair) -> int:
    return len(pair.query) + len(pair.document)


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """1 / (1 + e^-x), computed so that neither side overflows."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
