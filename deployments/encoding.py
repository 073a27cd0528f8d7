"""Speech out: mono float32 PCM, piece by piece, to the bytes of an audio format, by FFmpeg (PyAV) where it changes.

Every byte that can leave does so with the piece that completes it. Knows nothing of engines or HTTP.
"""

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from deployments.engines import PCM

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
FORMATS: tuple[Format, ...] = get_args(Format)
RATE_HZ = 24_000
"""The sample rate of every format: OpenAI's, which clients take for granted where `pcm` does not say it."""
SPEEDS = (0.25, 4.0)
UNKNOWN_BYTES = 0xFFFFFFFF
"""What a WAV header says of a length that is not known yet."""


class _Kind(NamedTuple):
    media_type: str
    container: str = ""
    codec: str = ""
    bit_rate: int | None = None
    options: dict[str, str] = {}  # noqa: RUF012  # never changed


KINDS: dict[Format, _Kind] = {
    # Without the Xing frame, whose counts would have to be written at the end, into what has left already.
    "mp3": _Kind("audio/mpeg", "mp3", "libmp3lame", 96_000, {"write_xing": "0", "id3v2_version": "0"}),
    "opus": _Kind("audio/ogg", "ogg", "libopus", 48_000, {"page_duration": "20000"}),
    "aac": _Kind("audio/aac", "adts", "aac", 96_000),
    "flac": _Kind("audio/flac", "flac", "flac"),
    "wav": _Kind("audio/wav"),
    "pcm": _Kind("audio/pcm"),
}


class Encoder:
    """Turns PCM at `rate_hz` into `format` at `RATE_HZ`, `speed` times as fast at the same pitch."""

    def __init__(self, format: Format, rate_hz: int, speed: float = 1.0) -> None:
        import av

        self._rate_hz = rate_hz
        self._tempo = _tempo_graph(rate_hz, speed) if speed != 1.0 else None
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        kind = KINDS[format]
        self._sink = _Sink()
        self._begun = format != "wav"
        self._as_it_is = not kind.codec and rate_hz == RATE_HZ and speed == 1.0
        self._container: Any = None
        if kind.codec:
            self._container = av.open(
                self._sink, "w", format=kind.container, options={"flush_packets": "1", **kind.options}
            )
            self._stream: Any = self._container.add_stream(kind.codec, rate=RATE_HZ, layout="mono")
            if kind.bit_rate:
                self._stream.bit_rate = kind.bit_rate
        self._taken, self._given = 0, 0

    def add(self, pcm: PCM) -> bytes:
        """The bytes that can leave once these samples are known; perhaps none."""
        if self._as_it_is:  # rounded as FFmpeg does, whose way takes a first piece 1 ms
            return self._begin(np.rint(pcm * np.float32(32768)).clip(-32768, 32767).astype("<i2").tobytes())
        frame = _frame(pcm, self._rate_hz, self._taken)
        self._taken += len(pcm)
        return self._write(self._resampled(self._faster(frame)))

    def finish(self) -> bytes:
        """The last bytes. The encoder takes nothing more."""
        if self._as_it_is:
            return b""
        frames = [*self._resampled(self._faster(None)), *self._resampler.resample(None)]
        out = self._write(frames)
        if self._container:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            out += self._sink.take()
        return out

    def _faster(self, frame: "AudioFrame | None") -> Iterable["AudioFrame"]:
        if self._tempo is None:
            return [frame] if frame else []
        self._tempo.push(frame)
        return _pulled(self._tempo)

    def _resampled(self, frames: Iterable["AudioFrame"]) -> list["AudioFrame"]:
        return [out for frame in frames for out in self._resampler.resample(frame)]

    def _write(self, frames: list["AudioFrame"]) -> bytes:
        if self._container:
            for frame in frames:
                frame.pts = self._given
                self._given += frame.samples
                self._container.mux(self._stream.encode(frame))
            return self._sink.take()
        return self._begin(b"".join(frame.to_ndarray().tobytes() for frame in frames))

    def _begin(self, out: bytes) -> bytes:
        """Samples, after a WAV's header where they are the first."""
        if out and not self._begun:
            self._begun = True
            return wav_header(UNKNOWN_BYTES) + out
        return out


class _Sink:
    """A file that is only written to, from the front to the back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def wav_header(data_bytes: int) -> bytes:
    """The 44 bytes before 16-bit mono samples at `RATE_HZ`; `UNKNOWN_BYTES` for a stream."""
    riff = UNKNOWN_BYTES if data_bytes == UNKNOWN_BYTES else data_bytes + 36
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        riff,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        RATE_HZ,
        RATE_HZ * 2,
        2,
        16,
        b"data",
        data_bytes,
    )


def whole_wav(pieces: Iterable[PCM], rate_hz: int) -> bytes:
    """A WAV file of these pieces, with its true length."""
    encoder = Encoder("pcm", rate_hz)
    data = b"".join([*(encoder.add(piece) for piece in pieces), encoder.finish()])
    return wav_header(len(data)) + data


def _frame(pcm: PCM, rate_hz: int, pts: int) -> "AudioFrame":
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm[None]), format="flt", layout="mono")
    frame.sample_rate, frame.pts = rate_hz, pts
    return frame


def _tempo_graph(rate_hz: int, speed: float) -> Any:
    """FFmpeg's `atempo`, which takes at least 0.5, so that less comes from two of them."""
    import av

    graph = av.filter.Graph()
    steps = [graph.add_abuffer(sample_rate=rate_hz, format="flt", layout="mono")]
    steps += [graph.add("atempo", f"{one:.6f}") for one in ([speed] if speed >= 0.5 else [0.5, speed / 0.5])]
    steps.append(graph.add("abuffersink"))
    graph.link_nodes(*steps).configure()
    return graph


def _pulled(graph: Any) -> Iterable["AudioFrame"]:
    import av

    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
