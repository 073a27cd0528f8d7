"""Reranking by an embedding model: the cosine of query and document, mapped into 0..1.

The score is sigmoid(scale * (cosine - midpoint)). Cosines of embedding models bunch up in a part of
-1..1 that differs by model: `midpoint` is the cosine that means "neither", `scale` how sharp the
turn is. The defaults suit MiniLM-like models; BGE models want a midpoint near 0.65.
Knows nothing of HTTP.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from deployments.engines import LoadContext, Reranked, Task, Truncate
from deployments.engines import sentence_transformers as embedding
from deployments.engines._torch import TorchOptions
from deployments.engines.cross_encoder import sigmoid
from deployments.settings import Frozen


class Options(TorchOptions):
    truncate: Truncate = Field("end", description="what becomes of longer texts: cut at the end, or refused")
    prompts: dict[str, str] = Field({}, description="texts put before `query` and `document`; added to the model's own")
    scale: float = Field(10.0, gt=0, description="steepness of the sigmoid over the cosine")
    midpoint: float = Field(0.3, ge=-1, le=1, description="the cosine that scores 0.5")


class Engine:
    """Engine `bi_encoder`, task rerank."""

    task: ClassVar[Task] = "rerank"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("sentence_transformers",)
    note: ClassVar[str] = (
        "It compares the embeddings of query and documents: good enough to try things, no match for a cross-encoder."
    )

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Read a sentence-transformers folder."""
        own = {"scale", "midpoint"}
        self._options = options
        self._embedder = embedding.Engine()
        self._embedder.load(
            path, embedding.Options(**options.model_dump(exclude=own | {"prompts"}), prompts=options.prompts), context
        )

    def close(self) -> None:
        """Stop the thread and drop the weights."""
        self._embedder.close()

    def alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._embedder.alive()

    async def rerank(self, query: str, documents: Sequence[str], *, truncate: Truncate | None = None) -> Reranked:
        """See `deployments.engines.RerankEngine.rerank`."""
        policy = truncate or self._options.truncate
        asked = await self._embedder.embed([query], prompt="query", truncate=policy, normalize=True)
        read = await self._embedder.embed(documents, prompt="document", truncate=policy, normalize=True)
        logits = self._options.scale * (read.vectors @ asked.vectors[0] - self._options.midpoint)
        return Reranked(sigmoid(logits), logits.astype(np.float32), asked.tokens + read.tokens)
