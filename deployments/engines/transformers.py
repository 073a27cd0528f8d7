"""Text generation by Hugging Face transformers: any causal LM that it reads, through its own `generate`.

What waits when the engine is free runs as one batch, to the end of its longest text; requests that come
meanwhile wait for that end. Each has its own sampling, stop strings and limit, and its pieces as they are
made. For CPUs and for models that vLLM lacks; knows nothing of HTTP or of OpenAI's shapes.
"""

import asyncio
import importlib
import math
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from deployments.batcher import Batcher
from deployments.engines import Generated, GenerateOptions, LoadContext, Message, Task
from deployments.engines._torch import MAX_CHARACTERS, Compute, reading_weights
from deployments.errors import BadRequest, EngineError, LoadError
from deployments.gpu import choose_device
from deployments.settings import Frozen
from deployments.waiting import Item

if TYPE_CHECKING:
    import torch
    from starlette.types import ASGIApp

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers write for the bytes of a character that is not complete."""
LOOK_BACK = 5
"""Tokens of the prompt that the text's beginning is decoded with, for tokenizers that strip the first space."""
COLDEST = 1e-4
"""Lower temperatures are greedy: numbers divided by them overflow."""


class Options(Frozen):
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0, mps")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="auto: float32 on a CPU, elsewhere as the weights are"
    )
    threads: int | None = Field(None, gt=0, description="CPU threads; by default the replica's whole CPUs, else all")
    context_length: int | None = Field(None, gt=1, description="tokens of prompt and answer; by default all positions")
    max_batch: int = Field(8, gt=0, description="requests computed together")
    max_new_tokens: int | None = Field(None, gt=0, description="where a request names no limit; by default no bound")


class TextStream:
    """Tokens in, text out, as soon as it is certain: whole characters, and nothing that may begin a stop string."""

    def __init__(self, decode: Callable[[list[int]], str], before: list[int], stop: Sequence[str]) -> None:
        self._decode, self._stop = decode, [one for one in stop if one]
        self._ids, self._context, self._known = list(before), 0, len(before)
        self._held = ""
        self.stopped = False
        """Whether a stop string came; nothing comes after it."""

    def add(self, tokens: list[int], last: bool = False) -> str:
        """The text that these tokens make certain; after the last ones all of it but an incomplete character."""
        self._ids += tokens
        # Decoded with the tokens before them, for what a token writes may depend on those.
        before, now = (self._decode(self._ids[self._context : end]) for end in (self._known, None))
        new = now[len(before) :].rstrip(INCOMPLETE) if last else now[len(before) :]
        if new and not new.endswith(INCOMPLETE):
            self._context, self._known = self._known, len(self._ids)
            self._held += new
        found = [at for at in (self._held.find(one) for one in self._stop) if at >= 0]
        self.stopped = bool(found)
        keep = min(found) if found else len(self._held) - (0 if last else self._may_begin())
        text, self._held = self._held[:keep], self._held[keep:]
        return text

    def _may_begin(self) -> int:
        """Length of the longest end of what is held that a stop string begins with."""
        sizes = range(min(len(self._held), max(map(len, self._stop), default=0)), 0, -1)
        return next((n for n in sizes if any(one.startswith(self._held[-n:]) for one in self._stop)), 0)


@dataclass(eq=False)
class _Row:
    """One request's place in a batch."""

    ids: list[int]
    limit: int
    text: TextStream
    ends: frozenset[int]
    warpers: list[Any]
    """What makes the distribution to sample from out of the logits; none where the best token is taken."""
    chance: "torch.Generator"
    emit: Callable[[Generated], None]
    cancelled: bool = False
    made: int = 0
    done: bool = False

    def sample(self, scores: "torch.Tensor") -> int:
        """A token by chance, from logits `[1, vocabulary]`: the request's own, whatever else is in the batch."""
        import torch

        for warper in self.warpers:
            scores = warper(None, scores)
        return int(torch.multinomial(scores.softmax(-1).cpu(), 1, generator=self.chance))

    def take(self, token: int) -> None:
        """Tell the request of its next token, and find out whether it is the last one."""
        self.made += 1
        ended, full = token in self.ends, self.made >= self.limit
        text = self.text.add([] if ended else [token], last=ended or full)
        stopped = ended or self.text.stopped
        self.done = stopped or full or self.cancelled
        self.emit(Generated(text, len(self.ids), self.made, "stop" if stopped else "length" if full else None))


class Engine:
    """Engine `transformers`, task generate."""

    task: ClassVar[Task] = "generate"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)
    note: ClassVar[str] = ""
    app: "ASGIApp | None" = None

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Read a causal LM's folder. Raises `LoadError` for a context that the model has not."""
        context.progress("importing transformers")
        self._library: Any = importlib.import_module("transformers")  # its types lag behind it
        threads = options.threads or context.threads
        self._compute_on = Compute(choose_device(options.device, context.gpus), 1, threads)
        dtype = "float32" if self._compute_on.device.type == "cpu" and options.dtype == "auto" else options.dtype
        self._tokenizer = self._library.AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._tokenizer("a")  # the first call may change it; later ones only read
        self._decode = partial(self._tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        with reading_weights(context.progress):
            model = self._library.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
        self._model = model.to(self._compute_on.device).eval()
        self.context_length = _context_length(self._model.config, options.context_length)
        self._options, self._stopped, self._reading = options, False, threading.Lock()
        self._take_settings()
        self._batcher: Batcher[_Row, None] = Batcher(
            context.name,
            lambda rows: [Item(row, len(row.ids)) for row in rows],
            self._compute,
            max_cost=options.max_batch * self.context_length,
            max_items=options.max_batch,
            max_padding=1.0,
            max_queue=context.max_queue,
            label="prompt",
        )

    def close(self) -> None:
        """Stop at the next token, and drop the weights."""
        self._stopped = True
        self._batcher.close()
        del self._model
        self._compute_on.release()

    def alive(self) -> bool:
        """Whether the compute thread runs."""
        return self._batcher.alive()

    def adapters(self) -> list[str]:
        """None: adapters are for vLLM."""
        return []

    async def generate(self, prompt: str | Sequence[Message], asked: GenerateOptions) -> AsyncGenerator[Generated]:
        """See `deployments.engines.GenerateEngine.generate`."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Generated | None] = asyncio.Queue()

        def emit(piece: Generated) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        row = await asyncio.to_thread(self._row, prompt, asked, emit)
        work = asyncio.create_task(self._batcher.submit([row]))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
                if piece.finish_reason:
                    return  # others in the batch may go on for long
            await work
        finally:
            row.cancelled = True
            work.cancel()

    def _take_settings(self) -> None:
        """Keep what the model says of sampling for `_row`, and out of `generate`, which takes the token it is told."""
        config = self._model.generation_config
        self._temperature = (1.0 if config.temperature is None else config.temperature) if config.do_sample else 0.0
        self._top_p, self._top_k = config.top_p or 1.0, config.top_k or 0
        ends = config.eos_token_id if config.eos_token_id is not None else self._tokenizer.eos_token_id
        self._ends = frozenset([ends] if isinstance(ends, int) else ends or [])
        config.do_sample, config.num_beams = False, 1
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "max_length", "max_new_tokens"):
            setattr(config, name, None)
        config.eos_token_id = sorted(self._ends) or None
        config.pad_token_id = next(iter(config.eos_token_id or [0]))  # what rows that are done get; nobody reads it

    def _row(self, prompt: str | Sequence[Message], asked: GenerateOptions, emit: Callable[[Generated], None]) -> _Row:
        import torch

        param = "prompt" if isinstance(prompt, str) else "messages"
        ids = self._read(prompt, param)
        chance = torch.Generator()
        chance.seed() if asked.seed is None else chance.manual_seed(asked.seed % (1 << 64))
        limit = self._limit(len(ids), asked.max_tokens, param)
        text = TextStream(self._decode, ids[-LOOK_BACK:], asked.stop)
        return _Row(ids, limit, text, self._ends, self._warpers(asked), chance, emit)

    def _read(self, prompt: str | Sequence[Message], param: str) -> list[int]:
        """The prompt's token ids. Raises `BadRequest` for a chat that the model's template does not take."""
        size = len(prompt) if isinstance(prompt, str) else sum(len(one.content) for one in prompt)
        if size > MAX_CHARACTERS:
            raise BadRequest(f"a prompt of {size} characters; at most {MAX_CHARACTERS}", param=param)
        with self._reading:  # a fast tokenizer is not thread-safe
            text = prompt if isinstance(prompt, str) else self._render(prompt)
            return list(self._tokenizer(text, add_special_tokens=text is prompt, verbose=False).input_ids)

    def _render(self, messages: Sequence[Message]) -> str:
        if not self._tokenizer.chat_template:
            raise BadRequest("this model has no chat template; send a prompt to be completed", param="messages")
        try:
            chat = [one._asdict() for one in messages]
            return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        except Exception as error:
            raise BadRequest(f"the model's chat template does not take this chat: {error}", param="messages") from error

    def _limit(self, tokens: int, asked: int | None, param: str) -> int:
        """Tokens that may be made. Raises `BadRequest` where the context has no room for those that are asked for."""
        if not tokens:
            raise BadRequest("the prompt is empty", param=param)
        if asked is not None and asked < 1:
            raise BadRequest(f"max_tokens is {asked}; at least 1", param="max_tokens")
        room = self.context_length - tokens
        if room < (asked or 1):
            wanted = f"max_tokens is {asked}" if asked else "an answer needs at least 1"
            context = f"this model's context is {self.context_length} tokens for both"
            raise BadRequest(f"the prompt has {tokens} tokens and {wanted}; {context}", param=param)
        return asked or min(room, self._options.max_new_tokens or room)

    def _warpers(self, asked: GenerateOptions) -> list[Any]:
        temperature = self._temperature if asked.temperature is None else asked.temperature
        top_p = self._top_p if asked.top_p is None else asked.top_p
        if not 0 <= temperature < float("inf"):
            raise BadRequest(f"temperature is {temperature}; at least 0", param="temperature")
        if not 0 < top_p <= 1:
            raise BadRequest(f"top_p is {top_p}; more than 0, at most 1", param="top_p")
        if temperature < COLDEST:
            return []
        found = [self._library.TemperatureLogitsWarper(float(temperature))]
        found += [self._library.TopKLogitsWarper(self._top_k)] if self._top_k else []
        return found + ([self._library.TopPLogitsWarper(top_p)] if top_p < 1 else [])

    def _compute(self, rows: list[_Row]) -> list[None]:
        """Generate for all rows. Raises `EngineError` for rows that had begun: what they sent cannot be taken back."""
        import torch

        if any(row.made for row in rows):
            raise EngineError("the model failed in the middle of its answer")
        self._compute_on.use_threads()
        longest, device = max(len(row.ids) for row in rows), self._compute_on.device
        # Padded by its own first token, a row is to a repetition penalty what it is alone.
        ids = [row.ids[:1] * (longest - len(row.ids)) + row.ids for row in rows]
        mask = [[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows]
        with torch.inference_mode():
            self._model.generate(
                torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=max(row.limit for row in rows),
                logits_processor=[lambda _ids, scores: self._choose(rows, scores)],
                stopping_criteria=[lambda _ids, _scores: torch.tensor([row.done for row in rows], device=device)],
            )
        return [None] * len(rows)

    def _choose(self, rows: list[_Row], scores: "torch.Tensor") -> "torch.Tensor":
        """Logits `[rows, vocabulary]` that leave only the token that each row takes, of which it is told."""
        import torch

        if self._stopped:
            raise EngineError("the engine was stopped")
        best, tokens = (found.tolist() for found in scores.max(dim=-1))
        for i, row in enumerate(rows):
            if row.done:
                continue
            if math.isnan(best[i]):
                raise EngineError("the model's logits are not numbers (NaN)")
            if row.warpers:
                tokens[i] = row.sample(scores[i : i + 1])
            row.take(tokens[i])
        return torch.full_like(scores, -torch.inf).scatter_(1, torch.tensor(tokens, device=scores.device)[:, None], 0.0)


def _context_length(config: Any, asked: int | None) -> int:
    """The option, or the positions that the model has. Raises `LoadError` for too many, and where neither is there."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 0
    if asked and (asked <= positions or not positions):
        return asked
    if asked or not positions:
        raise LoadError(f"options.context_length is {asked}, and the model has positions for {positions} tokens")
    return int(positions)
