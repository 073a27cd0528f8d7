"""Audio files in: any container and codec that FFmpeg reads (through PyAV), to mono float32 at 16 kHz.

A file is measured before it is decoded, and decoded in pieces, so that memory stays bounded whatever
a file holds or claims. Knows nothing of models.
"""

import contextlib
from collections.abc import Iterator
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from deployments.engines import LISTENING_RATE_HZ, PCM
from deployments.errors import BadRequest, PayloadTooLarge

if TYPE_CHECKING:
    import av
    import av.container

RATES_HZ = (4_000, 384_000)
"""Sample rates taken; beyond them a few bytes would become hours, or hours a moment."""
MAX_CHANNELS = 32
MAX_SAMPLE_S = 600
"""The longest recording of a voice that is read."""
HEAD_BYTES = 64 << 10
MISSING_SHARE, MISSING_S = 0.05, 0.25
"""A file is called truncated when more of it is missing than both of these."""
CONTAINERS = "wav,w64,aiff,au,caf,mp3,flac,ogg,aac,ac3,amr,asf,avi,mpegts,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
"""What is read. FFmpeg knows many more, among them some that open sockets and other files."""
PIECE_SAMPLES = LISTENING_RATE_HZ * 10
TOGETHER_SAMPLES = 48_000
"""Decoded frames, mostly of 1,000 samples, are resampled in groups of this many: a call for each costs more than
its work."""
_STREAMED_WAV = 0x7FFF0000
"""From this size on, a WAV header's data size stands for "until the end"."""


def measure(file: IO[bytes], max_s: float) -> float:
    """The duration of an audio file in seconds, found by reading its packets, none of which is decoded.

    Blocks. Raises `BadRequest` for what is not audio, has no samples or is truncated, and
    `PayloadTooLarge` for more than `max_s` seconds.
    """
    with _refusing_what_is_broken(), _open(file) as container:
        stream = _audio_stream(container)
        ticks, first, last = 0, None, 0
        for packet in container.demux(stream):
            ticks += packet.duration or 0
            if packet.pts is not None:
                first = packet.pts if first is None else first
                last = max(last, packet.pts + (packet.duration or 0))
            if ticks * stream.time_base > max_s:
                raise _too_long(max_s)
        known_s = float(ticks * stream.time_base) or (container.duration or 0) / 1e6
        # Pauses that were not sent are part of what the file says it lasts, and so of this.
        reached_s = max(known_s, float((last - (first or 0)) * stream.time_base))
        stated_s = _stated_s(container, stream, file)
    if known_s > max_s:
        raise _too_long(max_s)
    if stated_s is not None and stated_s - reached_s > max(MISSING_S, MISSING_SHARE * stated_s):
        raise BadRequest(f"the audio file is truncated: it should last {stated_s:.1f} s and holds {reached_s:.1f} s")
    return known_s


def read_sample(file: IO[bytes], rate_hz: int) -> PCM:
    """A short recording whole, mono float32 at `rate_hz`. Blocks. Raises as `measure` does."""
    measure(file, MAX_SAMPLE_S)
    return np.concatenate(list(decode(file, MAX_SAMPLE_S, rate_hz)))


def decode(file: IO[bytes], max_s: float, rate_hz: int = LISTENING_RATE_HZ) -> Iterator[PCM]:
    """The file's audio, mono float32 at `rate_hz`, in pieces of at most some seconds.

    Samples are rounded to 16 bits on the way, as faster-whisper's own decoder does, so that a model
    hears the same through either. Frames that cannot be decoded are left out. Raises `BadRequest` for what is not
    audio or holds no samples at all, and `PayloadTooLarge` as soon as more than `max_s` seconds came out.
    """
    samples = 0
    with _refusing_what_is_broken(), _open(file) as container:
        for part in _resampled(_frames(container, _audio_stream(container)), rate_hz):
            pcm = part.to_ndarray()[0].astype(np.float32) / 32768
            samples += len(pcm)
            if samples > (max_s + 1) * rate_hz:
                raise _too_long(max_s)
            yield from (pcm[at : at + PIECE_SAMPLES] for at in range(0, len(pcm), PIECE_SAMPLES))
    if not samples:
        raise BadRequest("the audio file holds no samples that can be decoded")


@contextlib.contextmanager
def _refusing_what_is_broken() -> Iterator[None]:
    """What PyAV raises on damaged files as `BadRequest`; not all of it is FFmpeg's own."""
    import av

    try:
        yield
    except (av.FFmpegError, ValueError, AttributeError, IndexError) as error:
        raise _not_audio() from error


def _open(file: IO[bytes]) -> "av.container.InputContainer":
    import av

    file.seek(0)
    if not file.read(1):
        raise BadRequest("the audio file is empty")
    file.seek(0)
    return av.open(file, "r", metadata_errors="ignore", options={"format_whitelist": CONTAINERS})


def _audio_stream(container: "av.container.InputContainer") -> Any:
    """The first audio stream. Raises `BadRequest` where there is none that can be taken."""
    if not container.streams.audio:
        raise _not_audio()
    stream = container.streams.audio[0]
    rate, channels = stream.rate or 0, stream.layout.nb_channels
    if not RATES_HZ[0] <= rate <= RATES_HZ[1] or not 1 <= channels <= MAX_CHANNELS:
        raise BadRequest(
            f"the audio has {rate} Hz and {channels} channels; this server takes {RATES_HZ[0]} to {RATES_HZ[1]} Hz "
            f"and 1 to {MAX_CHANNELS} channels",
        )
    return stream


def _frames(container: "av.container.InputContainer", stream: Any) -> Iterator["av.AudioFrame"]:
    """The decoded frames, without those that are broken."""
    import av

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            frame.pts = None  # a gap in the stamps is not a gap in the sound
            yield frame


def _resampled(frames: Iterator["av.AudioFrame"], rate_hz: int) -> Iterator["av.AudioFrame"]:
    """16-bit mono at `rate_hz`. Rate and channels may change on the way, as where two files were joined."""
    import av

    for _, alike in groupby(frames, lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)):
        resampler, held = av.AudioResampler(format="s16", layout="mono", rate=rate_hz), av.AudioFifo()
        for frame in alike:
            held.write(frame)
            if held.samples >= TOGETHER_SAMPLES:
                yield from resampler.resample(held.read())
        if held.samples:
            yield from resampler.resample(held.read())
        yield from resampler.resample(None)


def _stated_s(container: "av.container.InputContainer", stream: Any, file: IO[bytes]) -> float | None:
    """How long the file says that its audio is, where it says so for sure."""
    kind = container.format.name
    if kind == "wav":
        size = _wav_data_bytes(file)
        bytes_per_s = (stream.codec_context.bit_rate or 0) / 8
        return size / bytes_per_s if 0 < size < _STREAMED_WAV and bytes_per_s else None
    if kind.startswith("mov") and stream.duration:
        return float(stream.duration * stream.time_base)
    if kind == "flac" or (kind.startswith("matroska") and len(container.streams) == 1):
        return float(container.duration / 1e6) if container.duration else None
    return None


def _wav_data_bytes(file: IO[bytes]) -> int:
    """What a WAV file says of the size of its samples; 0 where that is not near its beginning."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    at = 12
    while at + 8 <= len(head):
        name, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if name == b"data":
            return size
        at += 8 + size + size % 2
    return 0


def _not_audio() -> BadRequest:
    return BadRequest(
        "the file is not audio that can be read; wav, mp3, ogg, opus, flac, m4a, aac and webm are, among others",
    )


def _too_long(max_s: float) -> PayloadTooLarge:
    return PayloadTooLarge(f"the audio is longer than {max_s:g} s, the most that is taken here")
