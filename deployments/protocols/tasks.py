"""What the tasks of text and of tensors are in KServe's protocols: what goes in, and what comes out."""

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StrictStr

from deployments.engines import EmbedEngine, GenerateEngine, PredictEngine, RerankEngine
from deployments.errors import BadRequest
from deployments.protocols.app import ClientBody
from deployments.protocols.embeddings import as_list
from deployments.protocols.predictions import (
    Asked,
    Instance,
    Prediction,
    Specs,
    bytes_array,
    filled,
    read_instances,
    spec,
    texts_of,
    together,
)
from deployments.protocols.rerank import check_pairs
from deployments.protocols.rows import rows_to_tensors, tensors_to_rows
from deployments.protocols.v2_generate import GenerateParameters, GenerateRequest, of_adapter, whole
from deployments.specs import Array

MAX_PROMPTS = 64
"""Prompts in one request."""


class EmbedInstance(Instance):
    """A text; the text alone will do in its place."""

    text: StrictStr


class EmbedParameters(ClientBody):
    """As `/v1/embeddings` takes them."""

    prompt_name: str | None = None
    truncate: Literal["end", "error"] | None = None
    dimensions: int | None = Field(None, gt=0)
    normalize: bool | None = None


class Embed(Prediction[str, npt.NDArray[np.float32]]):
    """Texts to vectors."""

    def specs(self, engine: EmbedEngine | None) -> Specs:
        dimensions = engine.dimensions if engine else -1
        return Specs([spec("input", "BYTES", -1)], [spec("embeddings", "FP32", -1, dimensions)])

    def of_instances(self, asked: Asked, instances: list[Any]) -> list[str]:
        return [given.text for given in read_instances(asked, instances, EmbedInstance, "text")]

    def of_tensors(self, _asked: Asked, tensors: Mapping[str, Array]) -> list[str]:
        return texts_of(tensors["input"])

    async def work(self, asked: Asked, engine: EmbedEngine, items: Sequence[str]) -> Sequence[npt.NDArray[np.float32]]:
        texts = as_list(list(items), asked.served.settings.limits.max_inputs, asked.items)
        how = asked.read(EmbedParameters)
        done = await engine.embed(
            texts,
            prompt=how.prompt_name,
            truncate=how.truncate,
            dimensions=how.dimensions,
            normalize=how.normalize,
        )
        return list(done.vectors)

    def tensors(self, results: Sequence[npt.NDArray[np.float32]]) -> dict[str, Array]:
        return {"embeddings": np.stack(results)}


class RerankInstance(Instance):
    """A query, and the documents to be ranked for it."""

    query: StrictStr
    documents: list[StrictStr]


class RerankParameters(ClientBody):
    """As `/v1/rerank` takes them."""

    truncate: Literal["end", "error"] | None = None


class Rerank(Prediction[RerankInstance, npt.NDArray[np.float32]]):
    """A query and documents to a score for each document, in their order."""

    def specs(self, _engine: Any) -> Specs:
        return Specs([spec("query", "BYTES", 1), spec("documents", "BYTES", -1)], [spec("scores", "FP32", -1)])

    def of_instances(self, asked: Asked, instances: list[Any]) -> list[RerankInstance]:
        return read_instances(asked, instances, RerankInstance)

    def of_tensors(self, _asked: Asked, tensors: Mapping[str, Array]) -> list[RerankInstance]:
        (query,) = texts_of(tensors["query"])
        return [RerankInstance(query=query, documents=texts_of(tensors["documents"]))]

    async def work(
        self, asked: Asked, engine: RerankEngine, items: Sequence[RerankInstance]
    ) -> Sequence[npt.NDArray[np.float32]]:
        limit = asked.served.settings.limits.max_inputs
        asked.check_shares(len(item.documents) / limit for item in items)
        truncate = asked.read(RerankParameters).truncate

        async def one(index: int, item: RerankInstance) -> npt.NDArray[np.float32]:
            with asked.naming(index):
                check_pairs(item.query, item.documents, limit, "documents")
                return (await engine.rerank(item.query, item.documents, truncate=truncate)).scores

        return await together(one(index, item) for index, item in enumerate(items))

    def tensors(self, results: Sequence[npt.NDArray[np.float32]]) -> dict[str, Array]:
        return {"scores": results[0]}


class Generate(Prediction[GenerateRequest, str]):
    """Prompts to the texts that continue them."""

    def specs(self, _engine: Any) -> Specs:
        return Specs([spec("text_input", "BYTES", -1)], [spec("text_output", "BYTES", -1)])

    def of_instances(self, asked: Asked, instances: list[Any]) -> list[GenerateRequest]:
        defaults, given = (
            asked.read(GenerateParameters),
            read_instances(asked, instances, GenerateRequest, "text_input"),
        )
        return [one.model_copy(update={"parameters": filled(one.parameters, defaults)}) for one in given]

    def of_tensors(self, asked: Asked, tensors: Mapping[str, Array]) -> list[GenerateRequest]:
        how = asked.read(GenerateParameters)
        return [GenerateRequest(text_input=text, parameters=how) for text in texts_of(tensors["text_input"])]

    async def work(self, asked: Asked, engine: GenerateEngine, items: Sequence[GenerateRequest]) -> Sequence[str]:
        asked.check_shares(1 / MAX_PROMPTS for _ in items)

        async def one(index: int, item: GenerateRequest) -> str:
            with asked.naming(index):
                return await whole(engine, item.text_input, item.parameters.options(), asked.model)

        return await together(one(index, item) for index, item in enumerate(items))

    def tensors(self, results: Sequence[str]) -> dict[str, Array]:
        return {"text_output": bytes_array(results)}

    async def stream(
        self, asked: Asked, engine: GenerateEngine, items: Sequence[GenerateRequest]
    ) -> AsyncGenerator[dict[str, Array]]:
        if len(items) != 1:
            raise BadRequest(f"{asked.items} has {len(items)} prompts; a stream has one", param=asked.items)
        options = of_adapter(engine, items[0].parameters.options(), asked.model)
        async with contextlib.aclosing(engine.generate(items[0].text_input, options)) as pieces:
            async for piece in pieces:
                yield self.tensors([piece.text])


class Predict(Prediction[dict[str, Array], dict[str, Array]]):
    """Named arrays to named arrays: V1's instances are the rows of all, and one item is a whole request."""

    of_engine = True

    def specs(self, engine: PredictEngine | None) -> Specs:
        return (
            Specs(engine.inputs, engine.outputs, engine.named, engine.columns) if engine else Specs((), (), named=False)
        )

    def of_instances(self, asked: Asked, instances: list[Any]) -> list[dict[str, Array]]:
        return [rows_to_tensors(asked.specs, instances)]

    def of_tensors(self, _asked: Asked, tensors: Mapping[str, Array]) -> list[dict[str, Array]]:
        return [dict(tensors)]

    def named_tensors(self, items: Sequence[dict[str, Array]]) -> Mapping[str, Array]:
        return items[0]

    async def work(
        self, asked: Asked, engine: PredictEngine, items: Sequence[dict[str, Array]]
    ) -> Sequence[dict[str, Array]]:
        (item,) = items
        return [await engine.predict(item, asked.outputs, asked.parameters)]

    def predictions(self, results: Sequence[dict[str, Array]]) -> Sequence[object] | Array:
        return tensors_to_rows(results[0])

    def tensors(self, results: Sequence[dict[str, Array]]) -> dict[str, Array]:
        return results[0]
