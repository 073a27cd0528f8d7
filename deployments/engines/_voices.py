"""Which voices there are: an engine's own, and samples of speech kept as wav files in a folder.

Several replicas and people may share the folder; a file put there by hand is a voice at once. Knows
nothing of what speaks with them.
"""

import os
import re
import threading
import uuid
import wave
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from deployments.engines import PCM
from deployments.errors import BadRequest, NotFound

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 _-]{0,62}[A-Za-z0-9_-])?")
MIN_SAMPLE_S, MAX_SAMPLE_S = 2.0, 60.0
SILENCE = 1e-3
"""A sample whose loudest moment is below this is not speech."""
RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
"""The rates that audio is recorded at. Resampling between two numbers without a common divisor,
such as 44101 and 22050, takes gigabytes."""
MAX_LEARNT = 128
"""Of so many samples, what was learnt is kept in memory."""
Learnt = TypeVar("Learnt")


class _Stamp(NamedTuple):
    """What changes when a voice's file does."""

    changed_ns: int
    size: int
    inode: int


class Sample(NamedTuple):
    """Mono float32 `[samples]` at `rate_hz`, at most `MAX_SAMPLE_S` long."""

    pcm: PCM
    rate_hz: int


@dataclass(eq=False)
class Voices(Generic[Learnt]):
    """An engine's own voices, and the wav files of a folder, by their names without `.wav`.

    The folder is made with its first voice.
    """

    folder: Path
    own: Mapping[str, Learnt]
    """What the engine knows of the voices that it came with."""
    default: str | None = None
    """The voice of requests that name none; without one, the first there is."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    _learnt: OrderedDict[str, tuple[_Stamp, Learnt]] = field(default_factory=OrderedDict, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)

    def names(self) -> list[str]:
        """The voices there are now: the engine's own, then the samples in the alphabet's order."""
        return [*self.own, *(name for name in self._samples() if name not in self.own)]

    def find(self, asked: str | None) -> str:
        """The voice of that name or alias. Raises `BadRequest` naming the voices there are."""
        names = self.names()
        asked = self.default if asked is None else asked
        if asked is None:
            if not names:
                raise BadRequest("there is no voice yet; add one with a sample of speech", param="voice")
            return names[0]
        for name in (asked, self.aliases.get(asked)):
            if name in names:
                return name
        raise BadRequest(f"unknown voice {asked[:80]!r}; have: {_listed(names)}", param="voice")

    def learn(self, name: str, study: Callable[[Sample], Learnt]) -> Learnt:
        """What `study` makes of a voice's sample, made again when its file has changed.

        Raises `BadRequest` for a file that cannot be a sample.
        """
        if name in self.own:
            return self.own[name]
        stamp = self._stamp(name)  # before reading, so that a change in between is seen next time
        with self._guard:
            kept = self._learnt.get(name)
            if kept and kept[0] == stamp:
                self._learnt.move_to_end(name)
                return kept[1]
        learnt = study(self.read(name))
        with self._guard:
            self._learnt[name] = stamp, learnt
            self._learnt.move_to_end(name)
            while len(self._learnt) > MAX_LEARNT:
                self._learnt.popitem(last=False)
        return learnt

    def read(self, name: str) -> Sample:
        """A voice's sample, its channels mixed. Raises `BadRequest` for a file that cannot be one."""
        try:
            with wave.open(str(self._file(name)), "rb") as file:
                rate_hz, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
                frames = file.readframes(int(MAX_SAMPLE_S * rate_hz))
        except (OSError, EOFError, wave.Error) as error:
            raise _unreadable(name, error) from error
        whole = len(frames) - len(frames) % (channels * width)  # the end of a file cut short
        pcm = _decode(frames[:whole], width).reshape(-1, channels).mean(axis=1)
        _check(pcm, rate_hz, f"the file of voice {name!r}", "voice")
        return Sample(pcm, rate_hz)

    def add(self, name: str, pcm: PCM, rate_hz: int) -> None:
        """Keep a sample, mono `[samples]`, as 16-bit wav; all of it or, where that fails, nothing.

        Raises `BadRequest` for a name or a sample that cannot be a voice's.
        """
        self._check_added(name)
        if not NAME.fullmatch(name):
            raise BadRequest(
                f"{name[:80]!r} cannot name a voice: 1 to 64 of A-Z, a-z, 0-9, space, _ and -, "
                "the first one a letter or a digit, the last one no space",
                param="name",
            )
        kept = pcm[: int(MAX_SAMPLE_S * rate_hz)]
        _check(kept, rate_hz, "the sample", None)
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".{uuid.uuid4().hex}.tmp"
        try:
            with wave.open(str(unfinished), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(rate_hz)
                file.writeframes(np.clip(np.rint(kept * 32768), -32768, 32767).astype("<i2").tobytes())
            os.replace(unfinished, self._file(name))
        finally:
            unfinished.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove an added voice. Raises `NotFound`, and `BadRequest` for one of the engine's own."""
        self._check_added(name)
        samples = self._samples()
        if name not in samples:  # so never a path to elsewhere
            raise NotFound(f"no added voice {name[:80]!r}; have: {_listed(samples)}", param="voice")
        self._file(name).unlink(missing_ok=True)

    def _check_added(self, name: str) -> None:
        if name in self.own:
            raise BadRequest(f"{name!r} is one of the model's own voices, which stay as they are", param="name")

    def _samples(self) -> list[str]:
        try:
            found = [file for file in self.folder.iterdir() if file.suffix == ".wav" and file.is_file()]
        except FileNotFoundError:
            return []
        return sorted(file.stem for file in found if not file.name.startswith("."))

    def _stamp(self, name: str) -> _Stamp:
        try:
            found = self._file(name).stat()
        except OSError as error:
            raise _unreadable(name, error) from error
        return _Stamp(found.st_mtime_ns, found.st_size, found.st_ino)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.wav"


def _listed(names: list[str]) -> str:
    """Names for a sentence, the first 20."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(names[:20]) or "none") + more


def _check(pcm: PCM, rate_hz: int, what: str, param: str | None) -> None:
    if rate_hz not in RATES_HZ:
        rates = ", ".join(map(str, RATES_HZ))
        raise BadRequest(f"{what} is at {rate_hz} Hz; a voice can be at {rates} Hz", param=param)
    if len(pcm) < MIN_SAMPLE_S * rate_hz:
        raise BadRequest(
            f"{what} is {len(pcm) / rate_hz:.1f} s long; a voice needs at least {MIN_SAMPLE_S:.0f} s of speech, "
            f"of which at most {MAX_SAMPLE_S:.0f} s are used",
            param=param,
        )
    if not np.isfinite(pcm).all() or np.abs(pcm).max() < SILENCE:
        raise BadRequest(f"{what} has no sound in it", param=param)


def _decode(frames: bytes, width: int) -> PCM:
    """Samples of 1 to 4 bytes as float32: each is put at the top of 32 bits."""
    given = np.frombuffer(frames, np.uint8).reshape(-1, width)
    wide: npt.NDArray[np.uint8] = np.zeros((len(given), 4), np.uint8)
    wide[:, 4 - width :] = given ^ 0x80 if width == 1 else given  # 8-bit wavs alone are unsigned
    return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)


def _unreadable(name: str, error: Exception) -> BadRequest:
    why = getattr(error, "strerror", None) or error  # without the path, which is nobody's business
    return BadRequest(f"voice {name!r} cannot be read: {why}; voices are wav files of whole-number PCM", param="voice")
