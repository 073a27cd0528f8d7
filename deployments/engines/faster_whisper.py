"""Transcription by faster-whisper: CTranslate2's Whisper, Silero's VAD, long audio in batches of windows.

A request works in a thread of its own and takes a turn for every step of the model, so that a short
clip is not stuck behind a long file. Knows nothing of audio files or of OpenAI's shapes.
"""

import contextlib
import itertools
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from deployments.engines import LISTENING_RATE_HZ, PCM, LoadContext, Segment, Task, TranscribeOptions, Word
from deployments.engines._speech import WINDOW, batches_of, joined, speech_of, windows
from deployments.engines._threads import Cancelled, Turns, ahead, stream
from deployments.errors import BadRequest, LoadError
from deployments.settings import Frozen

SHORT_S = 300
"""Audio, or speech in it, up to here is worked on at once; longer waits for one of `LONG_PLACES`, which bounds memory
and how many batches a short request may have to wait for."""
LONG_PLACES = 2
BLOCK_S = 1800
"""Longer audio is transcribed in blocks of at most this: 115 MB of samples, and about four times that while
speech is looked for."""
CUT_S, PAUSE_S = 30, 0.3
"""A block ends in the quietest `PAUSE_S` of its last `CUT_S`."""
FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Temperatures tried one after the other where a text looks wrong, as OpenAI's and faster-whisper's defaults are."""
CPU_BATCH, GPU_BATCH = 4, 16


class Options(Frozen):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compute_type: str = Field(
        "default", description="default, int8, int8_float16, int8_float32, int8_bfloat16, float16, bfloat16, float32"
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0: the replica's whole CPUs, else all")
    beam_size: int = Field(5, ge=1, le=20)
    batch_size: int | None = Field(
        None,
        ge=1,
        description="windows of 30 s computed together; by default 16 on a GPU, 4 on a CPU. With 1 each is told the "
        "text before it, and temperature fallback applies to long audio too",
    )
    vad: bool = Field(True, description="leave out stretches without speech, on which Whisper makes text up")
    language: str | None = Field(None, description="the language where a request names none; by default it is detected")
    hotwords: str | None = Field(None, description="words to expect, where a request names none")


class _Block(NamedTuple):
    """A stretch of a request's audio, and where it begins in it."""

    pcm: PCM
    offset_s: float


class Engine:
    """Engine `faster_whisper`, task transcribe."""

    task: ClassVar[Task] = "transcribe"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("faster_whisper",)
    note: ClassVar[str] = ""

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Read a CTranslate2 Whisper folder. Raises `LoadError` for a folder that is none, and for a bad device."""
        context.progress("importing faster-whisper")
        from faster_whisper import WhisperModel

        for name in ("model.bin", "tokenizer.json"):
            if not (path / name).is_file():
                raise LoadError(
                    f"{path} has no {name}: this engine reads Whisper models converted by CTranslate2 "
                    "(ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json)"
                )
        device = _choose_device(options.device, context.gpus)
        context.progress("reading weights")
        try:
            self._model = WhisperModel(
                str(path),
                device=device,
                compute_type=options.compute_type,
                cpu_threads=options.threads or context.threads,
                local_files_only=True,
            )
        except ValueError as error:
            raise LoadError(f"CTranslate2 cannot load the model: {error}") from error
        self._name, self._options = context.name, options
        self._batch_size = options.batch_size or (CPU_BATCH if device == "cpu" else GPU_BATCH)
        self._languages = self._model.supported_languages
        if options.language is not None:
            self._language(options.language)
        self._steps, self._long = Turns(), Turns(LONG_PLACES)

    def close(self) -> None:
        """Drop the weights."""
        self._model.model.unload_model()
        del self._model

    def alive(self) -> bool:
        """Always: no thread outlives its request."""
        return True

    async def transcribe(self, pcm: Iterable[PCM], asked: TranscribeOptions) -> AsyncGenerator[Segment]:
        """See `deployments.engines.TranscribeEngine.transcribe`."""
        language = self._language(asked.language or self._options.language)

        def work(cancelled: threading.Event) -> Generator[Segment]:
            return self._segments(pcm, asked, language, cancelled)

        async with contextlib.aclosing(stream(f"engine-{self._name}", work)) as segments:
            async for segment in segments:
                yield segment

    def _language(self, asked: str | None) -> str | None:
        """Whisper's code for a language, None for one that is to be detected. Raises `BadRequest`."""
        if asked is None:
            return None
        code = asked.strip().lower().replace("_", "-").partition("-")[0]
        # Not every model has a token for each of the library's languages: `yue` came with large-v3.
        if code not in self._languages or not self._model.hf_tokenizer.token_to_id(f"<|{code}|>"):
            raise BadRequest(
                f"language {asked!r} is not one that this model knows: {', '.join(sorted(self._languages))}",
                param="language",
            )
        return code

    def _segments(
        self, pcm: Iterable[PCM], asked: TranscribeOptions, language: str | None, cancelled: threading.Event
    ) -> Generator[Segment]:
        vad = self._options.vad if asked.vad is None else asked.vad
        arguments: dict[str, Any] = {
            "language": language,
            "task": "translate" if asked.translate else "transcribe",
            "beam_size": self._options.beam_size,
            "temperature": [asked.temperature] if asked.temperature else list(FALLBACK),
            "initial_prompt": asked.prompt,
            "hotwords": asked.hotwords or self._options.hotwords,
            "word_timestamps": asked.words,
            "without_timestamps": False,
        }
        pieces = _until(cancelled, pcm)
        if vad and self._batch_size > 1:
            beginning = list(_up_to_a_window(pieces))
            pieces = itertools.chain(beginning, pieces)
            if sum(map(len, beginning)) > WINDOW:
                return self._in_batches(pieces, arguments, cancelled)
        return self._in_blocks(pieces, arguments | {"vad_filter": vad}, cancelled)

    def _in_batches(
        self, pieces: Iterable[PCM], arguments: dict[str, Any], cancelled: threading.Event
    ) -> Generator[Segment]:
        """As `BatchedInferencePipeline` has them; the next batch's speech is looked for while the model works."""
        from faster_whisper import BatchedInferencePipeline
        from faster_whisper.transcribe import restore_speech_timestamps

        pipeline = BatchedInferencePipeline(self._model)  # it keeps the time of the last word that it saw
        speech: list[dict[str, int]] = []
        heard, waited, ended = 0, False, threading.Event()
        found = batches_of(windows(_until(ended, pieces)), self._batch_size)
        with contextlib.closing(ahead(f"speech-{self._name}", found)) as batches, contextlib.ExitStack() as place:
            place.callback(ended.set)
            batch = next(batches, [])
            speech += speech_of(batch)
            while batch:
                pcm, clips = joined(batch, heard)
                heard = len(pcm)
                if heard > SHORT_S * LISTENING_RATE_HZ and not waited:
                    place.enter_context(self._long.turn(cancelled))
                    waited = True
                computed, info = pipeline.transcribe(
                    pcm, clip_timestamps=clips, batch_size=self._batch_size, **arguments
                )
                with self._steps.turn(cancelled):
                    segments = _all(computed, pipeline)
                arguments["language"] = info.language  # detected once, for the whole request
                # Whisper may say that a segment ends after the last window: then it ends in speech that is found next.
                settled = _settled(segments, heard / LISTENING_RATE_HZ)
                for segment in restore_speech_timestamps(segments[:settled], speech, LISTENING_RATE_HZ):
                    yield _as_segment(segment, info.language)
                batch = next(batches, [])
                speech += speech_of(batch)
                for segment in restore_speech_timestamps(segments[settled:], speech, LISTENING_RATE_HZ):
                    yield _as_segment(segment, info.language)

    def _in_blocks(
        self, pieces: Iterable[PCM], arguments: dict[str, Any], cancelled: threading.Event
    ) -> Generator[Segment]:
        """As `WhisperModel` has them, window after window."""
        for block in self._blocks(pieces, cancelled):
            found, info = self._model.transcribe(block.pcm, **arguments)
            arguments["language"] = info.language
            while (segment := self._next(found, cancelled)) is not None:
                yield _as_segment(segment, info.language, block.offset_s)

    def _next(self, found: Iterator[Any], cancelled: threading.Event) -> Any:
        """The next segment, for which the model may have to compute a window; None at the end."""
        with self._steps.turn(cancelled):
            return next(found, None)

    def _blocks(self, pieces: Iterable[PCM], cancelled: threading.Event) -> Iterator[_Block]:
        """The audio in blocks that are cut in a pause. While there is more than a short clip, a place is held."""
        held: list[PCM] = []
        size, start = 0, 0
        with contextlib.ExitStack() as place:
            waited = False
            for piece in pieces:
                held.append(piece)
                size += len(piece)
                if size > SHORT_S * LISTENING_RATE_HZ and not waited:
                    place.enter_context(self._long.turn(cancelled))
                    waited = True
                if size > BLOCK_S * LISTENING_RATE_HZ:
                    block = np.concatenate(held)
                    cut = quietest(block)
                    yield _Block(block[:cut], start / LISTENING_RATE_HZ)
                    held, size, start = [block[cut:].copy()], len(block) - cut, start + cut
            if size:
                yield _Block(np.concatenate(held), start / LISTENING_RATE_HZ)


def _until(cancelled: threading.Event, pieces: Iterable[PCM]) -> Iterator[PCM]:
    """The pieces while they are wanted. Raises `Cancelled`."""
    for piece in pieces:
        if cancelled.is_set():
            raise Cancelled
        yield piece


def _up_to_a_window(pieces: Iterator[PCM]) -> Iterator[PCM]:
    """As many pieces as make more than one window, or all."""
    samples = 0
    while samples <= WINDOW and (piece := next(pieces, None)) is not None:
        samples += len(piece)
        yield piece


def _all(found: Iterator[Any], pipeline: Any) -> list[Any]:
    """A batch's segments. The pipeline knows the time of the last word still: it forgets it at the end."""
    segments, last_s = [], pipeline.last_speech_timestamp
    for segment in found:
        segments.append(segment)
        last_s = pipeline.last_speech_timestamp
    pipeline.last_speech_timestamp = last_s
    return segments


def _settled(segments: list[Any], heard_s: float) -> int:
    """How many segments, before the first that is not, end within what was heard."""
    ends = (max([segment.end, *(word.end for word in segment.words or ())]) for segment in segments)
    return next((index for index, end_s in enumerate(ends) if end_s >= heard_s), len(segments))


def quietest(pcm: PCM) -> int:
    """The sample in the middle of the quietest moment in the last `CUT_S` of the audio: where to cut it."""
    frame = int(PAUSE_S * LISTENING_RATE_HZ)
    tail = pcm[-CUT_S * LISTENING_RATE_HZ :]
    frames = tail[: len(tail) // frame * frame].reshape(-1, frame)
    at = int(np.square(frames).mean(axis=1).argmin())
    return len(pcm) - len(tail) + at * frame + frame // 2


def _choose_device(asked: str, gpus: float) -> str:
    import ctranslate2

    if asked == "auto":
        asked = "cuda" if gpus > 0 else "cpu"
    if asked == "cuda" and not ctranslate2.get_cuda_device_count():
        raise LoadError("CTranslate2 sees no GPU here; give the model one (resources.gpu), or set options.device: cpu")
    return asked


def _as_segment(found: Any, language: str, offset_s: float = 0.0) -> Segment:
    words = tuple(
        Word(
            round(float(word.start) + offset_s, 3),
            round(float(word.end) + offset_s, 3),
            word.word,
            float(word.probability),
        )
        for word in found.words or ()
    )
    return Segment(
        start_s=round(found.start + offset_s, 3),
        end_s=round(found.end + offset_s, 3),
        text=found.text,
        language=language,
        words=words,
        tokens=tuple(found.tokens),
        avg_logprob=found.avg_logprob,
        compression_ratio=found.compression_ratio,
        no_speech_prob=found.no_speech_prob,
        temperature=found.temperature or 0.0,
        seek=found.seek + round(offset_s * 100),
    )
