"""The xtts engine on a tiny checkpoint: its audio beside coqui's own, many requests, voices, bad input, failures."""

import asyncio
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from deployments.engines import PCM
from deployments.engines._torch import Compute
from deployments.engines._xtts_text import split
from deployments.engines.xtts import Engine, Options, loses_device
from deployments.errors import BadRequest, EngineError, LoadError, NotFound
from tests.engines.loading import loaded
from tests.engines.xtts_checkpoint import BROKEN, BUILT_IN, make_tiny_xtts

pytestmark = pytest.mark.slow

CHUNK = 6
TEXTS = [f"Sentence number {word} of eight." for word in "one two three four five six seven eight".split()]
LONG = " ".join(TEXTS * 12)
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def checkpoint(tiny_xtts: Path) -> Path:
    return tiny_xtts


@pytest.fixture(scope="module")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with loaded(Engine(), checkpoint, options(tmp_path_factory.mktemp("voices"))) as engine:
        yield engine


@pytest.fixture(scope="module")
def coqui(checkpoint: Path) -> Any:
    """The same checkpoint, as coqui's own code loads it."""
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    config.load_json(str(checkpoint / "config.json"))
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=checkpoint, eval=True)
    return model


def options(voices: Path, **more: Any) -> Options:
    return Options(voices=voices, stream_chunk_tokens=CHUNK, **more)


def sample(seed: int = 0) -> PCM:
    """Something like a voice: a tone with overtones, and noise."""
    chance = np.random.default_rng(seed)
    time_s = np.arange(int(2.5 * RATE_HZ)) / RATE_HZ
    tone = sum(np.sin(time_s * 2 * np.pi * (100 + 60 * seed) * n) / n for n in range(1, 8))
    made: PCM = (0.2 * tone + chance.normal(0, 0.02, len(time_s))).astype(np.float32)
    return made


async def chunks(engine: Engine, text: str, **asked: Any) -> list[PCM]:
    return [chunk async for chunk in engine.speak(text, **asked)]


async def say(engine: Engine, text: str, **asked: Any) -> PCM:
    return np.concatenate(await chunks(engine, text, **asked))


async def test_chunks_are_those_of_coquis_own_stream(engine: Engine, coqui: Any) -> None:
    latents = coqui.speaker_manager.speakers[BUILT_IN].values()
    sampling = {key: coqui.config[key] for key in ("temperature", "top_p", "top_k", "repetition_penalty")}
    for text, language in [(TEXTS[0], "en"), ("Fünf Sätze, 14% davon 2. Wahl!", "de"), ("안녕하세요", "ko")]:
        ours = await chunks(engine, text, language=language, voice=BUILT_IN)
        torch.manual_seed(0)
        theirs = list(coqui.inference_stream(text, language, *latents, stream_chunk_size=CHUNK, **sampling))
        assert len(ours) == len(theirs) > 1
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.dtype == np.float32
            assert np.allclose(mine, other.numpy(), rtol=0, atol=5e-6)  # a step of 16-bit audio is 3e-5
    assert engine.sample_rate_hz == 24_000


async def test_requests_at_once_give_the_audio_of_each_alone(engine: Engine) -> None:
    alone = [await say(engine, text) for text in TEXTS]
    together = await asyncio.gather(*(say(engine, text) for text in TEXTS))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)
    assert len({audio.tobytes() for audio in alone}) == len(TEXTS)


async def test_a_long_text_is_its_pieces_one_after_another(engine: Engine) -> None:
    pieces = [" ".join(TEXTS[:4]), " ".join(TEXTS[4:])]
    alone = [await say(engine, piece) for piece in pieces]
    assert np.array_equal(await say(engine, " ".join(pieces)), np.concatenate(alone))


async def test_each_piece_gives_back_the_memory_that_it_leaves_free(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[Compute] = []
    monkeypatch.setattr(Compute, "trim", lambda self: pieces.append(self))
    with loaded(Engine(), checkpoint, options(tmp_path)) as engine:
        await say(engine, " ".join(TEXTS))
    assert len(pieces) == 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep less, and have no malloc_trim")
def test_memory_between_what_is_in_use_is_given_back() -> None:
    made = [b"x" * 100_000 for _ in range(4_000)]
    kept = [
        made[at] for at in (*range(0, 4_000, 10), -1)
    ]  # the last too, for what is free after it is given back anyway
    del made
    process = psutil.Process()
    held = process.memory_info().rss
    Compute(torch.device("cpu"), 1, 1).trim()
    assert process.memory_info().rss < held - 200_000_000
    assert len(kept) == 401


async def test_a_short_request_does_not_wait_for_the_end_of_a_long_one(engine: Engine) -> None:
    long = asyncio.create_task(say(engine, LONG))
    await asyncio.sleep(0)
    await say(engine, TEXTS[0])
    assert not long.done()
    long.cancel()
    await asyncio.gather(long, return_exceptions=True)


async def test_the_seed_is_the_options(engine: Engine, checkpoint: Path, tmp_path: Path) -> None:
    with loaded(Engine(), checkpoint, options(tmp_path, seed=5)) as other:
        assert not np.array_equal(await say(engine, TEXTS[0]), await say(other, TEXTS[0]))


async def test_copies_speak_at_once(checkpoint: Path, tmp_path: Path) -> None:
    with loaded(Engine(), checkpoint, options(tmp_path, copies=2, top_k=1)) as engine:
        # Nothing is drawn where only the likeliest token can be, so several copies are repeatable too.
        alone = [await say(engine, text) for text in TEXTS[:3]]
        together = await asyncio.gather(*(say(engine, text) for text in TEXTS[:3]))
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one, other)


async def test_an_added_voice_is_listed_used_kept_and_deleted(checkpoint: Path, tmp_path: Path) -> None:
    with loaded(Engine(), checkpoint, options(tmp_path)) as engine:
        voice = await engine.add_voice("anna", sample(1), RATE_HZ)
        await engine.add_voice("bert", sample(2), RATE_HZ)
        assert voice in engine.voices()
        anna, bert, ada = [await say(engine, TEXTS[0], voice=name) for name in ("anna", "bert", BUILT_IN)]
        assert not np.array_equal(anna, bert)
        assert not np.array_equal(anna, ada)
    again = options(tmp_path, voice="anna", voice_aliases={"alloy": "bert"})
    with loaded(Engine(), checkpoint, again) as engine:
        assert [one.id for one in engine.voices()] == [BUILT_IN, BROKEN, "anna", "bert"]
        assert np.array_equal(await say(engine, TEXTS[0]), anna)
        assert np.array_equal(await say(engine, TEXTS[0], voice="alloy"), bert)
        await engine.delete_voice("anna")
        assert [one.id for one in engine.voices()] == [BUILT_IN, BROKEN, "bert"]
        with pytest.raises(BadRequest, match="bert"):
            await say(engine, TEXTS[0], voice="anna")
        with pytest.raises(NotFound):
            await engine.delete_voice("anna")


async def test_a_changed_file_is_another_voice(engine: Engine) -> None:
    await engine.add_voice("changing", sample(1), RATE_HZ)
    before = await say(engine, TEXTS[0], voice="changing")
    await engine.add_voice("changing", sample(2), RATE_HZ)
    assert not np.array_equal(await say(engine, TEXTS[0], voice="changing"), before)
    await engine.delete_voice("changing")


async def test_built_in_voices_stay(engine: Engine) -> None:
    with pytest.raises(BadRequest):
        await engine.add_voice(BUILT_IN, sample(), RATE_HZ)
    with pytest.raises(BadRequest):
        await engine.delete_voice(BUILT_IN)


async def test_latents_are_those_of_coquis_own(
    engine: Engine, coqui: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torchaudio.load, where FFmpeg's libraries are missing, gives way to another reader of the same file."""
    import torchaudio

    from deployments.engines._voices import Voices
    from deployments.engines.xtts import _condition

    voices: Voices[Any] = Voices(tmp_path, {})
    voices.add("anna", sample(1), RATE_HZ)
    file = tmp_path / "anna.wav"
    try:
        torchaudio.load(file)
    except (RuntimeError, ImportError):
        kept = voices.read("anna")
        monkeypatch.setattr(torchaudio, "load", lambda _: (torch.from_numpy(kept.pcm)[None], kept.rate_hz))
    config = coqui.config
    for normed in (False, True):
        config.sound_norm_refs = normed
        theirs = coqui.get_conditioning_latents(
            file,
            max_ref_length=config.max_ref_len,
            gpt_cond_len=config.gpt_cond_len,
            gpt_cond_chunk_len=config.gpt_cond_chunk_len,
            sound_norm_refs=config.sound_norm_refs,
        )
        for mine, other in zip(_condition(coqui, voices.read("anna")), theirs, strict=True):
            assert torch.equal(mine, other)
    config.sound_norm_refs = False


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"voice": "nobody"}, "voice", BUILT_IN),
        ({"voice": "../anna"}, "voice", BUILT_IN),
        ({"voice": ""}, "voice", BUILT_IN),
        ({"language": "xx"}, "language", "zh-cn"),
        ({"language": ""}, "language", "zh-cn"),
        ({"text": ""}, "input", "nothing"),
        ({"text": " \n\t"}, "input", "nothing"),
        ({"text": "... !?"}, "input", "nothing"),
        ({"text": "🙂🎉"}, "input", "nothing"),
        ({"text": "ไทย"}, "input", "nothing"),  # letters that the vocabulary does not have
        ({"text": "\ud800"}, "input", "cannot be read"),
        ({"text": "Dnes je 5. května.", "language": "cs"}, "input", "numbers as words"),
    ],
    ids=str,
)
async def test_bad_input_is_refused_before_any_audio(
    engine: Engine, asked: dict[str, str], param: str, said: str
) -> None:
    with pytest.raises(BadRequest, match=said) as refused:
        await anext(engine.speak(**{"text": "Hello.", **asked}))
    assert refused.value.param == param


@pytest.mark.parametrize("tag", ["en-US", "EN", "en_GB", "pt-BR", "de-CH-1996", "ko"])
async def test_languages_are_bcp_47_tags(engine: Engine, tag: str) -> None:
    assert len(await say(engine, "Hello.", language=tag))


@pytest.mark.parametrize(("language", "text"), [("zh", "你好世界"), ("ja", "こんにちは世界"), ("ko", "안녕하세요")])
async def test_scripts_that_are_romanised_first_are_spoken(engine: Engine, language: str, text: str) -> None:
    assert len(await say(engine, text, language=language))


async def test_a_language_without_its_package_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    with pytest.raises(BadRequest, match="pypinyin") as refused:
        await say(engine, "你好", language="zh")
    assert refused.value.param == "language"


@pytest.mark.parametrize("text", ["a" * 310, "1" * 40, "a,b;" * 80, "word " * 70])
async def test_texts_without_good_places_to_cut_are_spoken(engine: Engine, text: str) -> None:
    assert len(await say(engine, text)) > len(await say(engine, "a"))


async def test_pieces_that_cannot_be_spoken_are_left_out(engine: Engine) -> None:
    assert np.array_equal(await say(engine, "Hello." + " 🙂!" * 200), await say(engine, "Hello." + " 🙂!" * 81))


def test_text_is_cut_where_it_hurts_least() -> None:
    assert split("One. Two! Three?", 100) == ["One. Two! Three?"]
    assert split("One. Two! Three?", 10) == ["One. Two!", "Three?"]
    assert split("One two three.\nFour", 8) == ["One two", "three.", "Four"]
    assert split("At 3.5 percent. Then", 16) == ["At 3.5 percent.", "Then"]
    assert split("你好。世界。", 4) == ["你好。", "世界。"]
    assert split("a" * 25, 10) == ["a" * 10, "a" * 10, "a" * 5]
    assert split(" \n ", 10) == []
    assert "".join(split(LONG, 60)).replace(" ", "") == LONG.replace(" ", "")


async def test_a_request_that_is_gone_frees_the_engine(engine: Engine) -> None:
    gone = engine.speak(LONG * 10)
    await anext(gone)
    waiting = engine.speak(LONG * 10)
    queued = asyncio.create_task(anext(waiting))
    start_s = time.monotonic()
    await gone.aclose()
    queued.cancel()
    await asyncio.gather(queued, return_exceptions=True)
    await waiting.aclose()
    await say(engine, TEXTS[0])
    assert time.monotonic() - start_s < 4  # the texts would take a minute


async def test_a_failure_is_answered_and_the_next_request_is_served(engine: Engine) -> None:
    before = await say(engine, TEXTS[0])
    broken, good = await asyncio.gather(
        say(engine, TEXTS[0], voice=BROKEN), say(engine, TEXTS[0]), return_exceptions=True
    )
    assert isinstance(broken, EngineError)
    assert isinstance(good, np.ndarray)
    assert np.array_equal(good, before)
    assert engine.alive()


def test_errors_of_cuda_end_a_replica_and_others_do_not() -> None:
    assert loses_device(RuntimeError("CUDA error: device-side assert triggered"))
    assert loses_device(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not loses_device(RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB"))
    assert not loses_device(RuntimeError("probability tensor contains either `inf`, `nan` or element < 0"))


async def test_closing_ends_what_is_spoken_and_what_waits(checkpoint: Path, tmp_path: Path) -> None:
    engine = Engine()
    with loaded(engine, checkpoint, options(tmp_path)):
        speaking = [engine.speak(LONG * 10) for _ in range(3)]
        await anext(speaking[0])
        others = [asyncio.create_task(anext(one)) for one in speaking[1:]]
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.close)
        with pytest.raises(EngineError, match="stopped"):
            async for _ in speaking[0]:
                pass
        for ended in await asyncio.gather(*others, return_exceptions=True):
            assert isinstance(ended, EngineError | np.ndarray)
        for one in speaking:
            await one.aclose()
        with pytest.raises(EngineError, match="stopped"):
            await say(engine, TEXTS[0])


@pytest.mark.parametrize("name", ["config.json", "model.pth", "vocab.json"])
def test_a_missing_file_is_named(checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "partial"
    shutil.copytree(checkpoint, folder)
    (folder / name).unlink()
    with pytest.raises(LoadError, match=name), loaded(Engine(), folder, options(tmp_path)):
        pass


def test_another_models_folder_is_refused(minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="not an XTTS checkpoint"), loaded(Engine(), minilm, options(tmp_path)):
        pass


async def test_without_built_in_speakers_a_voice_has_to_be_added(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "partial"
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("speakers_xtts.pth"))
    with loaded(Engine(), folder, options(tmp_path / "voices")) as engine:
        assert engine.voices() == []
        with pytest.raises(BadRequest, match="add one"):
            await say(engine, "Hello.")
        await engine.add_voice("anna", sample(), RATE_HZ)
        assert len(await say(engine, "Hello."))


async def test_a_file_as_old_as_xtts_v2_is_read_and_left_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    """Those carry coqui's settings as Python objects, by names of then."""
    from TTS.tts.models.xtts import XttsConfig, _legacy_safe_globals

    folder = tmp_path / "old"
    shutil.copytree(checkpoint, folder)
    weights = torch.load(folder / "model.pth", weights_only=True)["model"]
    with _legacy_safe_globals():
        torch.save({"config": XttsConfig(), "model": weights}, folder / "model.pth")
    before = (folder / "model.pth").read_bytes()
    with loaded(Engine(), folder, options(tmp_path / "voices")) as engine:
        assert len(await say(engine, "Hello."))
    assert (folder / "model.pth").read_bytes() == before


def test_a_file_with_more_than_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(checkpoint, folder)
    torch.save({"model": {}, "more": Path("/")}, folder / "model.pth")
    with pytest.raises(LoadError, match=r"model\.pth"), loaded(Engine(), folder, options(tmp_path / "voices")):
        pass


def test_the_checkpoint_is_the_same_at_every_run(checkpoint: Path, tmp_path: Path) -> None:

    make_tiny_xtts(tmp_path)
    first, second = (torch.load(folder / "model.pth")["model"] for folder in (checkpoint, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
