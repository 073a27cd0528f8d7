"""Voices in a folder: which names and samples can be one, and what becomes of files that others put there."""

import os
import wave
from pathlib import Path

import numpy as np
import pytest

from deployments.engines import PCM
from deployments.engines._voices import MAX_LEARNT, MAX_SAMPLE_S, Sample, Voices
from deployments.errors import BadRequest, NotFound

RATE_HZ = 8000


def noise(seconds: float = 3.0, seed: int = 0) -> PCM:
    chance = np.random.default_rng(seed)
    made: PCM = (chance.uniform(-0.5, 0.5, int(seconds * RATE_HZ))).astype(np.float32)
    return made


def write_wav(file: Path, frames: bytes, width: int = 2, channels: int = 1, rate_hz: int = RATE_HZ) -> None:
    with wave.open(str(file), "wb") as made:
        made.setsampwidth(width)
        made.setnchannels(channels)
        made.setframerate(rate_hz)
        made.writeframes(frames)


def count(sample: Sample) -> int:
    return len(sample.pcm)


@pytest.fixture
def voices(tmp_path: Path) -> Voices[int]:
    return Voices(tmp_path / "not" / "there yet", {"Ada": -1}, aliases={"alloy": "anna", "echo": "Ada"})


def test_an_added_voice_is_there_as_it_was_given(voices: Voices[int]) -> None:
    voices.add("anna", noise(), RATE_HZ)
    assert voices.names() == ["Ada", "anna"]
    kept = voices.read("anna")
    assert kept.rate_hz == RATE_HZ
    np.testing.assert_allclose(kept.pcm, noise(), atol=1 / 65536)
    assert [file.name for file in voices.folder.iterdir()] == ["anna.wav"]


def test_what_is_too_loud_or_too_long_is_cut(voices: Voices[int]) -> None:
    voices.add("anna", noise(MAX_SAMPLE_S + 5) * 10, RATE_HZ)
    kept = voices.read("anna").pcm
    assert len(kept) == MAX_SAMPLE_S * RATE_HZ
    assert -1 <= kept.min() < -0.999
    assert 0.999 < kept.max() <= 1


def test_adding_again_replaces(voices: Voices[int]) -> None:
    voices.add("anna", noise(2), RATE_HZ)
    assert voices.learn("anna", count) == 2 * RATE_HZ
    voices.add("anna", noise(3), RATE_HZ)
    assert voices.learn("anna", count) == 3 * RATE_HZ


@pytest.mark.parametrize("name", ["", "../anna", "a/b", ".anna", " anna", "-rf", "ännchen", "a" * 65, "anna\n", "a\0b"])
def test_names_that_could_be_paths_are_refused(voices: Voices[int], name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        voices.add(name, noise(), RATE_HZ)
    assert refused.value.param == "name"
    assert not voices.folder.exists()


@pytest.mark.parametrize(
    ("pcm", "rate_hz"),
    [
        (noise(1.9), RATE_HZ),
        (noise(0), RATE_HZ),
        (noise() * 1e-4, RATE_HZ),
        (noise() * np.float32("nan"), RATE_HZ),
        (noise(), 44101),
        (noise(), 0),
    ],
    ids=["short", "empty", "silent", "not numbers", "odd rate", "no rate"],
)
def test_samples_that_are_no_speech_are_refused(voices: Voices[int], pcm: PCM, rate_hz: int) -> None:
    with pytest.raises(BadRequest):
        voices.add("anna", pcm, rate_hz)
    assert voices.names() == ["Ada"]


def test_the_engines_own_voices_stay(voices: Voices[int]) -> None:
    with pytest.raises(BadRequest):
        voices.add("Ada", noise(), RATE_HZ)
    with pytest.raises(BadRequest):
        voices.delete("Ada")
    assert voices.learn("Ada", count) == -1


def test_a_deleted_voice_is_gone(voices: Voices[int]) -> None:
    voices.add("anna", noise(), RATE_HZ)
    voices.delete("anna")
    assert voices.names() == ["Ada"]
    with pytest.raises(NotFound):
        voices.delete("anna")
    with pytest.raises(BadRequest) as refused:  # asked for before it was deleted
        voices.learn("anna", count)
    assert refused.value.param == "voice"


def test_deleting_reaches_nothing_outside_the_folder(voices: Voices[int]) -> None:
    voices.add("anna", noise(), RATE_HZ)
    outside = voices.folder.parent / "outside.wav"
    outside.write_bytes(b"")
    with pytest.raises(NotFound):
        voices.delete("../outside")
    assert outside.exists()


def test_requests_find_voices_by_name_alias_or_default(voices: Voices[int]) -> None:
    assert voices.find(None) == "Ada"
    assert voices.find("echo") == "Ada"
    with pytest.raises(BadRequest) as refused:
        voices.find("alloy")  # an alias of a voice that is not there
    assert refused.value.param == "voice"
    voices.add("anna", noise(), RATE_HZ)
    assert voices.find("alloy") == "anna"
    assert Voices(voices.folder, {"Ada": -1}, default="anna").find(None) == "anna"


def test_without_any_voice_the_answer_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="add one"):
        Voices[int](tmp_path, {}).find(None)


def test_an_unknown_voice_is_answered_with_twenty_names(tmp_path: Path) -> None:
    voices = Voices(tmp_path, {f"voice {i:02}": i for i in range(25)})
    with pytest.raises(BadRequest) as refused:
        voices.find("nobody")
    assert "voice 19 and 5 more" in refused.value.message


def test_a_file_put_there_by_hand_is_a_voice_at_once(voices: Voices[int]) -> None:
    voices.folder.mkdir(parents=True)
    frames = (noise() * 32767).astype("<i2").tobytes()
    write_wav(voices.folder / "Jürgen 2.wav", frames)
    write_wav(voices.folder / ".hidden.wav", frames)
    (voices.folder / "notes.txt").touch()
    (voices.folder / "folder.wav").mkdir()
    assert voices.names() == ["Ada", "Jürgen 2"]
    voices.delete("Jürgen 2")
    assert voices.names() == ["Ada"]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wavs_of_any_width_and_channels_are_read(voices: Voices[int], width: int) -> None:
    voices.folder.mkdir(parents=True)
    left, right = noise(seed=1), noise(seed=2)
    whole = np.rint(np.stack([left, right], axis=1) * 2 ** (8 * width - 1)).astype(np.int64)
    frames = (whole + 128).astype(np.uint8) if width == 1 else whole.astype("<i8").view(np.uint8).reshape(-1, 8)
    write_wav(voices.folder / "both.wav", frames.reshape(len(left) * 2, -1)[:, :width].tobytes(), width, channels=2)
    np.testing.assert_allclose(voices.read("both").pcm, (left + right) / 2, atol=2.0 ** (1 - 8 * width) + 1e-7)


@pytest.mark.parametrize("content", [b"", b"not a wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x03\0\x01\0" + b"\0" * 30])
def test_a_file_that_is_no_sample_is_a_bad_request(voices: Voices[int], content: bytes) -> None:
    voices.folder.mkdir(parents=True)
    (voices.folder / "odd.wav").write_bytes(content)
    with pytest.raises(BadRequest) as refused:
        voices.learn("odd", count)
    assert refused.value.param == "voice"
    assert str(voices.folder) not in refused.value.message


def test_a_short_or_empty_file_is_a_bad_request(voices: Voices[int]) -> None:
    voices.folder.mkdir(parents=True)
    for name, frames in {"empty": b"", "short": b"\x10\x20" * RATE_HZ}.items():
        write_wav(voices.folder / f"{name}.wav", frames)
        with pytest.raises(BadRequest, match="at least 2 s"):
            voices.learn(name, count)


def test_what_was_learnt_is_kept_until_the_file_changes(voices: Voices[int]) -> None:
    studied: list[int] = []

    def study(sample: Sample) -> int:
        studied.append(len(sample.pcm))
        return len(studied)

    voices.add("anna", noise(), RATE_HZ)
    assert [voices.learn("anna", study) for _ in range(3)] == [1, 1, 1]
    voices.add("anna", noise(seed=5), RATE_HZ)  # of the same size
    assert [voices.learn("anna", study) for _ in range(2)] == [2, 2]
    os.utime(voices.folder / "anna.wav", ns=(1, 1))
    assert voices.learn("anna", study) == 3


def test_only_so_much_is_kept(voices: Voices[int]) -> None:
    studied: list[Sample] = []
    names = [f"v{i}" for i in range(MAX_LEARNT + 1)]
    voices.add(names[0], noise(2), RATE_HZ)
    for name in names[1:]:
        os.link(voices.folder / f"{names[0]}.wav", voices.folder / f"{name}.wav")

    def study(sample: Sample) -> int:
        studied.append(sample)
        return 0

    for name in [*names, names[-1], names[0]]:
        voices.learn(name, study)
    assert len(studied) == len(names) + 1  # the first was forgotten, the last was not
