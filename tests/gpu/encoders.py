"""An embedder as large as bge-large and a reranker as large as bge-reranker-base, on sentence-transformers."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tests.gpu import checkpoints
from tests.gpu.models import Arrays, Bound, Checked, Finding, Kind, texts, within

LONGEST = 500
"""Words of a text that fills the models' 512 tokens, or nearly."""
PRESSED: dict[str, Any] = {"batch_tokens": 1 << 40, "batch_items": 1 << 40, "batch_padding": 1.0}


def options(kind: Kind) -> dict[str, Any]:
    """float32, or float16 as both are usually served."""
    dtype = "float32" if kind == "precise" else "float16"
    return {"dtype": dtype, "truncate": "end", **(PRESSED if kind == "pressed" else {})}


class Embedder(Checked):
    name = "embedder"
    engine = "sentence_transformers"
    packages = ("sentence_transformers",)
    checkpoint = "embedder"
    memory_gib = 5
    unit = "texts/s"
    clients = 8
    bound: ClassVar[Bound] = "torch"

    def make(self, folder: Path) -> None:
        checkpoints.make_embedder(folder, self.tiny)

    def options(self, kind: Kind, on_gpu: bool) -> dict[str, Any]:
        return options(kind)

    async def outputs(self, engine: Any) -> Arrays:
        """Vectors `[n, d]` of length 1."""
        read = texts(16, 3, 100, checkpoints.words(self.tiny), seed=1)
        return {"vectors": (await engine.embed(read, normalize=True)).vectors}

    def judge(self, reference: Arrays, found: Arrays, kind: Kind) -> list[Finding]:
        cosine, difference = (0.99999, 1e-4) if kind == "precise" else (0.999, 5e-3)
        ours, theirs = found["vectors"], reference["vectors"]
        least = float((ours * theirs).sum(axis=1).min())
        nearest = float((theirs @ theirs.T - 2 * np.eye(len(theirs))).max())
        return [
            Finding(f"cosine with the CPU's vectors {least:.7f} (at least {cosine:g})", least >= cosine),
            Finding(f"different texts are less alike: cosine {nearest:.4f} at most", nearest < cosine),
            within("largest difference of a number", float(np.abs(ours - theirs).max()), difference),
        ]

    async def ask(self, engine: Any, done: Callable[[float], None]) -> None:
        """A request of 32 texts of 16 to 240 words."""
        read = texts(2 if self.tiny else 32, 16, 240, checkpoints.words(self.tiny), seed=2)
        await engine.embed(read)
        done(len(read))

    async def press(self, engine: Any, turn: int) -> int:
        read = texts(32 << (2 * turn), LONGEST, LONGEST, checkpoints.words(self.tiny), seed=3)
        await engine.embed(read)
        return len(read)


class Reranker(Checked):
    name = "reranker"
    engine = "cross_encoder"
    packages = ("sentence_transformers",)
    checkpoint = "reranker"
    memory_gib = 4
    unit = "pairs/s"
    clients = 8
    bound: ClassVar[Bound] = "torch"

    def make(self, folder: Path) -> None:
        checkpoints.make_reranker(folder, self.tiny)

    def options(self, kind: Kind, on_gpu: bool) -> dict[str, Any]:
        return options(kind)

    async def outputs(self, engine: Any) -> Arrays:
        """Scores `[2, n]` of the same documents for two queries."""
        queries = texts(2, 6, 6, checkpoints.words(self.tiny), seed=4)
        documents = texts(12, 3, 60, checkpoints.words(self.tiny), seed=5)
        found = await asyncio.gather(*(engine.rerank(query, documents) for query in queries))
        return {"scores": np.stack([one.scores for one in found])}

    def judge(self, reference: Arrays, found: Arrays, kind: Kind) -> list[Finding]:
        most = 1e-3 if kind == "precise" else 1e-2
        ours, theirs = found["scores"], reference["scores"]
        apart = float(theirs.std())
        return [
            within("largest difference from the CPU's scores", float(np.abs(ours - theirs).max()), most),
            Finding(f"scores of different documents are {apart:.2g} apart (standard deviation)", apart > most),
        ]

    async def ask(self, engine: Any, done: Callable[[float], None]) -> None:
        """A query with 32 documents of 32 to 240 words."""
        read = texts(2 if self.tiny else 32, 32, 240, checkpoints.words(self.tiny), seed=6)
        await engine.rerank("w1 w2 w3 w4 w5 w6", read)
        done(len(read))

    async def press(self, engine: Any, turn: int) -> int:
        read = texts(32 << (2 * turn), LONGEST, LONGEST, checkpoints.words(self.tiny), seed=7)
        await engine.rerank("w1 w2 w3", read)
        return len(read)
