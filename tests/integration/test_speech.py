"""Transcription and speech by the clients that people use, over HTTP, through the whole application."""

import asyncio
import base64
import contextlib
import io
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from faster_whisper import WhisperModel
from openai import OpenAI

from deployments.encoding import RATE_HZ
from deployments.engines import PCM
from deployments.engines.faster_whisper import FALLBACK
from tests.integration.applications import Application
from tests.sounds import audio_file, decoded, tone

SENTENCE = "one two three four five six seven"
FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")


@pytest.fixture(scope="module")
def client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def spoken(client: OpenAI) -> bytes:
    return client.audio.speech.create(model="tts-1", voice="alloy", input=SENTENCE, response_format="wav").content


@pytest.mark.parametrize("format", FORMATS)
def test_speech_in_every_format(client: OpenAI, spoken: bytes, format: Any) -> None:
    data = client.audio.speech.create(model="tts", voice="alloy", input=SENTENCE, response_format=format).content
    expected_s = decoded(spoken)[0]
    if format == "pcm":
        assert len(data) / 2 / RATE_HZ == pytest.approx(expected_s, abs=0.001)
        return
    duration_s, rate, _ = decoded(data)
    assert duration_s == pytest.approx(expected_s, abs=0.12)
    assert rate == (48_000 if format == "opus" else RATE_HZ)


def test_what_is_said_is_understood(client: OpenAI, spoken: bytes) -> None:
    heard = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", spoken))
    assert words_right(heard.text) >= 6


def test_what_is_said_as_a_stream_is_understood_as_a_stream(client: OpenAI, spoken: bytes) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=SENTENCE, response_format="wav"
    ) as response:
        data = b"".join(response.iter_bytes())
    assert data == spoken
    events = list(client.audio.transcriptions.create(model="whisper-1", file=("a.wav", data), stream=True))
    assert [event.type for event in events[-1:]] == ["transcript.text.done"]
    text = "".join(event.delta for event in events if event.type == "transcript.text.delta")
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == text
    assert words_right(text) >= 6


def words_right(text: str) -> int:
    return len(set(SENTENCE.split()) & set(text.lower().split()))


def test_home_assistants_requests(client: OpenAI) -> None:
    """wyoming-openai 0.8's calls, which needs a newer Python than this project does; it reads the WAV header."""
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=SENTENCE, response_format="wav", speed=1.25
    ) as response:
        data = b"".join(response.iter_bytes(chunk_size=2048))
    with wave.open(io.BytesIO(data)) as header:
        assert (header.getframerate(), header.getnchannels(), header.getsampwidth()) == (RATE_HZ, 1, 2)
    recorded = io.BytesIO()
    with wave.open(recorded, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(data[44:])
    recorded.seek(0)
    recorded.name = "recording.wav"
    arguments: dict[str, Any] = {
        "file": recorded,
        "model": "whisper-1",
        "language": "en",
        "temperature": 0,
        "prompt": "Lights.",
        "response_format": "json",
    }
    text = client.audio.transcriptions.create(**arguments).text
    recorded.seek(0)
    stream = client.audio.transcriptions.create(**arguments, stream=True)
    assert "".join(event.delta for event in stream if event.type == "transcript.text.delta") == text


def test_open_webuis_requests(url: str) -> None:
    voices = httpx.get(f"{url}/tts/v1/audio/voices").json()["voices"]
    assert {"id", "name"} <= set(voices[0])
    assert "alloy" in {voice["id"] for voice in voices}
    assert {"id": "tts-1", "name": "tts-1"} in httpx.get(f"{url}/v1/audio/models?model=tts").json()["models"]


def test_the_clip_is_as_the_library_has_it(client: OpenAI, tiny_whisper: Path, speech: PCM) -> None:
    library = WhisperModel(str(tiny_whisper), device="cpu", cpu_threads=2)
    clip = audio_file(speech, 16_000, "flac")
    segments, info = library.transcribe(io.BytesIO(clip), vad_filter=True, temperature=FALLBACK, word_timestamps=True)
    found = client.audio.transcriptions.create(
        model="tiny-whisper",
        file=("clip.flac", clip),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    expected = list(segments)
    assert found.language == info.language
    assert found.segments
    assert [s.text for s in found.segments] == [s.text for s in expected]
    assert [s.start for s in found.segments] == [round(float(s.start), 3) for s in expected]
    assert found.words
    assert [w.word for w in found.words] == [w.word.strip() for s in expected for w in s.words]
    assert found.text == "".join(s.text for s in expected).strip()


@pytest.mark.parametrize("format", ["srt", "vtt", "text"])
def test_subtitles(client: OpenAI, spoken: bytes, format: Any) -> None:
    found = client.audio.transcriptions.create(model="whisper", file=("a.wav", spoken), response_format=format)
    assert words_right(str(found).replace("\n", " ")) >= 6
    assert ("-->" in str(found)) == (format != "text")


def test_the_text_of_a_long_file_leaves_before_its_end(url: str, speech: PCM) -> None:
    pcm = np.tile(np.concatenate([speech, np.zeros(16_000, np.float32)]), 30)
    arrived = []
    with httpx.stream(
        "POST",
        f"{url}/tiny-whisper/v1/audio/transcriptions",
        files={"file": audio_file(pcm, 16_000)},
        data={"stream": "true", "language": "en"},
        timeout=120,
    ) as response:
        for line in response.iter_lines():
            if "delta" in line:
                arrived.append(time.monotonic())
        ended = time.monotonic()
    assert len(arrived) > 3
    assert arrived[0] < ended


def test_v1_predict_for_both(url: str) -> None:
    instance = {"text": SENTENCE, "voice": "alloy"}
    said = httpx.post(f"{url}/v1/models/tts:predict", json={"instances": [instance]}, timeout=60).json()
    heard = httpx.post(f"{url}/v1/models/whisper:predict", json={"instances": said["predictions"]}, timeout=60).json()
    assert words_right(heard["predictions"][0]) >= 6
    with wave.open(io.BytesIO(base64.b64decode(said["predictions"][0]["b64"]))) as file:
        assert file.getnframes() / file.getframerate() > 0.5


async def test_concurrent_sentences_come_back_as_each_alone(url: str) -> None:
    texts = [f"Sentence number {n} is not like the others." for n in range(8)]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

        async def say(text: str) -> bytes:
            answer = await client.audio.speech.create(
                model="xtts", voice="Ada Lovelace", input=text, response_format="pcm"
            )
            return answer.content

        alone = [await say(text) for text in texts]
        together = await asyncio.gather(*map(say, texts))
    assert len(set(alone)) == 8
    assert list(together) == alone


def test_a_voice_is_added_used_and_deleted(url: str, client: OpenAI) -> None:
    sample = {"sample": ("me.mp3", audio_file(tone(4, frequency_hz=200), 16_000, "mp3"))}
    added = httpx.post(f"{url}/xtts/v1/audio/voices", files=sample, data={"name": "me"}, timeout=60)
    assert added.json()["id"] == "me"
    voices = httpx.get(f"{url}/xtts/v1/audio/voices").json()["voices"]
    assert "me" in {voice["id"] for voice in voices}

    def say(voice: str) -> bytes:
        return client.audio.speech.create(model="xtts", voice=voice, input="Hello.", response_format="pcm").content

    assert say("me") != say("Ada Lovelace")
    assert httpx.delete(f"{url}/xtts/v1/audio/voices/me").json() == {"id": "me", "deleted": True}
    assert httpx.delete(f"{url}/v1/audio/voices/me?model=xtts").status_code == 404
    with pytest.raises(openai.BadRequestError, match="Ada Lovelace"):
        say("me")


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b", "..", "x" * 200, "a\0b"])
def test_a_voice_named_like_a_path_is_refused(url: str, name: str) -> None:
    sample = {"sample": audio_file(tone(4), 16_000)}
    answer = httpx.post(f"{url}/xtts/v1/audio/voices", files=sample, data={"name": name}, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "name"


def test_a_short_sample_is_refused(url: str) -> None:
    files = {"sample": audio_file(tone(0.5), 16_000)}
    answer = httpx.post(f"{url}/xtts/v1/audio/voices", files=files, data={"name": "short"}, timeout=60)
    assert answer.status_code == 400
    assert "0.5" in answer.json()["error"]["message"]


@pytest.mark.parametrize("model", ["whisper", "tiny-whisper"])
@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"", {}),
        (b"this is not audio", {}),
        (audio_file(tone(3), 16_000)[:30_000], {}),
        (audio_file(tone(3), 16_000), {"language": "klingon"}),
        (audio_file(tone(3), 16_000), {"response_format": "docx"}),
    ],
    ids=["empty", "text", "truncated", "language", "format"],
)
def test_bad_audio_gets_a_4xx_and_the_next_request_an_answer(
    url: str, spoken: bytes, model: str, data: bytes, fields: dict[str, str]
) -> None:
    answer = httpx.post(f"{url}/{model}/v1/audio/transcriptions", files={"file": data}, data=fields, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    good = httpx.post(f"{url}/{model}/v1/audio/transcriptions", files={"file": spoken}, timeout=60)
    assert good.status_code == 200


def test_a_small_file_of_hours_is_refused(url: str) -> None:
    data = audio_file(np.zeros(8_000 * 3600 * 5, np.float32), 8_000, "flac")
    answer = httpx.post(f"{url}/tiny-whisper/v1/audio/transcriptions", files={"file": data}, timeout=60)
    assert answer.status_code == 413
    assert "longer than 14400 s" in answer.json()["error"]["message"]


def test_an_upload_over_the_limit_is_refused(url: str) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(300):
            yield b"\0" * (1 << 20)

    with contextlib.suppress(httpx.WriteError):
        answer = httpx.post(f"{url}/whisper/v1/audio/transcriptions", content=body(), timeout=60)
        assert answer.status_code == 413


def test_hanging_up_frees_the_engine(url: str, application: Application, speech: PCM) -> None:
    pcm = np.tile(np.concatenate([speech, np.zeros(16_000, np.float32)]), 240)
    (replica,) = application.replicas("tiny-whisper")
    with httpx.stream(
        "POST",
        f"{url}/tiny-whisper/v1/audio/transcriptions",
        files={"file": audio_file(pcm, 16_000)},
        data={"stream": "true", "language": "en"},
        timeout=120,
    ) as response:
        next(line for line in response.iter_lines() if "delta" in line)
    # The rest would take the engine far longer than this.
    application.until(lambda: _is_idle(replica), 5)


def _is_idle(replica: psutil.Process) -> bool:
    """Whether it computes nothing for a quarter of a second; what asks for its state costs it a little."""
    return float(replica.cpu_percent(0.25)) < 20


def test_hanging_up_on_speech_frees_the_engine(url: str) -> None:
    body = {"input": "One more sentence for the road. " * 100, "response_format": "pcm"}
    with httpx.stream("POST", f"{url}/xtts/v1/audio/speech", json=body, timeout=120) as response:
        assert next(response.iter_bytes())
    began = time.monotonic()
    short = httpx.post(f"{url}/xtts/v1/audio/speech", json=body | {"input": "Hello."}, timeout=120)
    assert short.status_code == 200
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "body",
    [
        {"input": ""},
        {"input": "Hi", "voice": "../../etc/passwd"},
        {"input": "Hi", "voice": "nobody"},
        {"input": "Hi", "response_format": "midi"},
        {"input": "Hi", "speed": 9},
        {"input": "x" * 5000},
        {"input": "Hi", "language": "klingon"},
    ],
)
@pytest.mark.parametrize("model", ["tts", "xtts"])
def test_bad_speech_gets_a_4xx(url: str, model: str, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{url}/{model}/v1/audio/speech", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert httpx.post(f"{url}/{model}/v1/audio/speech", json={"input": "Hi."}, timeout=60).status_code == 200


def test_the_list_of_models_is_honest(url: str) -> None:
    cards = {card["id"]: card for card in httpx.get(f"{url}/v1/models").json()["data"]}
    assert "expect many wrong words" in cards["whisper-1"]["description"]
    assert "robot" in cards["tts"]["description"]
    assert "description" not in cards["tiny-whisper"]
