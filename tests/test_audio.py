"""Audio files in: what is measured, decoded and refused."""

import io

import numpy as np
import psutil
import pytest
from faster_whisper import decode_audio

from deployments import audio
from deployments.errors import BadRequest, PayloadTooLarge
from tests.sounds import CONTAINERS, audio_file, tone


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_format_is_measured_and_decoded_as_the_library_does(kind: str) -> None:
    data = audio_file(tone(3), 16_000, kind)
    assert audio.measure(io.BytesIO(data), 10) == pytest.approx(3, abs=0.1)
    pcm = np.concatenate(list(audio.decode(io.BytesIO(data), 10)))
    assert pcm.dtype == np.float32
    np.testing.assert_array_equal(pcm, decode_audio(io.BytesIO(data)))


def test_pieces_are_short() -> None:
    data = audio_file(tone(25), 16_000)
    assert max(len(piece) for piece in audio.decode(io.BytesIO(data), 60)) <= audio.PIECE_SAMPLES


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"this is a text, not audio", "not audio"),
        (b"\0" * 5000, "not audio"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 500, "not audio"),
        (audio_file(tone(1), 16_000)[:44], "not audio|no samples"),
    ],
    ids=["empty", "text", "zeros", "picture", "header only"],
)
def test_what_is_not_audio_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        audio.read_sample(io.BytesIO(data), 16_000)


def test_a_wav_without_samples_is_refused() -> None:
    empty = audio_file(tone(1), 16_000)
    at = empty.index(b"data")
    silent = empty[: at + 4] + (0).to_bytes(4, "little")
    with pytest.raises(BadRequest, match=r"not audio|no samples"):
        list(audio.decode(io.BytesIO(silent), 10))


@pytest.mark.parametrize("kind", ["wav", "flac", "webm", "mp3", "m4a"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    data = audio_file(tone(5), 16_000, kind)
    with pytest.raises(BadRequest, match=r"truncated|not audio"):
        audio.measure(io.BytesIO(data[: len(data) // 2]), 10)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_a_wav_whose_length_was_not_known_when_it_began_is_taken(size: int) -> None:
    data = audio_file(tone(2), 16_000)
    at = data.index(b"data") + 4
    streamed = data[:at] + size.to_bytes(4, "little") + data[at + 4 :]
    assert audio.measure(io.BytesIO(streamed), 10) == pytest.approx(2, abs=0.01)
    assert sum(map(len, audio.decode(io.BytesIO(streamed), 10))) == pytest.approx(2 * 16_000, abs=2)


def test_too_long_is_refused_before_anything_is_decoded() -> None:
    with pytest.raises(PayloadTooLarge, match="longer than 2 s"):
        audio.measure(io.BytesIO(audio_file(tone(3), 16_000)), 2)


def test_a_small_file_of_hours_is_refused_in_bounded_memory() -> None:
    data = audio_file(np.zeros(8000 * 3600 * 8, np.float32), 8000, "flac")
    assert 100 * len(data) < 16_000 * 4 * 3600 * 8
    before = psutil.Process().memory_info().rss
    with pytest.raises(PayloadTooLarge):
        audio.measure(io.BytesIO(data), 4 * 3600)
    with pytest.raises(PayloadTooLarge):
        for _ in audio.decode(io.BytesIO(data), 600):
            pass
    assert psutil.Process().memory_info().rss - before < 100 << 20


@pytest.mark.parametrize("rate", [1, 3_999, 400_000])
def test_an_odd_sample_rate_is_refused(rate: int) -> None:
    data = bytearray(audio_file(tone(1), 16_000))
    at = data.index(b"fmt ") + 12
    data[at : at + 4] = rate.to_bytes(4, "little")
    with pytest.raises(BadRequest, match=f"{rate} Hz|not audio"):
        audio.measure(io.BytesIO(bytes(data)), 1e9)
