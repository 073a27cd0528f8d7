"""Speech out: every format decodes to what went in."""

import io
import wave

import av
import numpy as np
import pytest

from deployments.encoding import FORMATS, RATE_HZ, UNKNOWN_BYTES, Encoder, Format, _frame, wav_header, whole_wav
from deployments.engines import PCM
from tests.sounds import decoded, tone

RATE = 22_050


def encode(format: Format, speed: float = 1.0) -> list[bytes]:
    pcm = tone(2, RATE)
    encoder = Encoder(format, RATE, speed)
    pieces = [encoder.add(pcm[at : at + 2205]) for at in range(0, len(pcm), 2205)]
    return [*pieces, encoder.finish()]


def frequency(pcm: PCM, rate: int) -> float:
    return float(np.abs(np.fft.rfft(pcm)).argmax() * rate / len(pcm))


@pytest.mark.parametrize("speed", [0.25, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("format", FORMATS)
def test_duration_rate_and_pitch(format: Format, speed: float) -> None:
    data = b"".join(encode(format, speed))
    if format == "pcm":
        rate, pcm = RATE_HZ, np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
        duration_s = len(pcm) / rate
    else:
        duration_s, rate, pcm = decoded(data)
    assert rate == (48_000 if format == "opus" else RATE_HZ)
    assert duration_s == pytest.approx(2 / speed, abs=0.12)
    assert frequency(pcm, rate) == pytest.approx(440, abs=5)
    assert np.abs(pcm).max() == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_bytes_leave_with_the_first_pieces(format: Format) -> None:
    assert any(encode(format)[:2])


def test_a_streamed_wav_has_one_header_of_unknown_length() -> None:
    data = b"".join(encode("wav"))
    assert data.count(b"RIFF") == 1
    assert data[4:8] == data[40:44] == b"\xff\xff\xff\xff"
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE_HZ, 1, 2)


def test_samples_of_the_same_rate_are_rounded_as_ffmpeg_rounds_them() -> None:
    pcm = np.concatenate(
        [np.random.default_rng(0).normal(0, 0.5, 50_000), np.arange(-70_000, 70_000) / 65_536, [2, -2, 1, -1]]
    ).astype(np.float32)
    frames = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ).resample(_frame(pcm, RATE_HZ, 0))
    encoder = Encoder("pcm", RATE_HZ)
    assert encoder.add(pcm) + encoder.finish() == b"".join(one.to_ndarray().tobytes() for one in frames)
    wav = Encoder("wav", RATE_HZ)
    pieces = [wav.add(pcm[:0]), wav.add(pcm[:7]), wav.add(pcm[7:9]), wav.finish()]
    samples = Encoder("pcm", RATE_HZ).add(pcm[:9])
    assert pieces == [b"", wav_header(UNKNOWN_BYTES) + samples[:14], samples[14:], b""]


def test_a_whole_wav_knows_its_length() -> None:
    with wave.open(io.BytesIO(whole_wav([tone(1, RATE), tone(1, RATE)], RATE))) as file:
        assert file.getnframes() == pytest.approx(2 * RATE_HZ, abs=2)
        assert len(file.readframes(10**6)) == file.getnframes() * 2
