"""The faster-whisper engine against the library called directly, on a tiny checkpoint."""

import asyncio
import contextlib
import io
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_whisper import BatchedInferencePipeline, WhisperModel, decode_audio

from deployments import audio
from deployments.engines import PCM, Segment, TranscribeOptions
from deployments.engines.faster_whisper import CPU_BATCH, FALLBACK, LONG_PLACES, Engine, Options, quietest
from deployments.errors import BadRequest, EngineError, LoadError
from tests.engines.loading import loaded
from tests.sounds import CONTAINERS, audio_file

pytestmark = pytest.mark.slow

ENGLISH = TranscribeOptions(language="en")


@pytest.fixture(scope="module")
def engine(tiny_whisper: Path) -> Iterator[Engine]:
    with loaded(Engine(), tiny_whisper, Options()) as engine:
        yield engine


@pytest.fixture(scope="module")
def library(tiny_whisper: Path) -> WhisperModel:
    return WhisperModel(str(tiny_whisper), device="cpu", cpu_threads=2)


def minutes(speech: PCM, count: float) -> PCM:
    """The speech, again and again, with a second of silence between."""
    once = np.concatenate([speech, np.zeros(16_000, np.float32)])
    return np.tile(once, int(count * 60 * 16_000 / len(once)) + 1)[: int(count * 60 * 16_000)]


async def transcribed(engine: Engine, pcm: Iterable[PCM], asked: TranscribeOptions = ENGLISH) -> list[Segment]:
    async with contextlib.aclosing(engine.transcribe(pcm, asked)) as segments:
        return [segment async for segment in segments]


def as_rows(segments: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Segments of the engine or of the library, as what is compared of them."""
    return [
        (s.text, round(float(s.start), 3), round(float(s.end), 3), list(s.tokens), pytest.approx(s.avg_logprob, 1e-5))
        if hasattr(s, "start")
        else (s.text, s.start_s, s.end_s, list(s.tokens), s.avg_logprob)
        for s in segments
    ]


def direct(library: WhisperModel, pcm: PCM, **options: Any) -> tuple[list[Any], Any]:
    segments, info = library.transcribe(pcm, vad_filter=True, temperature=FALLBACK, **options)
    return list(segments), info


async def test_a_short_clip_is_as_the_library_has_it(engine: Engine, library: WhisperModel, speech: PCM) -> None:
    expected, info = direct(library, speech)
    found = await transcribed(engine, [speech[:30_000], speech[30_000:]], TranscribeOptions())
    assert found
    assert as_rows(found) == as_rows(expected)
    assert {segment.language for segment in found} == {info.language}


async def test_words_are_as_the_library_has_them(engine: Engine, library: WhisperModel, speech: PCM) -> None:
    expected, _ = direct(library, speech, language="en", word_timestamps=True)
    found = await transcribed(engine, [speech], TranscribeOptions(language="en", words=True))
    words = [(w.word, float(w.start), float(w.end), float(w.probability)) for s in expected for w in s.words]
    assert len(words) > 5
    assert [(w.text, w.start_s, w.end_s, w.probability) for s in found for w in s.words] == words


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        (TranscribeOptions("de", prompt="Guten Tag"), {"language": "de", "initial_prompt": "Guten Tag"}),
        (TranscribeOptions("de", translate=True), {"language": "de", "task": "translate"}),
        (TranscribeOptions("en", hotwords="fox"), {"language": "en", "hotwords": "fox"}),
    ],
    ids=["prompt", "translate", "hotwords"],
)
async def test_what_a_request_says_reaches_the_library(
    engine: Engine, library: WhisperModel, speech: PCM, asked: TranscribeOptions, options: dict[str, Any]
) -> None:
    plain, _ = direct(library, speech, language=options["language"])
    expected, _ = direct(library, speech, **options)
    assert as_rows(expected) != as_rows(plain)
    assert as_rows(await transcribed(engine, [speech], asked)) == as_rows(expected)


@pytest.mark.parametrize("kind", CONTAINERS)
async def test_every_format_is_as_the_library_has_it(
    engine: Engine, library: WhisperModel, speech: PCM, kind: str
) -> None:
    data = audio_file(speech, 16_000, kind)
    expected, _ = direct(library, decode_audio(io.BytesIO(data)), language="en")
    assert as_rows(await transcribed(engine, audio.decode(io.BytesIO(data), 60))) == as_rows(expected)


@pytest.mark.slow
async def test_half_an_hour_in_batches_is_as_the_library_has_it(
    engine: Engine, library: WhisperModel, speech: PCM
) -> None:
    pcm = minutes(speech, 30)
    segments, _ = BatchedInferencePipeline(library).transcribe(
        pcm, language="en", batch_size=CPU_BATCH, without_timestamps=False
    )
    found = await transcribed(engine, np.array_split(pcm, 200))
    assert len(found) > 60
    assert as_rows(found) == as_rows(segments)


async def test_words_and_language_of_several_batches_are_as_the_library_has_them(
    engine: Engine, library: WhisperModel, speech: PCM
) -> None:
    pcm = minutes(speech, 3)
    segments, info = BatchedInferencePipeline(library).transcribe(
        pcm, batch_size=CPU_BATCH, without_timestamps=False, word_timestamps=True
    )
    expected = [(w.word, float(w.start), float(w.end), float(w.probability)) for s in segments for w in s.words]
    found = await transcribed(engine, np.array_split(pcm, 20), TranscribeOptions(words=True))
    assert [(w.text, w.start_s, w.end_s, w.probability) for s in found for w in s.words] == expected
    assert found[-1].start_s > 120
    assert {segment.language for segment in found} == {info.language}


async def test_the_first_segment_does_not_wait_for_all_of_the_audio(engine: Engine, speech: PCM) -> None:
    taken = 0

    def pieces() -> Iterator[PCM]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield minutes(speech, 0.3)

    async with contextlib.aclosing(engine.transcribe(pieces(), ENGLISH)) as segments:
        await anext(segments)
        assert taken < 50
    after = taken
    assert await transcribed(engine, [speech])
    assert taken == after < 100


async def test_one_by_one_is_as_the_library_has_it(tiny_whisper: Path, library: WhisperModel, speech: PCM) -> None:
    pcm = minutes(speech, 1)
    expected, _ = direct(library, pcm, language="en")
    with loaded(Engine(), tiny_whisper, Options(batch_size=1)) as engine:
        assert as_rows(await transcribed(engine, [pcm])) == as_rows(expected)


async def test_long_audio_that_is_not_searched_for_speech_is_transcribed_in_blocks(
    engine: Engine, library: WhisperModel, speech: PCM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.engines.faster_whisper.BLOCK_S", 40)
    pcm = minutes(speech, 1.2)
    blocks = list(engine._blocks(np.array_split(pcm, 30), threading.Event()))
    np.testing.assert_array_equal(np.concatenate([block.pcm for block in blocks]), pcm)
    assert len(blocks) > 1
    assert all(len(block.pcm) <= 40 * 16_000 for block in blocks)
    expected = []
    for block in blocks:
        segments, _ = library.transcribe(block.pcm, language="en", vad_filter=False, temperature=FALLBACK)
        expected += [(s.text, round(float(s.start) + block.offset_s, 3)) for s in segments]
    found = await transcribed(engine, np.array_split(pcm, 30), TranscribeOptions("en", vad=False))
    assert [(s.text, s.start_s) for s in found] == expected
    assert found[-1].start_s > 40


def test_the_quietest_moment_is_where_audio_is_cut() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * 16_000).astype(np.float32)
    noise[40 * 16_000 : 41 * 16_000] = 0
    assert 40 * 16_000 < quietest(noise) < 41 * 16_000


async def test_silence_has_no_text(engine: Engine) -> None:
    assert await transcribed(engine, [np.zeros(16_000 * 5, np.float32)]) == []
    assert await transcribed(engine, [np.zeros(16_000 * 40, np.float32)]) == []


async def test_without_vad_silence_is_heard_too(engine: Engine, library: WhisperModel, speech: PCM) -> None:
    pcm = np.concatenate([speech, np.zeros(16_000 * 4, np.float32)])
    segments, _ = library.transcribe(pcm, language="en", vad_filter=False)
    assert as_rows(await transcribed(engine, [pcm], TranscribeOptions("en", vad=False))) == as_rows(segments)


@pytest.mark.slow
async def test_a_short_clip_is_not_stuck_behind_long_files(engine: Engine, speech: PCM) -> None:
    order: list[str] = []

    async def run(name: str, pcm: PCM) -> None:
        await transcribed(engine, [pcm])
        order.append(name)

    longs = [asyncio.create_task(run("long", minutes(speech, 6))) for _ in range(3)]
    async with contextlib.aclosing(engine.transcribe([minutes(speech, 1)], ENGLISH)) as segments:
        await anext(segments)  # the engine has begun to work
    await run("short", speech)
    await asyncio.gather(*longs)
    assert order[0] == "short"


async def test_hanging_up_stops_the_work(engine: Engine, speech: PCM) -> None:
    taken = 0

    def endless() -> Iterator[PCM]:
        nonlocal taken
        while True:
            taken += 1
            yield speech

    task = asyncio.create_task(transcribed(engine, endless()))
    while taken < 5:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = taken
    assert await transcribed(engine, [speech])
    assert taken == after


async def test_concurrent_requests_do_not_disturb_each_other(engine: Engine, speech: PCM) -> None:
    clips = [speech[i * 8000 :] for i in range(6)]
    alone = [as_rows(await transcribed(engine, [clip])) for clip in clips]
    together = await asyncio.gather(*(transcribed(engine, [clip]) for clip in clips))
    assert [as_rows(found) for found in together] == alone


async def test_batches_of_several_requests_do_not_disturb_each_other(engine: Engine, speech: PCM) -> None:
    files = [minutes(speech[i * 8000 :], 2.2) for i in range(2)]
    alone = [as_rows(await transcribed(engine, np.array_split(file, 30))) for file in files]
    together = await asyncio.gather(*(transcribed(engine, np.array_split(file, 30)) for file in files))
    assert [as_rows(found) for found in together] == alone


async def test_what_the_model_raises_ends_the_search_for_speech(
    engine: Engine, speech: PCM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(BatchedInferencePipeline, "generate_segment_batched", broken)
    taken = 0

    def pieces() -> Iterator[PCM]:
        nonlocal taken
        for _ in range(600):
            taken += 1
            yield np.zeros(16_000 * 10, np.float32) if taken > 30 else speech

    with pytest.raises(EngineError, match="broken"):
        await transcribed(engine, pieces())
    assert taken < 600


async def test_more_long_files_than_places_are_all_transcribed(
    engine: Engine, speech: PCM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.engines.faster_whisper.SHORT_S", 30)
    pcm = minutes(speech, 1)
    expected = as_rows(await transcribed(engine, [pcm]))
    found = await asyncio.gather(*(transcribed(engine, [pcm]) for _ in range(LONG_PLACES + 2)))
    assert [as_rows(one) for one in found] == [expected] * (LONG_PLACES + 2)


@pytest.mark.parametrize("language", ["klingon", "xx", "../en"])
async def test_an_unknown_language_names_the_known_ones(engine: Engine, speech: PCM, language: str) -> None:
    with pytest.raises(BadRequest, match="af, am, ar") as caught:
        await transcribed(engine, [speech], TranscribeOptions(language))
    assert caught.value.param == "language"


async def test_a_language_may_have_a_region(engine: Engine, speech: PCM) -> None:
    assert {s.language for s in await transcribed(engine, [speech], TranscribeOptions("en-US"))} == {"en"}


@pytest.mark.parametrize("after", [0.1, 1, 3])
async def test_what_the_audio_raises_comes_out(engine: Engine, speech: PCM, after: float) -> None:
    def broken() -> Iterator[PCM]:
        yield from np.array_split(minutes(speech, after), 10)
        raise BadRequest("no audio")

    with pytest.raises(BadRequest, match="no audio"):
        await transcribed(engine, broken())
    assert await transcribed(engine, [speech])


@pytest.mark.parametrize("missing", ["model.bin", "tokenizer.json"])
def test_a_folder_that_is_no_model_says_what_is_missing(tiny_whisper: Path, tmp_path: Path, missing: str) -> None:
    for file in tiny_whisper.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(LoadError, match=missing), loaded(Engine(), tmp_path, Options()):
        pass


def test_bad_options_are_load_errors(tiny_whisper: Path) -> None:
    for options in (Options(compute_type="float3"), Options(device="cuda")):
        with pytest.raises(LoadError), loaded(Engine(), tiny_whisper, options):
            pass
    with pytest.raises(BadRequest), loaded(Engine(), tiny_whisper, Options(language="xx")):
        pass
