"""The espeak-ng engine against the library called directly, and against itself alone."""

import asyncio
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from deployments.engines import PCM
from deployments.engines.espeak import MAX_PIECE, Engine, Options, cut
from deployments.errors import BadRequest, EngineError, LoadError
from tests.engines.loading import loaded
from tests.sounds import package_folder

DIRECTLY = """
import ctypes, sys
folder, voice, text = sys.argv[1:]
made = bytearray()
library = ctypes.CDLL(folder + "/libespeak-ng.so")
assert library.espeak_Initialize(2, 150, folder.encode(), 0) == 22050
library.espeak_ng_SetRandSeed(ctypes.c_long(1))
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
heard = kind(lambda at, n, _: made.extend(ctypes.string_at(at, 2 * n) if at and n > 0 else b"") or 0)
library.espeak_SetSynthCallback(heard)
assert library.espeak_SetVoiceByName(voice.encode()) == 0
text = text.encode()
assert library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, 0x1001, None, None) == 0
sys.stdout.buffer.write(made)
"""
SENTENCES = [f"Sentence number {n} speaks of {what}." for n, what in enumerate("ships lamps cats seas".split() * 2)]


@pytest.fixture(scope="module")
def folder() -> Path:
    return package_folder("espeakng_loader")


@pytest.fixture(scope="module")
def engine(folder: Path):  # type: ignore[no-untyped-def]
    with loaded(Engine(), folder, Options()) as engine:
        yield engine


async def spoken(engine: Engine, text: str, voice: str | None = None, language: str | None = None) -> PCM:
    return np.concatenate([pcm async for pcm in engine.speak(text, voice=voice, language=language)])


async def refused(engine: Engine, text: str, voice: str | None = None, language: str | None = None) -> str | None:
    with pytest.raises(BadRequest) as error:
        await spoken(engine, text, voice, language)
    return error.value.param


@pytest.mark.parametrize(
    ("voice", "called"), [("en-us", "gmw/en-US"), ("de", "gmw/de"), ("en-us+whisper", "gmw/en-US+whisper")]
)
async def test_audio_equals_the_librarys(engine: Engine, folder: Path, voice: str, called: str) -> None:
    text = "Seven ships, an iron sea. Who counted the <b>blue</b> lamps?"
    made = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DIRECTLY, str(folder), called, text], capture_output=True, check=True
    )
    audio = await spoken(engine, text, voice)
    assert audio.dtype == np.float32
    assert engine.sample_rate_hz == 22050
    np.testing.assert_array_equal(audio, np.frombuffer(made.stdout, np.int16) / np.float32(32768))


async def test_concurrent_requests_sound_as_each_does_alone(engine: Engine) -> None:
    voices = ["alloy", "de", None, "en-us+klatt"] * 2
    asked = [(f"{text} " * 20, voice) for text, voice in zip(SENTENCES, voices, strict=True)]
    alone = [await spoken(engine, *one) for one in asked]
    together = await asyncio.gather(*(spoken(engine, *one) for one in asked))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


async def test_two_engines_beside_each_other_do_not_meet(engine: Engine, folder: Path) -> None:
    before = await spoken(engine, SENTENCES[0])
    with loaded(Engine(), folder, Options(language="de")) as other:
        both = await asyncio.gather(spoken(engine, SENTENCES[0]), spoken(other, SENTENCES[0]))
    np.testing.assert_array_equal(before, both[0])
    np.testing.assert_array_equal(both[1], await spoken(engine, SENTENCES[0], "de"))
    np.testing.assert_array_equal(before, await spoken(engine, SENTENCES[0]))


async def test_voice_and_language_choose_what_is_heard(engine: Engine) -> None:
    async def same(one: tuple[str | None, str | None], other: tuple[str | None, str | None]) -> bool:
        return np.array_equal(await spoken(engine, SENTENCES[0], *one), await spoken(engine, SENTENCES[0], *other))

    assert await same((None, None), ("en-us", None))
    assert await same((None, "EN"), ("en-us", "en-US"))
    assert await same((None, "pt-BR"), ("pt-br", None))
    assert await same((None, "de-AT"), ("DE", None))
    assert await same((None, "zh-TW"), ("cmn", None))
    assert await same(("alloy", "de"), ("de+klatt4", None))
    assert not await same(("alloy", None), ("nova", None))
    assert not await same(("en-us", None), ("en-gb", None))


async def test_every_voice_that_is_listed_can_speak(engine: Engine) -> None:
    voices = engine.voices()
    assert len({one.id for one in voices}) == len(voices) > 100
    assert {"alloy", "verse", "en-us", "de", "fr-fr", "yue-latn-jyutping"} <= {one.id for one in voices}
    assert next(one for one in voices if one.id == "de") == ("de", "German", "de")
    for voice in voices:
        assert np.abs(await spoken(engine, "hello", voice.id)).max() > 0.01, voice


async def test_closing_early_leaves_the_next_request_whole(engine: Engine) -> None:
    whole = await spoken(engine, SENTENCES[1])
    async with contextlib.aclosing(engine.speak(SENTENCES[0] * 2000)) as pieces:
        async for _ in pieces:
            break
    np.testing.assert_array_equal(await spoken(engine, SENTENCES[1]), whole)


async def test_a_long_text_is_heard_before_all_of_it_is_spoken(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    speak = engine._process.speak

    def noted(voice: str, text: str, cancelled: threading.Event) -> list[bytes]:
        asked.append(text)
        return speak(voice, text, cancelled)

    monkeypatch.setattr(engine._process, "speak", noted)
    text = f"{SENTENCES[0]} " * 1500
    async with contextlib.aclosing(engine.speak(text)) as pieces:
        async for _ in pieces:
            break
    assert 0 < sum(map(len, asked)) < len(text) / 10  # a slow reader is waited for


async def test_a_short_text_does_not_wait_for_a_long_one(engine: Engine) -> None:
    long = asyncio.create_task(spoken(engine, SENTENCES[0] * 2000))
    await spoken(engine, "hello")
    assert not long.done()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long


@pytest.mark.parametrize(
    "voice", ["", "nobody", "en-us+nobody", "en-us+", "../etc", "gmw/en-US", "de\0", "é", "a" * 999]
)
async def test_an_unknown_voice_is_refused(engine: Engine, voice: str) -> None:
    assert await refused(engine, "hello", voice) == "voice"


@pytest.mark.parametrize("language", ["", "xx", "english", "../de", "\0"])
async def test_an_unknown_language_is_refused(engine: Engine, language: str) -> None:
    assert await refused(engine, "hello", None, language) == "language"


@pytest.mark.parametrize("text", ["", " \n\t", "...", "\0", "\ud800", "\x01"])
async def test_a_text_with_nothing_to_say_is_refused(engine: Engine, text: str) -> None:
    assert await refused(engine, text) == "input"


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("hello \0world", "hello world"),
        ("hello \udfffworld", "hello world"),
        ("hello \x01300Sworld", "hello 300Sworld"),
    ],
)
async def test_what_is_not_text_is_left_out(engine: Engine, text: str, same_as: str) -> None:
    np.testing.assert_array_equal(await spoken(engine, text), await spoken(engine, same_as))


@pytest.mark.parametrize("text", ["<speak>hello</speak>", "[[h@loU]]", "&lt;hello&gt;"])
async def test_markup_is_read_out(engine: Engine, text: str) -> None:
    assert len(await spoken(engine, text)) > len(await spoken(engine, "hello"))


async def test_a_text_on_which_espeak_crashes_fails_alone(engine: Engine) -> None:
    crash = spoken(engine, "8", "kl")  # a segmentation fault in 1.52.0
    others = [spoken(engine, text * 20) for text in SENTENCES[:3]]
    *audios, error = await asyncio.gather(*others, crash, return_exceptions=True)
    assert isinstance(error, EngineError)
    assert all(isinstance(audio, np.ndarray) for audio in audios)
    assert engine.alive()


async def test_an_engine_whose_process_ends_is_not_alive(folder: Path) -> None:
    with loaded(Engine(), folder, Options()) as engine:
        assert engine.alive()
        os.kill(engine._process._process.pid, signal.SIGKILL)
        engine._process._process.wait()
        assert not engine.alive()
        with pytest.raises(EngineError):
            await spoken(engine, "hello")


def test_the_process_ends_with_whoever_started_it(folder: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from deployments.engines.espeak import _Process\n"
        f"print(_Process(Path({str(folder)!r}))._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    started = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert started.returncode == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        assert select.select([os.pidfd_open(int(started.stdout))], [], [], 10)[0]


async def test_voices_are_fixed(engine: Engine) -> None:
    with pytest.raises(BadRequest):
        await engine.add_voice("me", np.zeros(16000, np.float32), 16000)
    with pytest.raises(BadRequest):
        await engine.delete_voice("alloy")


@pytest.mark.parametrize(
    "options",
    [Options(voice="nobody"), Options(language="xx"), Options(voice_aliases={"me": "en-us+nobody"})],
)
def test_options_that_name_nothing_cannot_be_loaded(folder: Path, options: Options) -> None:
    with pytest.raises(LoadError, match="unknown"), loaded(Engine(), folder, options):
        pass


async def test_options_choose_the_default_and_the_aliases(folder: Path, engine: Engine) -> None:
    with loaded(Engine(), folder, Options(voice="Me", voice_aliases={"me": "de+f2"})) as other:
        assert other.voices()[0].id == "me"
        np.testing.assert_array_equal(await spoken(other, "hello"), await spoken(engine, "hello", "de+f2"))
        assert await refused(other, "hello", "alloy") == "voice"


def test_a_folder_without_espeak_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=str(tmp_path)), loaded(Engine(), tmp_path, Options()):
        pass


@pytest.mark.parametrize(
    "text", ["word " * 999, "One. Two? " * 200, "x" * 1999, "短い文。" * 300, "a, b " * 300, "Dr. Who", "\n\n"]
)
def test_a_text_is_cut_without_loss(text: str) -> None:
    pieces = list(cut(text))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= MAX_PIECE for piece in pieces)
    assert len(pieces) <= 1 + 1.1 * len(text) / MAX_PIECE


def test_a_text_is_cut_after_sentences() -> None:
    assert all(piece.endswith(".") for piece in cut("Seven ships, and one more. " * 99))


def test_the_library_is_not_loaded_into_this_process(engine: Engine) -> None:
    with pytest.raises(AttributeError):
        _ = ctypes.CDLL(None).espeak_Synth
