"""Embeddings by sentence-transformers: its models, its numbers, in token-budgeted batches.

Texts are tokenised once, in the compute thread (a fast tokenizer is not thread-safe), sorted by
length and padded to their neighbours only. Knows nothing of HTTP or of OpenAI's shapes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from deployments.batcher import Batcher
from deployments.engines import Embedded, LoadContext, Task, Text, Truncate
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
from deployments.token_ids import decode
from deployments.waiting import Item


class Options(TorchOptions):
    normalize: bool | None = Field(None, description="scale vectors to length 1; by default as the model does")
    prompts: dict[str, str] = Field({}, description="texts put before inputs, by name; added to the model's own")
    default_prompt: str | None = Field(None, description="the prompt used when a request names none")
    token_ids: str = Field("cl100k_base", description="what token ids as input mean: a tiktoken encoding, or `model`")


class _Input(NamedTuple):
    text: Text
    prompt: str
    truncate: Truncate


class _Tokens(NamedTuple):
    ids: list[int]
    prompt_length: int | None


class _Vector(NamedTuple):
    vector: npt.NDArray[np.float32]
    tokens: int


class Engine:
    """Engine `sentence_transformers`, task embed."""

    task: ClassVar[Task] = "embed"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("sentence_transformers",)
    note: ClassVar[str] = ""

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Read a sentence-transformers folder. Raises `LoadError` for a model without a text tokenizer."""
        context.progress("importing sentence-transformers")
        from sentence_transformers import SentenceTransformer

        self._compute_on = Compute.choose(options, context)
        with reading_weights(context.progress):
            self._model = SentenceTransformer(
                str(path), prompts=options.prompts or None, **model_arguments(options, self._compute_on)
            ).eval()
            pack_linears(self._model)
        if not hasattr(self._model.tokenizer, "pad"):
            raise LoadError("the model has no text tokenizer; this engine embeds text only")
        self._options = options
        self._max_length = check_max_length(self._model, options.max_length)
        self._prompts: dict[str, str] = {"": "", "query": "", "document": "", **self._model.prompts}
        if options.default_prompt is not None:
            self._prompt_text(options.default_prompt)
        self._find_special_tokens()
        self.dimensions = int(self._model.get_embedding_dimension() or 0)
        self._batcher: Batcher[_Input, _Vector] = self._compute_on.batcher(
            options, context, self._tokenize, self._compute
        )

    def close(self) -> None:
        """Stop the thread and drop the weights."""
        self._batcher.close()
        del self._model
        self._compute_on.release()

    def alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._batcher.alive()

    async def embed(
        self,
        texts: Sequence[Text],
        *,
        prompt: str | None = None,
        truncate: Truncate | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
    ) -> Embedded:
        """See `deployments.engines.EmbedEngine.embed`."""
        if dimensions is not None and not 1 <= dimensions <= self.dimensions:
            raise BadRequest(f"dimensions is {dimensions}; this model has 1 to {self.dimensions}", param="dimensions")
        prompt_text = self._prompt_text(prompt if prompt is not None else self._options.default_prompt or "")
        policy = truncate or self._options.truncate
        done = await self._batcher.submit([_Input(text, prompt_text, policy) for text in texts])
        vectors = np.stack([one.vector for one in done])
        if dimensions is not None and dimensions < self.dimensions:
            vectors = unit_length(vectors[:, :dimensions])
        elif normalize if normalize is not None else self._options.normalize:
            vectors = unit_length(vectors)
        return Embedded(vectors, sum(one.tokens for one in done))

    def decode_ids(self, ids: Sequence[int]) -> Text:
        """See `deployments.engines.EmbedEngine.decode_ids`."""
        if self._options.token_ids != "model":
            return decode(self._options.token_ids, ids)
        size = len(self._model.tokenizer)
        if bad := next((i for i in ids if not 0 <= i < size), None):
            raise BadRequest(f"token id {bad} is not one of this model's {size}", param="input")
        return list(ids)

    def _prompt_text(self, name: str) -> str:
        if name not in self._prompts:
            have = ", ".join(sorted(key for key in self._prompts if key)) or "none"
            raise BadRequest(f"unknown prompt {name!r}; this model has: {have}", param="prompt_name")
        return self._prompts[name]

    def _find_special_tokens(self) -> None:
        """The ids that the tokenizer puts before and after every text."""
        tokenizer = self._model.tokenizer
        bare, full = self._bare_ids("a"), tokenizer("a").input_ids
        at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), None)
        if at is None:
            raise LoadError("the tokenizer writes a text differently when it adds special tokens")
        self._before, self._after = full[:at], full[at + len(bare) :]

    def _tokenize(self, inputs: Sequence[_Input]) -> list[Item | ServeAppError]:
        texts = [one.prompt + one.text for one in inputs if isinstance(one.text, str)]
        usable = [text if len(text) <= MAX_CHARACTERS else "" for text in texts]
        found = iter(self._model.tokenizer(usable, verbose=False).input_ids if usable else [])
        return [
            self._item(one, next(found) if isinstance(one.text, str) else self._with_special(one)) for one in inputs
        ]

    def _with_special(self, one: _Input) -> list[int]:
        """A text given as ids, with the prompt's ids and the special ones, as the tokenizer would make them."""
        special = set(self._model.tokenizer.all_special_ids)
        ids = [int(i) for i in one.text if i not in special]
        return [*self._before, *self._bare_ids(one.prompt), *ids, *self._after]

    def _bare_ids(self, text: str) -> list[int]:
        return list(self._model.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def _item(self, one: _Input, ids: list[int]) -> Item | ServeAppError:
        if isinstance(one.text, str) and len(one.text) + len(one.prompt) > MAX_CHARACTERS:
            return BadRequest(f"a text of {len(one.text)} characters; at most {MAX_CHARACTERS}")
        if len(ids) > self._max_length:
            if one.truncate == "error":
                return too_long(len(ids), self._max_length)
            keep = self._max_length - len(self._before) - len(self._after)
            ids = [*ids[: len(self._before)], *ids[len(self._before) :][:keep], *self._after]
        prompt_length = self._prompt_length(one.prompt)
        return Item(_Tokens(ids, prompt_length), len(ids), prompt_length)

    def _prompt_length(self, prompt: str) -> int | None:
        """Tokens of the prompt, for models whose pooling leaves it out; None for the others."""
        if not prompt or all(getattr(module, "include_prompt", True) for module in self._model):
            return None
        return len(self._before) + len(self._bare_ids(prompt))

    def _compute(self, batch: list[_Tokens]) -> list[_Vector]:
        import torch

        self._compute_on.use_threads()
        features = pad([{"input_ids": one.ids} for one in batch], self._model.tokenizer, self._compute_on.device)
        if batch[0].prompt_length is not None:
            features["prompt_length"] = batch[0].prompt_length
        with torch.inference_mode():
            vectors = self._model(features)["sentence_embedding"].float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise EngineError("the model's embedding is not finite (NaN or infinity)")
        return [_Vector(vector, len(one.ids)) for vector, one in zip(vectors, batch, strict=True)]


def unit_length(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows scaled to Euclidean length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled
