"""The PocketSphinx engine against the library called directly, on speech by espeak-ng's Klatt voice."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pocketsphinx
import pytest

from deployments.engines import PCM, Segment, TranscribeOptions, espeak
from deployments.engines.pocketsphinx import FRAME, LONGEST, Engine, Options, Samples, utterances
from deployments.errors import BadRequest, EngineError, LoadError
from tests.engines.loading import loaded
from tests.sounds import package_folder

pytestmark = pytest.mark.slow

RATE_HZ = 16_000
NUMBERS, TIME, TEST, PRESIDENT = SENTENCES = (
    "one two three four five six seven",
    "what time is it",
    "this is a test",
    "the president of the united states",
)
PLAIN = TranscribeOptions()
WORDS = TranscribeOptions(words=True)


@pytest.fixture(scope="module")
def folder() -> Path:
    return package_folder("pocketsphinx")


@pytest.fixture(scope="module")
def engine(folder: Path):  # type: ignore[no-untyped-def]
    with loaded(Engine(), folder, Options()) as engine:
        yield engine


@pytest.fixture(scope="module")
def said() -> dict[str, PCM]:
    """Each of `SENTENCES` as audio at 16 kHz without silence around it."""

    async def speak(engine: espeak.Engine, text: str) -> PCM:
        return np.concatenate([pcm async for pcm in engine.speak(text, voice="en-us+klatt4")])

    with loaded(espeak.Engine(), package_folder("espeakng_loader"), espeak.Options()) as engine:
        return {text: trimmed(asyncio.run(speak(engine, text)), engine.sample_rate_hz) for text in SENTENCES}


def trimmed(audio: PCM, rate_hz: int) -> PCM:
    at = np.arange(0, len(audio) / rate_hz, 1 / RATE_HZ)
    pcm = np.interp(at, np.arange(len(audio)) / rate_hz, audio).astype(np.float32)
    loud = np.flatnonzero(np.abs(pcm) > 0.01)
    spoken: PCM = pcm[loud[0] : loud[-1] + 1]
    return spoken


def silence(seconds: float) -> PCM:
    return np.zeros(int(seconds * RATE_HZ), np.float32)


def around(pcm: PCM) -> PCM:
    return np.concatenate([silence(0.5), pcm, silence(1)])


async def heard(engine: Engine, *pieces: PCM, asked: TranscribeOptions = PLAIN) -> list[Segment]:
    return [segment async for segment in engine.transcribe(pieces, asked)]


def directly(folder: Path, pcm: PCM) -> str:
    model = folder / "model" / "en-us"
    decoder = pocketsphinx.Decoder(
        hmm=str(model / "en-us"),
        lm=str(model / "en-us.lm.bin"),
        dict=str(model / "cmudict-en-us.dict"),
        loglevel="FATAL",
    )
    decoder.start_utt()
    decoder.process_raw((pcm * 32768).astype(np.int16).tobytes())
    decoder.end_utt()
    return str(decoder.hyp().hypstr)


@pytest.mark.parametrize("text", SENTENCES)
async def test_easy_sentences_are_heard(engine: Engine, said: dict[str, PCM], text: str) -> None:
    assert [segment.text.strip() for segment in await heard(engine, around(said[text]))] == [text]


@pytest.mark.parametrize("text", SENTENCES)
async def test_an_utterance_gives_the_librarys_text(
    engine: Engine, folder: Path, said: dict[str, PCM], text: str
) -> None:
    pcm = around(said[text] * 0.2)
    whole = await heard(engine, pcm, asked=TranscribeOptions(vad=False))
    assert "".join(segment.text for segment in whole).strip() == directly(folder, pcm)


async def test_sentences_apart_are_segments_with_their_times(engine: Engine, said: dict[str, PCM]) -> None:
    pcm = np.concatenate([silence(1.5), said[NUMBERS], silence(2), said[PRESIDENT], silence(3), said[TIME]])
    starts = np.cumsum([1.5, len(said[NUMBERS]) / RATE_HZ + 2, len(said[PRESIDENT]) / RATE_HZ + 3])
    found = await heard(engine, pcm)
    assert [segment.text.strip() for segment in found] == [NUMBERS, PRESIDENT, TIME]
    for segment, start, text in zip(found, starts, (NUMBERS, PRESIDENT, TIME), strict=True):
        assert segment.start_s == pytest.approx(start, abs=0.15)
        assert segment.end_s == pytest.approx(start + len(said[text]) / RATE_HZ, abs=0.15)
        assert segment.language == "en"
        assert segment.words == ()


async def test_words_have_times(engine: Engine, said: dict[str, PCM]) -> None:
    (segment,) = await heard(engine, around(said[NUMBERS]), asked=WORDS)
    assert " ".join(word.text for word in segment.words) == segment.text.strip() == NUMBERS
    assert (segment.start_s, segment.end_s) == (segment.words[0].start_s, segment.words[-1].end_s)
    for before, after in zip(segment.words, segment.words[1:], strict=False):
        assert before.start_s < before.end_s <= after.start_s
    assert all(0 <= word.probability <= 1 for word in segment.words)


@pytest.mark.parametrize("pcm", [silence(0), silence(5), np.full(20_000, 0.3, np.float32)], ids=["none", "5s", "dc"])
async def test_silence_has_no_segments(engine: Engine, pcm: PCM) -> None:
    assert await heard(engine, pcm) == []
    assert await heard(engine) == []


async def test_noise_and_broken_samples_do_no_harm(engine: Engine, said: dict[str, PCM]) -> None:
    noise = np.random.default_rng(3).normal(0, 0.3, 2 * RATE_HZ).astype(np.float32)
    await heard(engine, noise, np.array([np.nan, np.inf, -np.inf, 9, -9] * 999, np.float32))
    assert (await heard(engine, around(said[TEST])))[0].text.strip() == TEST


@pytest.mark.parametrize("length", [7, 480, 1000, 16_000, 50_000])
async def test_segments_do_not_depend_on_the_pieces(engine: Engine, said: dict[str, PCM], length: int) -> None:
    pcm = np.concatenate([around(said[TIME]), around(said[TEST])])
    pieces = [pcm[at : at + length] for at in range(0, len(pcm), length)]
    assert await heard(engine, *pieces, asked=WORDS) == await heard(engine, pcm, asked=WORDS)


async def test_segments_do_not_depend_on_other_requests(engine: Engine, said: dict[str, PCM]) -> None:
    quiet_then_loud = np.concatenate([around(said[TEST] * 0.02), around(said[TIME])])
    asked = [quiet_then_loud, around(said[TIME] * 0.3), around(said[TEST] * 0.1), around(said[NUMBERS])]
    alone = [await heard(engine, pcm, asked=WORDS) for pcm in asked]
    together = await asyncio.gather(*(heard(engine, pcm, asked=WORDS) for pcm in asked))
    assert together == alone
    assert [await heard(engine, pcm, asked=WORDS) for pcm in reversed(asked)] == alone[::-1]


async def test_segments_come_while_audio_comes(engine: Engine, said: dict[str, PCM]) -> None:
    go_on = threading.Event()

    def pieces() -> Iterator[PCM]:
        yield around(said[NUMBERS])
        assert go_on.wait(60)
        yield around(said[TIME])

    texts = []
    async for segment in engine.transcribe(pieces(), PLAIN):
        texts.append(segment.text.strip())
        go_on.set()
    assert texts == [NUMBERS, TIME]


async def test_endless_audio_is_read_no_further_than_it_is_wanted(engine: Engine, said: dict[str, PCM]) -> None:
    read = 0

    def endless() -> Iterator[PCM]:
        nonlocal read
        while True:
            read += 1
            yield around(said[TEST])

    async with aclosing(engine.transcribe(endless(), PLAIN)) as segments:
        async for segment in segments:
            assert segment.text.strip() == TEST
            break
    at_the_end = read
    assert (await heard(engine, around(said[NUMBERS])))[0].text.strip() == NUMBERS
    assert read == at_the_end


async def test_cancelling_within_an_utterance_leaves_the_next_whole(engine: Engine, said: dict[str, PCM]) -> None:
    begun = threading.Event()

    def pieces() -> Iterator[PCM]:
        yield np.tile(said[PRESIDENT], 10)  # longer than one utterance may be
        begun.set()
        yield np.tile(said[PRESIDENT], 10)

    task = asyncio.create_task(heard(engine, *pieces()))
    async with asyncio.timeout(60):
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await heard(engine, around(said[TEST])))[0].text.strip() == TEST


async def test_what_the_audio_raises_comes_out(engine: Engine, said: dict[str, PCM]) -> None:
    def broken(error: Exception) -> Iterator[PCM]:
        yield around(said[TEST])
        raise error

    with pytest.raises(BadRequest, match="no audio"):
        _ = [segment async for segment in engine.transcribe(broken(BadRequest("no audio")), PLAIN)]
    with pytest.raises(EngineError, match="broken"):
        _ = [segment async for segment in engine.transcribe(broken(OSError("broken")), PLAIN)]


@pytest.mark.parametrize("language", ["en", "EN-us", "en_GB", "English", None])
async def test_english_is_taken(engine: Engine, language: str | None) -> None:
    asked = TranscribeOptions(language=language, prompt="a", hotwords="b", temperature=0.0)
    assert await heard(engine, silence(0.1), asked=asked) == []


@pytest.mark.parametrize("language", ["de", "", "enx", "german", "\0"])
async def test_another_language_is_refused(engine: Engine, language: str) -> None:
    with pytest.raises(BadRequest) as error:
        await heard(engine, silence(0.1), asked=TranscribeOptions(language=language))
    assert error.value.param == "language"


async def test_translation_is_refused(engine: Engine) -> None:
    with pytest.raises(BadRequest, match="does not translate"):
        await heard(engine, silence(0.1), asked=TranscribeOptions(translate=True))


def test_a_folder_without_the_model_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=str(tmp_path)), loaded(Engine(), tmp_path, Options()):
        pass


def test_a_broken_model_cannot_be_loaded(tmp_path: Path) -> None:
    model = tmp_path / "model" / "en-us"
    (model / "en-us").mkdir(parents=True)
    for name in ("en-us.lm.bin", "cmudict-en-us.dict"):
        (model / name).write_text("no model")
    with pytest.raises(LoadError, match="cannot read"), loaded(Engine(), tmp_path, Options()):
        pass


def numbered(count: int) -> Iterator[Samples]:
    return (np.full(FRAME, n, np.int16) for n in range(count))


def test_speech_without_end_is_cut_without_loss() -> None:
    found = list(utterances(numbered(3 * LONGEST), lambda _: True))
    assert all(len(one.samples) <= LONGEST * FRAME for one in found)
    together = np.concatenate([one.samples for one in found])
    np.testing.assert_array_equal(together, np.concatenate(list(numbered(3 * LONGEST))))
    assert [one.start for one in found] == [FRAME * int(one.samples[0]) for one in found]


def test_what_surrounds_speech_is_kept() -> None:
    (one,) = utterances(numbered(200), lambda frame: 50 <= frame[0] < 100)
    assert FRAME * int(one.samples[0]) == one.start
    assert one.samples[0] <= 50 - 10
    assert one.samples[-1] >= 100 + 5


def test_a_click_is_no_speech() -> None:
    assert not list(utterances(numbered(200), lambda frame: frame[0] in (50, 51, 52)))
