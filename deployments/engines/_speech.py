"""Where in audio speech is, said while the audio still comes in: Silero's VAD as faster-whisper has it.

faster-whisper looks through all of the audio before it transcribes any. Here the next windows are looked for while the
model works on those before; which windows come out is the same. Knows nothing of models.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from deployments.engines import LISTENING_RATE_HZ, PCM

FRAME, CONTEXT = 512, 64
"""Samples that Silero judges at once, and samples before them that it is shown too."""
SPEECH, SILENCE = 0.5, float(np.float32(0.35))
"""Probabilities from which on a frame is speech, and below which it is none: between them it is what the last was."""
PAD = LISTENING_RATE_HZ * 2 // 5
"""Samples of silence left around speech."""
SHORTEST_PAUSE = LISTENING_RATE_HZ * 16 // 100
"""Silence that parts speech, in samples."""
SHORTEST_CUT = LISTENING_RATE_HZ * 98 // 1000
"""Silence in which speech is parted that would else last too long, in samples."""
WINDOW = LISTENING_RATE_HZ * 30
"""What Whisper hears at once, in samples."""
LONGEST = WINDOW - FRAME - 2 * PAD


class Stretch(NamedTuple):
    """Speech from sample `start` to before sample `end`."""

    start: int
    end: int


class Window(NamedTuple):
    """Stretches of speech that together last up to 30 s, and their samples without what is between them."""

    stretches: list[Stretch]
    pcm: PCM


def windows(pieces: Iterable[PCM]) -> Iterator[Window]:
    """What Whisper is to hear of the audio, as `faster_whisper.BatchedInferencePipeline` divides it.

    `pieces`, of some seconds each, are mono float32 at 16 kHz, taken as far as is needed for the next window; no more
    of them is kept than a window, and what silence may yet be left around it.
    """
    tape = _Tape()
    stretches: list[Stretch] = []
    parts: list[PCM] = []
    samples = 0
    for stretch in _padded(_edges(_probabilities(pieces, tape), tape), tape):
        part = tape.cut(stretch)
        if samples + len(part) > WINDOW:
            yield Window(stretches, np.concatenate(parts))
            stretches, parts, samples = [], [], 0
        stretches.append(stretch)
        parts.append(part)
        samples += len(part)
    if stretches:
        yield Window(stretches, np.concatenate(parts))


def batches_of(found: Iterator[Window], size: int) -> Iterator[list[Window]]:
    """Windows that are computed together."""
    while batch := list(itertools.islice(found, size)):
        yield batch


def speech_of(batch: list[Window]) -> list[dict[str, int]]:
    """Where the batch's speech is, as faster-whisper wants it."""
    return [stretch._asdict() for window in batch for stretch in window.stretches]


def joined(batch: list[Window], heard: int) -> tuple[PCM, list[dict[str, float]]]:
    """The batch's audio after what was heard before, and in seconds where in it each window is.

    What was heard is zeros that nobody reads, so that times are those of the whole.
    """
    ends = list(itertools.accumulate((len(window.pcm) for window in batch), initial=heard))
    pcm = np.zeros(ends[-1], np.float32)  # pages that are not written to take no memory
    np.concatenate([window.pcm for window in batch], out=pcm[heard:])
    # faster-whisper rounds down to samples.
    seconds = [(end + 0.5) / LISTENING_RATE_HZ for end in ends]
    return pcm, [{"start": start, "end": end} for start, end in itertools.pairwise(seconds)]


class Edge(NamedTuple):
    """What begins at a sample; `quiet` is said of every frame in which there is no speech."""

    what: Literal["starts", "ends", "quiet"]
    at: int


class _Tape:
    """The audio so far, of which a stretch may yet be cut."""

    def __init__(self) -> None:
        self._held: list[PCM] = []
        self._start = self.end = 0

    def add(self, piece: PCM) -> None:
        self._held.append(piece)
        self.end += len(piece)

    def cut(self, stretch: Stretch) -> PCM:
        """Its samples; what is before its end is kept no longer."""
        held = np.concatenate(self._held)
        start, end = stretch.start - self._start, stretch.end - self._start
        self._held, self._start = [held[end:].copy()], stretch.end
        return held[start:end]

    def forget(self, before: int) -> None:
        """Let go of pieces of which none is asked for."""
        while self._held and self._start + len(self._held[0]) <= before:
            self._start += len(self._held.pop(0))


def _probabilities(pieces: Iterable[PCM], tape: _Tape) -> Iterator[float]:
    """How likely each frame is speech, as `faster_whisper.vad.SileroVADModel` has it."""
    from faster_whisper.vad import get_vad_model

    session = get_vad_model().session
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    for samples in _whole_frames(pieces, tape):
        frames = np.lib.stride_tricks.sliding_window_view(samples, CONTEXT + FRAME)[::FRAME]
        found, hidden, cell = session.run(None, {"input": frames, "h": hidden, "c": cell})
        yield from found.tolist()


def _whole_frames(pieces: Iterable[PCM], tape: _Tape) -> Iterator[PCM]:
    """The audio in whole frames, each time with the context before them; a piece is on `tape` before it is here."""
    held = np.zeros(CONTEXT, np.float32)
    for piece in pieces:
        tape.add(piece)
        held = np.concatenate([held, piece])
        ready = (len(held) - CONTEXT) // FRAME * FRAME
        if ready > 0:
            yield held[: CONTEXT + ready]
            held = held[ready:]
    last = np.pad(held, (0, FRAME - (len(held) - CONTEXT) % FRAME))
    last[-CONTEXT:] = 0  # faster-whisper zeroes them, be they padding or not
    yield last


class _Judge:
    """Where speech starts and ends, told frame by frame: the rules of `faster_whisper.vad.get_speech_timestamps`."""

    def __init__(self) -> None:
        self._starts_at: int | None = None
        self._forget_pauses()

    def _forget_pauses(self) -> None:
        # The silence that may end the speech, one in which too long speech could be cut, and the end of that one.
        self._pause_at = self._cut_at = self._resumes_at = 0  # 0: there is none

    def hear(self, at: int, probability: float, is_audio: bool) -> Iterator[Edge]:
        """What is known now that the frame at sample `at` is judged; where it is padding, nothing starts."""
        if probability >= SPEECH and self._pause_at:
            if is_audio and self._resumes_at < self._cut_at:
                self._resumes_at = at
            self._pause_at = 0
        if self._starts_at is None:
            starts = probability >= SPEECH and is_audio
            self._starts_at = at if starts else None
            yield Edge("starts" if starts else "quiet", at)
            return
        if at - self._starts_at > LONGEST:
            yield from self._cut(at)
        if probability < SILENCE and self._starts_at is not None:
            yield from self._pause(at)

    def _cut(self, at: int) -> Iterator[Edge]:
        yield Edge("ends", self._cut_at or at)
        self._starts_at = self._resumes_at if self._cut_at and self._resumes_at >= self._cut_at else None
        if self._starts_at is not None:
            yield Edge("starts", self._starts_at)
        self._forget_pauses()

    def _pause(self, at: int) -> Iterator[Edge]:
        self._pause_at = self._pause_at or at
        if at - self._pause_at > SHORTEST_CUT:
            self._cut_at = self._pause_at
        if at - self._pause_at >= SHORTEST_PAUSE:
            yield Edge("ends", self._pause_at)
            self._starts_at = None
            self._forget_pauses()

    def end(self, at: int) -> Iterator[Edge]:
        """The audio ends there."""
        if self._starts_at is not None:
            yield Edge("ends", at)


def _edges(probabilities: Iterable[float], tape: _Tape) -> Iterator[Edge]:
    judge = _Judge()
    for frame, probability in enumerate(probabilities):
        at = frame * FRAME
        yield from judge.hear(at, probability, at < tape.end)
    yield from judge.end(tape.end)


def _padded(edges: Iterable[Edge], tape: _Tape) -> Iterator[Stretch]:
    """Each stretch with `PAD` of the silence around it, or half of what is between two."""
    starts_at = 0
    ended_at: int | None = None
    for what, at in edges:
        if what == "ends":
            ended_at = at
        elif what == "starts" and ended_at is None:
            starts_at = max(0, at - PAD)
        elif what == "starts" and ended_at is not None:
            pad = min(PAD, (at - ended_at) // 2)
            yield Stretch(starts_at, ended_at + pad)
            starts_at, ended_at = at - pad, None
        else:
            if ended_at is not None and at - ended_at >= 2 * PAD:
                yield Stretch(starts_at, ended_at + PAD)
                ended_at = None
            if ended_at is None:
                tape.forget(at - PAD)
    if ended_at is not None:
        yield Stretch(starts_at, min(tape.end, ended_at + PAD))
