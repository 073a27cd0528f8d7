"""Transcription by PocketSphinx, with the English model that its package carries.

Audio is cut into utterances at pauses while it comes in, so that hours of it need no more memory than one
utterance; each is decoded in a turn. The library holds the interpreter's lock while it computes, hence it is
given a tenth of a second at a time, and more than one decoder in a process would gain nothing.
A request's `prompt`, `hotwords` and `temperature` mean nothing here and are not looked at.
Knows nothing of audio files or of OpenAI's shapes.
"""

import re
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from deployments.engines import LISTENING_RATE_HZ, PCM, LoadContext, Segment, Task, TranscribeOptions, Word
from deployments.engines._threads import Cancelled, Turns, stream
from deployments.errors import BadRequest, LoadError
from deployments.settings import Frozen

FRAME = 480
"""Samples of which it is decided at once whether they are speech: 30 ms, which the detector needs."""
STEP = 1600
"""Samples that are decoded at once."""
ONSET, ONSET_SPEECH = 6, 4
"""An utterance begins where so many frames hold so many with speech."""
PAUSE = 25
"""It ends where so many frames hold none: 0.75 s."""
PADDING = 10
"""Frames before and after it that are decoded with it, for the soft edges of words."""
LONGEST = 500
"""Frames of an utterance, 15 s, after which it is cut where it is quietest; the last step of so much takes 0.3 s."""
FRAMES_PER_S = 100
"""The decoder's own frames."""
_VARIANT = re.compile(r"\(\d+\)$")
_FILLERS = ("<", "[", "+")
Samples = npt.NDArray[np.int16]


class Options(Frozen):
    vad: bool = Field(True, description="leave out stretches without speech before anything is transcribed")


class Utterance(NamedTuple):
    """A stretch of audio, and the sample of the whole at which it begins."""

    start: int
    samples: Samples


class Engine:
    """Engine `pocketsphinx`, task transcribe."""

    task: ClassVar[Task] = "transcribe"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ("pocketsphinx",)
    note: ClassVar[str] = (
        "A small English model from before neural networks: expect many wrong words; for trying things out, with "
        "faster_whisper for real use."
    )

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Read the model `en-us` under the package's folder. Raises `LoadError` when it is not there."""
        context.progress("reading the model")
        import pocketsphinx

        folder = path / "model" / "en-us"
        files = {"hmm": folder / "en-us", "lm": folder / "en-us.lm.bin", "dict": folder / "cmudict-en-us.dict"}
        for file in files.values():
            if not file.exists():
                raise LoadError(f"there is no {file}; this engine reads the model in PyPI's pocketsphinx package")
        try:
            self._decoder = pocketsphinx.Decoder(
                **{name: str(file) for name, file in files.items()}, samprate=LISTENING_RATE_HZ, loglevel="FATAL"
            )
        except (RuntimeError, ValueError) as error:
            raise LoadError(f"PocketSphinx cannot read the model in {folder}: {error}") from error
        self._means = self._decoder.get_cmn()
        self._name, self._options, self._turns = context.name, options, Turns()

    def close(self) -> None:
        """Drop the model."""
        del self._decoder

    def alive(self) -> bool:
        """Always: no thread outlives its request."""
        return True

    async def transcribe(self, pcm: Iterable[PCM], asked: TranscribeOptions) -> AsyncGenerator[Segment]:
        """See `deployments.engines.TranscribeEngine.transcribe`; English only."""
        if asked.translate:
            raise BadRequest("this model does not translate; it transcribes English", param="model")
        if asked.language is not None and not re.fullmatch(r"en([-_].*)?|english", asked.language.strip().lower()):
            raise BadRequest(f"language {asked.language!r} is not one that this model knows: en", param="language")

        def work(cancelled: threading.Event) -> Generator[Segment]:
            return self._segments(pcm, asked, cancelled)

        async with aclosing(stream(f"engine-{self._name}", work)) as segments:
            async for segment in segments:
                yield segment

    def _segments(self, pcm: Iterable[PCM], asked: TranscribeOptions, cancelled: threading.Event) -> Generator[Segment]:
        import pocketsphinx

        detector = pocketsphinx.Vad()
        vad = self._options.vad if asked.vad is None else asked.vad
        is_speech = (lambda frame: detector.is_speech(frame.tobytes())) if vad else (lambda _: True)
        means = self._means
        for utterance in utterances(_frames(pcm, cancelled), is_speech):
            with self._turns.turn(cancelled):
                words, means = self._decode(utterance, means, cancelled)
            if words:
                text = "".join(f" {word.text}" for word in words)
                yield Segment(words[0].start_s, words[-1].end_s, text, "en", tuple(words) if asked.words else ())

    def _decode(self, utterance: Utterance, means: str, cancelled: threading.Event) -> tuple[list[Word], str]:
        """The words of an utterance, and what the decoder adapted its cepstral means to, from those it is given."""
        self._decoder.reinit_feat()  # or a text would depend on what others said
        self._decoder.set_cmn(means)
        self._decoder.start_utt()
        try:
            for at in range(0, len(utterance.samples), STEP):
                if cancelled.is_set():
                    raise Cancelled
                self._decoder.process_raw(utterance.samples[at : at + STEP].tobytes())
        finally:
            self._decoder.end_utt()
        found = self._decoder.seg() if self._decoder.hyp() else None
        start_s = utterance.start / LISTENING_RATE_HZ
        return [
            _word(one, start_s) for one in found or () if not one.word.startswith(_FILLERS)
        ], self._decoder.get_cmn()


def _word(found: Any, offset_s: float) -> Word:
    return Word(
        round(offset_s + found.start_frame / FRAMES_PER_S, 3),
        round(offset_s + (found.end_frame + 1) / FRAMES_PER_S, 3),
        _VARIANT.sub("", found.word),
        float(min(max(found.prob, 0.0), 1.0)),
    )


def _frames(pcm: Iterable[PCM], cancelled: threading.Event) -> Iterator[Samples]:
    """Pieces of any length as frames of `FRAME` int16 samples, the last one filled up with zeros."""
    rest: PCM = np.empty(0, np.float32)
    for piece in pcm:
        joined = np.concatenate([rest, piece])
        whole = len(joined) // FRAME * FRAME
        for at in range(0, whole, FRAME):
            if cancelled.is_set():
                raise Cancelled
            yield _as_int16(joined[at : at + FRAME])
        rest = joined[whole:].copy()
    if len(rest):
        yield _as_int16(np.pad(rest, (0, FRAME - len(rest))))


def _as_int16(frame: PCM) -> Samples:
    return np.clip(np.nan_to_num(frame, posinf=1, neginf=-1) * 32768, -32768, 32767).astype(np.int16)


def utterances(frames: Iterable[Samples], is_speech: Callable[[Samples], bool]) -> Iterator[Utterance]:
    """Stretches with speech, each as soon as it ends; they do not overlap, and hold no more than `LONGEST` frames."""
    kept: list[Samples] = []
    recent: deque[bool] = deque(maxlen=ONSET)
    speaking, quiet, count = False, 0, 0
    for count, frame in enumerate(frames, 1):
        kept.append(frame)
        recent.append(is_speech(frame))
        if not speaking:
            speaking, quiet = sum(recent) >= ONSET_SPEECH, 0
            del kept[: 0 if speaking else max(0, len(kept) - PADDING - ONSET)]
            continue
        quiet = 0 if recent[-1] else quiet + 1
        if quiet < PAUSE and len(kept) < LONGEST:
            continue
        end = len(kept) - PAUSE + PADDING if quiet >= PAUSE else _quietest(kept)
        yield Utterance((count - len(kept)) * FRAME, np.concatenate(kept[:end]))
        del kept[:end]
        speaking = quiet < PAUSE
        recent.clear()
    if speaking:
        yield Utterance((count - len(kept)) * FRAME, np.concatenate(kept))


def _quietest(frames: list[Samples]) -> int:
    """The frame in the last third around which there is least sound."""
    first = len(frames) * 2 // 3
    loudness = [float(np.square(frame, dtype=np.float64).sum()) for frame in frames[first:]]
    return first + 2 + int(np.convolve(loudness, np.ones(5), "valid").argmin())
