"""Windows of speech found while the audio comes in, against faster-whisper's, which sees all of it first."""

import weakref
from collections.abc import Iterator
from itertools import pairwise

import faster_whisper.vad
import numpy as np
import pytest
from faster_whisper.vad import VadOptions, collect_chunks, get_speech_timestamps
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.engines import PCM
from deployments.engines._speech import FRAME, Window, windows

pytestmark = pytest.mark.slow

BATCHED = VadOptions(max_speech_duration_s=30, min_silence_duration_ms=160)
"""The options that `BatchedInferencePipeline.transcribe` makes."""


def expected(pcm: PCM) -> tuple[list[dict[str, int]], list[PCM]]:
    """The library's stretches of speech, and the audio of its windows."""
    found = get_speech_timestamps(pcm, BATCHED)
    return found, collect_chunks(pcm, found, max_duration=30)[0] if found else []


def check(found: list[Window], pcm: PCM) -> None:
    stretches, chunks = expected(pcm)
    assert [stretch._asdict() for window in found for stretch in window.stretches] == stretches
    assert len(found) == len(chunks)
    for window, chunk in zip(found, chunks, strict=True):
        np.testing.assert_array_equal(window.pcm, chunk)


def talk(speech: PCM, seed: int, seconds: int) -> PCM:
    """Parts of the speech with pauses of 0 to 3 s."""
    rng, parts, samples = np.random.default_rng(seed), [], 0
    while samples < seconds * 16_000:
        start = rng.integers(0, len(speech) - 8_000)
        part = speech[start : start + rng.integers(4_000, len(speech))] * rng.uniform(0.2, 1)
        parts += [part, rng.normal(0, 0.001, int(rng.exponential(0.5) * 16_000))]
        samples += len(parts[-2]) + len(parts[-1])
    whole: PCM = np.concatenate(parts, dtype=np.float32)
    return whole[: seconds * 16_000 + int(rng.integers(0, FRAME))]


@pytest.mark.parametrize("size", [100, 4_000, 48_000, 160_000, 10_000_000])
def test_windows_are_as_the_library_has_them(speech: PCM, size: int) -> None:
    pcm = talk(speech, size, 20 if size == 100 else 150)
    found = list(windows(pcm[at : at + size] for at in range(0, len(pcm), size)))
    assert found
    check(found, pcm)


@pytest.mark.parametrize("samples", [0, 1, 64, 448, 449, 500, 511, 512, 513, 1_024, 8_000])
def test_short_audio_and_all_ends_of_a_frame(speech: PCM, samples: int) -> None:
    pcm = np.ascontiguousarray(speech[16_000 : 16_000 + samples])
    check(list(windows([pcm])), pcm)


def test_silence_has_no_windows_and_is_not_kept() -> None:
    given: list[weakref.ref[PCM]] = []

    def pieces() -> Iterator[PCM]:
        for _ in range(100):
            piece = np.zeros(16_000 * 3, np.float32)
            given.append(weakref.ref(piece))
            yield piece
            del piece
            assert sum(one() is not None for one in given) <= 3

    assert list(windows(pieces())) == []
    assert len(given) == 100
    assert list(windows([])) == []


def test_no_more_audio_is_taken_than_a_window_needs(speech: PCM) -> None:
    pcm = talk(speech, 1, 300)
    taken = 0

    def pieces() -> Iterator[PCM]:
        nonlocal taken
        for at in range(0, len(pcm), 16_000):
            taken = at
            yield pcm[at : at + 16_000]

    found = windows(pieces())
    for before, _ in pairwise(found):
        assert taken - before.stretches[-1].end < 60 * 16_000


PROBABILITY = st.sampled_from([0.0, 0.2, 0.349, 0.35, 0.4, 0.499, 0.5, 0.7, 1.0])

# Pauses shorter and longer than those that count, and speech that is as long as it may be.
FRAMES = st.one_of(st.integers(1, 8), st.integers(1, 60), st.integers(890, 930))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(PROBABILITY, FRAMES), max_size=30), st.integers(0, FRAME - 1))
@example([(1.0, 500), (0.0, 5), (1.0, 407), (0.0, 6), (1.0, 100)], 0).via("cut at its longest, in a pause")
@example([(1.0, 907), (0.0, 5), (1.0, 1)], 0).via("cut at its longest, in the padding")
@example([(1.0, 50), (0.35, 20), (1.0, 20)], 0).via("as the library compares, in float32")
def test_the_rules_are_the_librarys(runs: list[tuple[float, int]], rest: int) -> None:
    """Whatever the probabilities: the library's own code is given the same ones."""
    probabilities = np.repeat([p for p, _ in runs], [n for _, n in runs]).astype(np.float32)
    pcm = np.arange(max(0, len(probabilities) - 1) * FRAME + rest, dtype=np.float32)
    probabilities = np.append(probabilities, np.float32(0))[: len(pcm) // FRAME + 1]

    class Model:
        """Stands for Silero's in both: it says what it was told."""

        def __init__(self) -> None:
            self.session, self._said = self, 0

        def __call__(self, audio: PCM) -> PCM:
            return probabilities

        def run(self, _outputs: None, inputs: dict[str, PCM]) -> tuple[PCM, PCM, PCM]:
            said = probabilities[self._said : self._said + len(inputs["input"])]
            self._said += len(said)
            return said, inputs["h"], inputs["c"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faster_whisper.vad, "get_vad_model", Model)
        check(list(windows(np.array_split(pcm, 7))), pcm)
