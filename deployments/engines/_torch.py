"""What the engines built on torch and sentence-transformers share. Knows no task."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from deployments import heap
from deployments.batcher import Batcher
from deployments.engines import LoadContext, Truncate
from deployments.errors import BadRequest, LoadError, ServeAppError
from deployments.gpu import choose_device
from deployments.settings import Frozen
from deployments.waiting import Item

if TYPE_CHECKING:
    import torch

MAX_CHARACTERS = 1_000_000
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 65_536
CPU_WORKERS = 4
"""At most so many batches at once on a CPU. Several batches of one thread each are faster than one
batch of several threads, which wait for each other: 115 against 100 texts/s of MiniLM on 2 cores."""


_reading = threading.Lock()


@contextlib.contextmanager
def reading_weights(progress: Callable[[str], None]) -> Iterator[None]:
    """No other model of this process is read within the block.

    While it builds a model, transformers changes torch for the whole process: of two that were built at once, one
    failed with "Cannot copy out of meta tensor".
    """
    if not _reading.acquire(blocking=False):
        progress("waiting until another model's weights are read")
        _reading.acquire()
    try:
        progress("reading weights")
        yield
    finally:
        _reading.release()


class TorchOptions(Frozen):
    """Where and how torch computes."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:0, mps")
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    threads: int | None = Field(None, gt=0, description="CPU threads; by default the replica's whole CPUs, else all")
    max_length: int | None = Field(None, gt=2, description="tokens read of one input; by default the model's own limit")
    truncate: Truncate = Field("error", description="what becomes of longer inputs: refused, or cut at the end")
    batch_tokens: int | None = Field(None, gt=0, description="padded tokens in one batch")
    batch_items: int = Field(256, gt=0, description="inputs in one batch")
    batch_padding: float = Field(0.1, ge=0, le=1, description="share of a batch that may be padding")


@dataclass(frozen=True)
class Compute:
    """Where an engine computes: the device, and the threads of each of its workers."""

    device: "torch.device"
    workers: int
    threads: int

    @classmethod
    def choose(cls, options: TorchOptions, context: LoadContext) -> "Compute":
        """As the options say; else the replica's GPU, or its whole CPUs, or every core. Raises `LoadError`."""
        device = choose_device(options.device, context.gpus)
        if device.type != "cpu":
            return cls(device, 1, 1)
        threads = options.threads or context.threads
        workers = min(threads, CPU_WORKERS)
        return cls(device, workers, threads // workers)

    def use_threads(self) -> None:
        """Bound torch's threads for the calling thread."""
        import torch

        torch.set_num_threads(self.threads)

    def trim(self) -> None:
        """Give freed memory back to the system, on a CPU: what torch took for one length is of little use to others."""
        if self.device.type == "cpu":
            heap.trim()

    def release(self) -> None:
        """Give freed memory back to the GPU, where others see it."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def batcher(
        self,
        options: TorchOptions,
        context: LoadContext,
        prepare: Callable[[Sequence[Any]], Sequence[Item | ServeAppError]],
        compute: Callable[[list[Any]], Sequence[Any]],
        label: str = "input",
    ) -> "Batcher[Any, Any]":
        """A batcher with the options' bounds, or those that suit the device."""
        return Batcher(
            context.name,
            prepare,
            compute,
            max_cost=options.batch_tokens or (CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS),
            max_items=options.batch_items,
            max_padding=options.batch_padding,
            max_queue=context.max_queue,
            workers=self.workers,
            label=label,
            rest=self.trim,
        )


def model_arguments(options: TorchOptions, compute: Compute) -> dict[str, Any]:
    """How sentence-transformers' classes are told where and how to load."""
    import torch

    return {
        "device": str(compute.device),
        "local_files_only": True,
        "model_kwargs": {"dtype": getattr(torch, options.dtype)},
    }


def check_max_length(model: Any, asked: int | None) -> int:
    """Apply the asked limit, in tokens, to a sentence-transformers model, and return the limit in force."""
    positions = getattr(getattr(model[0], "config", None), "max_position_embeddings", None)
    if asked is not None:
        if positions and asked > positions:
            raise LoadError(f"options.max_length is {asked}, and the model has positions for {positions} tokens")
        model.max_seq_length = asked
    return int(model.max_seq_length or positions or 512)


def pad(batch: Sequence[dict[str, list[int]]], tokenizer: Any, device: "torch.device") -> dict[str, Any]:
    """A batch of token lists as the model's tensors `[n, longest]`, with their attention mask."""
    import torch

    longest = max(len(one["input_ids"]) for one in batch)
    fill = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0)}
    right = tokenizer.padding_side == "right"
    tensors: dict[str, Any] = {"modality": "text"}
    for key in [*(key for key in batch[0] if key in fill), "attention_mask"]:
        rows = np.full((len(batch), longest), fill.get(key, 0), np.int64)
        for row, one in zip(rows, batch, strict=True):
            values = one[key] if key in fill else np.ones(len(one["input_ids"]), np.int64)
            at = 0 if right else longest - len(values)
            row[at : at + len(values)] = values
        tensors[key] = torch.from_numpy(rows).to(device)
    return tensors


def too_long(tokens: int, limit: int) -> BadRequest:
    """The refusal of an input over the model's limit."""
    return BadRequest(
        f"an input of {tokens} tokens; this model reads at most {limit}. Split it, or set truncate to `end` "
        "(the model's option, or `truncate` in the request) to have it cut."
    )
