"""A Llama of 1.1 billion weights, on the engines `transformers` and `vllm`.

Weights are random, so the best two tokens are often nearly as likely, and then the smallest rounding decides. So the
CPU's tokens count as far as each is clearly the best: up to the first whose logit is within a margin of the next one's.
"""

import asyncio
import importlib
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deployments.engines import GenerateOptions
from tests.gpu import checkpoints
from tests.gpu.models import Arrays, Bound, Checked, Finding, Kind, texts

PROMPTS, MADE = 16, 12
"""Prompts that are compared, and tokens made after each."""
ANSWER = 64
"""Tokens of an answer while throughput is measured."""


class Llm(Checked):
    name = "llm"
    engine = "transformers"
    checkpoint = "llm"
    memory_gib = 8
    unit = "tokens/s"
    clients = 16
    bound: ClassVar[Bound] = "torch"
    margins: ClassVar[dict[Kind, float]] = {"precise": 0.01, "serving": 0.12, "pressed": 0.12}
    """Of logits, whose standard deviation is about 1. bfloat16 moved such margins by up to 0.08 on a CPU."""

    def make(self, folder: Path) -> None:
        checkpoints.make_llm(folder, self.tiny)

    def options(self, kind: Kind, on_gpu: bool) -> dict[str, Any]:
        dtype = "float32" if kind == "precise" else "bfloat16"
        return {"dtype": dtype, "max_batch": 1 << 20 if kind == "pressed" else self.clients}

    async def reference(self, folder: Path, cpus: int) -> Arrays:
        """Tokens by the library itself, and by how much the logit of each exceeds the next one: `[prompts, made]`."""
        return await asyncio.to_thread(self._by_library, folder, cpus)

    async def outputs(self, engine: Any) -> Arrays:
        asked = GenerateOptions(max_tokens=MADE, temperature=0)
        answers = await asyncio.gather(*(_answer(engine, prompt, asked) for prompt in self._prompts()))
        return {"tokens": np.array([[int(word[1:]) for word in answer.split()] for answer in answers])}

    def judge(self, reference: Arrays, found: Arrays, kind: Kind) -> list[Finding]:
        clear = np.logical_and.accumulate(reference["margins"] > self.margins[kind], axis=1)
        equal = found["tokens"] == reference["tokens"]
        compared, right = int(clear.sum()), int((clear & equal).sum())
        others = len({tuple(row) for row in reference["tokens"].tolist()})
        return [
            Finding(f"{right} of {compared} tokens are the CPU's, while those are clear", compared == right),
            Finding(f"{compared} tokens compared, at least {PROMPTS // 2}", compared >= PROMPTS // 2),
            Finding(f"{others} different answers to {PROMPTS} prompts", others == PROMPTS),
        ]

    async def ask(self, engine: Any, done: Callable[[float], None]) -> None:
        """A prompt of 128 tokens, answered by 64."""
        (prompt,) = texts(1, 128, 128, checkpoints.words(self.tiny), seed=8)
        await _answer(engine, prompt, GenerateOptions(max_tokens=ANSWER, temperature=0), done)

    async def press(self, engine: Any, turn: int) -> int:
        prompts = texts(32 << (2 * turn), 1000, 1000, checkpoints.words(self.tiny), seed=9)
        await asyncio.gather(*(_answer(engine, prompt, GenerateOptions(max_tokens=1)) for prompt in prompts))
        return len(prompts)

    def _prompts(self) -> list[str]:
        return texts(PROMPTS, 4, 48, checkpoints.words(self.tiny), seed=10)

    def _by_library(self, folder: Path, cpus: int) -> Arrays:
        import torch

        transformers: Any = importlib.import_module("transformers")
        torch.set_num_threads(cpus)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        found = [_greedily(model, tokenizer(prompt, return_tensors="pt").input_ids) for prompt in self._prompts()]
        first = tokenizer.convert_tokens_to_ids("w0")
        tokens, margins = (np.array(one) for one in zip(*found, strict=True))
        return {"tokens": tokens - first, "margins": margins}


class VllmLlm(Llm):
    name = "llm-vllm"
    engine = "vllm"
    packages = ("vllm",)
    memory_gib = 12
    clients = 64
    bound: ClassVar[Bound] = "vllm"
    margins: ClassVar[dict[Kind, float]] = {"precise": 0.05, "serving": 0.12, "pressed": 0.12}
    """Its kernels multiply float32 in TF32."""

    def options(self, kind: Kind, on_gpu: bool) -> dict[str, Any]:
        precise = {"dtype": "float32", "enforce_eager": True}
        return {"max_model_len": checkpoints.LLM_CONTEXT, **(precise if kind == "precise" else {"dtype": "bfloat16"})}


async def _answer(
    engine: Any, prompt: str, asked: GenerateOptions, done: Callable[[float], None] = lambda _: None
) -> str:
    text, made = "", 0
    async with aclosing(engine.generate(prompt, asked)) as pieces:
        async for piece in pieces:
            text += piece.text
            done(piece.completion_tokens - made)
            made = piece.completion_tokens
    return text


def _greedily(model: Any, ids: Any) -> tuple[list[int], list[float]]:
    """The likeliest tokens after a prompt `[1, tokens]`, and the margins of their logits."""
    import torch

    tokens, margins, cache = [], [], None
    with torch.inference_mode():
        for _ in range(MADE):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True)
            best, second = out.logits[0, -1].topk(2).values.tolist()
            ids, cache = out.logits[:, -1].argmax(dim=-1, keepdim=True), out.past_key_values
            tokens.append(int(ids))
            margins.append(best - second)
    return tokens, margins
