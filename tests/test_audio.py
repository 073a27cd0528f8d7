"""Audio files in: what is measured, decoded and refused."""

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import av
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


@pytest.mark.parametrize("kind", ["wav", "flac", "webm", "m4a"])
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


def test_a_comment_in_a_wav_is_not_taken_for_its_samples() -> None:
    data = audio_file(tone(2), 16_000)
    comment = b"INFOICMT\x18\0\0\0my database of sounds..."
    chunk = b"LIST" + len(comment).to_bytes(4, "little") + comment
    data = data[:12] + chunk + data[12:]
    assert audio.measure(io.BytesIO(data), 10) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("kinds", [("aac", "stereo-aac"), ("mp3", "mp3-24")])
def test_files_that_were_joined_are_decoded_to_their_end(kinds: tuple[str, str]) -> None:
    data = b"".join(audio_file(tone(2), 16_000, kind) for kind in kinds)
    assert audio.measure(io.BytesIO(data), 10) == pytest.approx(4, abs=0.3)
    assert sum(map(len, audio.decode(io.BytesIO(data), 10))) / 16_000 == pytest.approx(4, abs=0.3)


def test_a_film_may_be_longer_than_its_sound() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video: Any = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        sound: Any = container.add_stream("aac", rate=16_000, layout="mono")
        for _ in range(100):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(5)[None], format="flt", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    assert audio.measure(file, 20) == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize(
    "text",
    [
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 18998 RTP/AVP 0\r\n",
        "ffconcat version 1.0\nfile '{file}'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{file}\n",
    ],
    ids=["sdp", "concat", "hls"],
)
def test_a_text_that_names_other_places_is_not_followed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.wav").write_bytes(audio_file(tone(2), 16_000))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadRequest, match="not audio"):
        audio.measure(io.BytesIO(text.format(file="other.wav").encode()), 10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTAINERS)
def test_damaged_files_are_refused_or_read_and_nothing_else(kind: str) -> None:
    chance = random.Random(5)
    whole = audio_file(tone(1), 16_000, kind)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 4, 30])):
            data[chance.randrange(min(len(data), chance.choice([64, 512, 10**6])))] = chance.randrange(256)
        with contextlib.suppress(BadRequest, PayloadTooLarge):
            audio.measure(io.BytesIO(data), 60)
            for _ in audio.decode(io.BytesIO(data), 60):
                pass


def test_too_long_is_refused_before_anything_is_decoded() -> None:
    with pytest.raises(PayloadTooLarge, match="longer than 2 s"):
        audio.measure(io.BytesIO(audio_file(tone(3), 16_000)), 2)


@pytest.mark.slow
def test_a_small_file_of_hours_is_refused_in_bounded_memory() -> None:
    data = audio_file(np.zeros(8000 * 3600 * 5, np.float32), 8000, "flac")
    assert 100 * len(data) < 16_000 * 4 * 3600 * 5
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
