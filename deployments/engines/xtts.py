"""Speech by XTTS (coqui-tts), in the voices of its built-in speakers and of samples that people add.

Long texts are spoken in pieces that the model can take; requests take turns piece by piece, and each
piece is streamed as it is made. Knows nothing of HTTP or of audio formats.
"""

import asyncio
import contextlib
import functools
import gc
import json
import pickle
import threading
import zipfile
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from pydantic import Field

from deployments.engines import PCM, LoadContext, Task, Voice
from deployments.engines._packed import pack_convolutions
from deployments.engines._threads import Cancelled, Turns, stream
from deployments.engines._torch import Compute
from deployments.engines._voices import Sample, Voices
from deployments.engines._xtts_text import TextReader
from deployments.errors import EngineError, LoadError
from deployments.gpu import choose_device
from deployments.settings import Frozen

if TYPE_CHECKING:
    import torch

Chunks = Generator[PCM]
Made = TypeVar("Made")
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "length_penalty")


class Options(Frozen):
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0")
    language: str = Field("en", description="the language of requests that name none")
    voice: str | None = Field(None, description="the voice of requests that name none; by default the first there is")
    voice_aliases: dict[str, str] = Field({}, description="further names of voices, such as {alloy: anna}")
    voices: Path | None = Field(None, description="folder of wavs; by default ~/.local/share/serve_app/voices/<model>")
    copies: int = Field(1, gt=0, le=64, description="how many of the model are in memory; each speaks for one request")
    temperature: float | None = Field(None, gt=0, description="higher varies more; by default the checkpoint's")
    top_p: float | None = Field(None, gt=0, le=1, description="share of likely tokens; by default the checkpoint's")
    top_k: int | None = Field(None, gt=0, description="number of likely tokens; by default the checkpoint's")
    repetition_penalty: float | None = Field(None, gt=0, description="1 is none; by default the checkpoint's")
    length_penalty: float | None = Field(None, description="heeded by beam search only; by default the checkpoint's")
    seed: int = Field(0, description="where the random numbers of each piece of a text begin")
    stream_chunk_tokens: int = Field(20, gt=1, description="tokens, 46 ms of audio each, in one chunk of a stream")


class _Latents(NamedTuple):
    """A voice as the model takes it: float32 `[1, tokens, channels]` and `[1, 512, 1]`."""

    conditioning: "torch.Tensor"
    speaker: "torch.Tensor"


class _Copy:
    """A model in memory, and the one thread in which torch works for it.

    OpenMP keeps a team of threads for each thread that computes: a new one for each request takes 5 to 8 ms, and
    when the teams are more than the cores, none waits actively any more: a first chunk of 49 ms took 79.
    """

    def __init__(self, path: Path, compute_on: Compute) -> None:
        self._thread = ThreadPoolExecutor(1, "xtts", compute_on.use_threads)
        self._trim = compute_on.trim
        self.model = self.run(_read_model, path, compute_on.device)

    def run(self, call: Callable[..., Made], *arguments: object) -> Made:
        """What `call(*arguments)` returns or raises, in the thread."""
        return self._thread.submit(call, *arguments).result()

    def each(self, chunks: Chunks) -> Chunks:
        """What the generator yields; it runs in the thread, and is closed there. What it leaves free is given back.

        Each piece of a text has lengths of its own, and what they were computed in leaves holes in the memory: after
        50 pieces a process had 990 MB more than it used.
        """
        try:
            while (chunk := self.run(next, chunks, None)) is not None:
                yield chunk
        finally:
            self.run(chunks.close)
            self._thread.submit(self._trim)

    def close(self) -> None:
        """End the thread, and drop the model."""
        self._thread.shutdown()
        del self.model


class Engine:
    """Engine `xtts`, task speak.

    With one copy of the model, the same request gives exactly the same audio whatever else is asked:
    every piece begins at `seed`. Several copies, and a version loaded beside another, draw from torch's one
    generator of random numbers: their audio is never mixed, but not repeatable bit for bit.
    """

    task: ClassVar[Task] = "speak"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("TTS.tts.models.xtts",)
    note: ClassVar[str] = "XTTS-v2's weights are under the Coqui Public Model License, which allows no commercial use."

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Read a checkpoint folder as of hf://coqui/XTTS-v2. Raises `LoadError` for one that is not."""
        _check_files(path)
        device = choose_device(options.device, context.gpus)
        self._options = options
        self._compute_on = Compute(device, options.copies, max(1, context.threads // options.copies))
        context.progress("importing coqui-tts, reading weights")
        copies = [_Copy(path, self._compute_on) for _ in range(options.copies)]
        config, speakers = copies[0].model.config, copies[0].model.speaker_manager
        self.sample_rate_hz = int(config.model_args.output_sample_rate)
        asked = options.model_dump(include=set(SAMPLING), exclude_none=True)
        self._sampling = {key: asked.get(key, config[key]) for key in SAMPLING}
        self._reader = TextReader(path, config)
        self._reader.language(options.language)
        folder = options.voices or Path.home() / ".local/share/serve_app/voices" / context.name
        built_in = {name: _Latents(*one.values()) for name, one in speakers.speakers.items()} if speakers else {}
        self._voices = Voices(folder.expanduser(), built_in, options.voice, options.voice_aliases)
        self._closing = threading.Event()
        self._device_lost = False
        self._turns = Turns(options.copies)
        self._free: SimpleQueue[_Copy] = SimpleQueue()
        for copy in copies:
            self._free.put(copy)

    def close(self) -> None:
        """Stop what is being spoken, fail what waits, drop the weights."""
        self._closing.set()
        with contextlib.ExitStack() as turns:
            for _ in range(self._options.copies):
                turns.enter_context(self._turns.turn(threading.Event()))
            while not self._free.empty():
                self._free.get().close()
        gc.collect()
        self._compute_on.release()

    def alive(self) -> bool:
        """Whether the device can still compute: after some errors of CUDA only a new process can."""
        return not self._device_lost

    def voices(self) -> list[Voice]:
        """The model's built-in speakers, then the samples there are now."""
        return [Voice(name, name) for name in self._voices.names()]

    def speak(self, text: str, *, voice: str | None = None, language: str | None = None) -> AsyncGenerator[PCM]:
        """See `deployments.engines.SpeakEngine.speak`."""
        return stream("xtts", lambda cancelled: self._produce(text, voice, language, cancelled))

    async def add_voice(self, name: str, pcm: PCM, rate_hz: int) -> Voice:
        """See `deployments.engines.SpeakEngine.add_voice`."""
        await asyncio.to_thread(self._voices.add, name, pcm, rate_hz)
        return Voice(name, name)

    async def delete_voice(self, name: str) -> None:
        """See `deployments.engines.SpeakEngine.delete_voice`."""
        await asyncio.to_thread(self._voices.delete, name)

    def _produce(self, text: str, asked: str | None, language: str | None, cancelled: threading.Event) -> Chunks:
        self._check_open()
        tag = self._reader.language(self._options.language if language is None else language)
        voice = self._voices.find(asked)
        pieces = self._reader.pieces(text, tag)
        latents = None
        for piece in pieces:
            with self._copy(cancelled) as copy:
                latents = latents or self._voices.learn(voice, functools.partial(copy.run, _condition, copy.model))
                yield from copy.each(self._say(copy.model, piece, tag, latents, cancelled))

    @contextlib.contextmanager
    def _copy(self, cancelled: threading.Event) -> Iterator[_Copy]:
        """A copy of the model for one piece, in turn."""
        with self._turns.turn(cancelled):
            self._check_open()
            copy = self._free.get()
            try:
                yield copy
            except RuntimeError as error:
                self._device_lost = self._device_lost or loses_device(error)
                raise
            finally:
                self._free.put(copy)

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise EngineError("the engine was stopped")

    def _say(self, model: Any, piece: str, language: str, latents: _Latents, cancelled: threading.Event) -> Chunks:
        import torch

        def ends_here(*_: object) -> bool:
            """Asked after each token, so that nobody waits for the end of a chunk."""
            self._check_open()
            if cancelled.is_set():
                raise Cancelled
            return False

        torch.manual_seed(self._options.seed)
        how = {"stream_chunk_size": self._options.stream_chunk_tokens, "stopping_criteria": [ends_here]}
        chunks = model.inference_stream(piece, language, *latents, **how, **self._sampling)
        with contextlib.closing(chunks):
            for chunk in chunks:
                pcm = chunk.float().cpu().numpy().copy()  # a view would keep all of the piece in memory
                if not np.isfinite(pcm).all():
                    raise EngineError("the model's audio is not finite (NaN or infinity)")
                yield pcm


def loses_device(error: Exception) -> bool:
    """Whether a process whose computing failed so can compute nothing more on its GPU."""
    return "CUDA error" in str(error) or "device-side assert" in str(error)


def _check_files(path: Path) -> None:
    missing = [name for name in ("config.json", "model.pth", "vocab.json") if not (path / name).is_file()]
    if missing:
        raise LoadError(f"{path} is not an XTTS checkpoint: it has no {', '.join(missing)}")
    kind = json.loads((path / "config.json").read_text()).get("model")
    if kind != "xtts":
        raise LoadError(f"{path} is not an XTTS checkpoint: its config.json says model {kind!r}")


def _read_model(path: Path, device: "torch.device") -> Any:
    from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
    from TTS.tts.models.xtts import Xtts, XttsConfig

    config = XttsConfig()
    config.load_json(str(path / "config.json"))
    model = Xtts(config)
    model._load_checkpoint = _read_weights
    model.load_checkpoint(config, checkpoint_dir=path, eval=True)
    for module in model.hifigan_decoder.modules():
        if is_parametrized(module, "weight"):  # by weight norm, which would be computed anew for each chunk
            remove_parametrizations(module, "weight")
    model = model.to(device)
    pack_convolutions(model.hifigan_decoder.waveform_decoder)
    return model


def _read_weights(file: Path) -> Any:
    """The tensors of model.pth. In place of coqui's own, which rewrites a file as old as XTTS-v2's where it lies."""
    import torch
    from TTS.tts.models.xtts import _legacy_safe_globals

    for known in (contextlib.nullcontext(), _legacy_safe_globals()):
        with known, contextlib.suppress(pickle.UnpicklingError):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))["model"]
    raise LoadError(f"{file} has more in it than weights and the settings of XTTS")


def _condition(model: Any, sample: Sample) -> _Latents:
    """A sample as the model takes it: `Xtts.get_conditioning_latents` under the checkpoint's settings.

    That itself reads files only, by torchaudio.load, which needs FFmpeg's libraries on the machine.
    """
    import torch
    from torchaudio.functional import resample

    config, rate_hz = model.config, 22_050
    audio = torch.from_numpy(sample.pcm)[None]
    if sample.rate_hz != rate_hz:
        audio = resample(audio, sample.rate_hz, rate_hz)
    audio = audio.clip(-1, 1)[:, : rate_hz * config.max_ref_len].to(model.device)
    if config.sound_norm_refs:
        audio = audio / audio.abs().max() * 0.75
    conditioning = model.get_gpt_cond_latents(audio, rate_hz, config.gpt_cond_len, config.gpt_cond_chunk_len)
    return _Latents(conditioning, model.get_speaker_embedding(audio, rate_hz))
