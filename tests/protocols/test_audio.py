"""The audio routes around engines whose output is known."""

import base64
import io
import wave
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from deployments.engines import PCM, Segment, TranscribeOptions, Voice, Word
from deployments.errors import BadRequest, EngineError, NotFound
from deployments.protocols import ROUTERS, audio, models, speech_tasks, v1
from deployments.protocols.app import build_app
from tests.protocols.fakes import Served
from tests.sounds import audio_file, decoded, tone

CLIP = audio_file(tone(2), 16_000)
WORDS = (Word(0.5, 0.8, " Hello", 0.9), Word(0.8, 1.2, " there.", 0.8))
SEGMENTS = [
    Segment(0.5, 1.2, " Hello there.", "en", WORDS, tokens=(1, 2), avg_logprob=-0.5),
    Segment(3661.0, 3662.5, " A --> B", "en"),
]


class Ear:
    """Hears the same in everything; remembers how it was asked and how much it was given."""

    def __init__(self) -> None:
        self.asked = TranscribeOptions()
        self.samples = 0
        self.fails_after: int | None = None
        self.closed = False

    async def transcribe(self, pcm: Iterable[PCM], asked: TranscribeOptions) -> AsyncGenerator[Segment]:
        self.asked, self.samples = asked, sum(map(len, pcm))
        if asked.language == "xx":
            raise BadRequest("language 'xx' is not one", param="language")
        try:
            for index, segment in enumerate(SEGMENTS):
                if index == self.fails_after:
                    raise EngineError("the model failed on this input")
                yield segment
        finally:
            self.closed = True


class Mouth:
    """Says a second of a tone for each word; remembers its voices."""

    sample_rate_hz = 22_050

    def __init__(self) -> None:
        self.known = {"anna": Voice("anna", "Anna", "en")}
        self.asked: dict[str, Any] = {}

    def voices(self) -> list[Voice]:
        return list(self.known.values())

    async def speak(self, text: str, **asked: Any) -> AsyncGenerator[PCM]:
        self.asked = asked
        if asked["voice"] not in (None, *self.known):
            raise BadRequest("unknown voice", param="voice")
        for word in text.split():
            if word == "FAIL":
                raise EngineError("the model failed on this input")
            yield tone(1, self.sample_rate_hz)

    async def add_voice(self, name: str, pcm: PCM, rate_hz: int) -> Voice:
        assert len(pcm) == pytest.approx(2 * rate_hz, abs=10)
        self.known[name] = Voice(name, name)
        return self.known[name]

    async def delete_voice(self, name: str) -> None:
        if name not in self.known:
            raise NotFound(f"no voice {name!r}")
        del self.known[name]


SETTINGS: Any = {"aliases": ["whisper-1"], "limits": {"max_audio": 60, "max_characters": 50}}


@pytest.fixture
def ear() -> Served[Ear]:
    return Served(Ear(), "transcribe", **SETTINGS)


@pytest.fixture
def mouth() -> Served[Mouth]:
    return Served(Mouth(), "speak", **SETTINGS)


async def call(served: Any, method: str, path: str, **arguments: Any) -> httpx.Response:
    transport = httpx.ASGITransport(build_app("m", [make(served) for make in ROUTERS[served.status().task]]))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.request(method, path, **arguments)


async def hear(served: Served[Any], data: bytes = CLIP, path: str = "transcriptions", **fields: Any) -> httpx.Response:
    return await call(served, "POST", f"/v1/audio/{path}", files={"file": ("a.wav", data)}, data=fields)


async def say(served: Served[Any], **body: Any) -> httpx.Response:
    return await call(served, "POST", "/v1/audio/speech", json=body)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [orjson.loads(block.removeprefix("data: ")) for block in answer.text.strip().split("\n\n")]


async def test_json(ear: Served[Ear]) -> None:
    answer = await hear(ear, model="whisper-1", language="en", prompt="p", temperature="0.5", unknown="1")
    assert answer.json() == {"text": "Hello there. A --> B", "usage": {"type": "duration", "seconds": 2}}
    assert ear.loaded().samples == 32_000
    assert ear.loaded().asked == TranscribeOptions(language="en", prompt="p", temperature=0.5)


async def test_text(ear: Served[Ear]) -> None:
    answer = await hear(ear, response_format="text")
    assert answer.text == "Hello there. A --> B\n"
    assert answer.headers["content-type"].startswith("text/plain")


async def test_srt(ear: Served[Ear]) -> None:
    answer = await hear(ear, response_format="srt")
    assert answer.text == (
        "1\n00:00:00,500 --> 00:00:01,200\nHello there.\n\n2\n01:01:01,000 --> 01:01:02,500\nA -> B\n"
    )


async def test_vtt(ear: Served[Ear]) -> None:
    answer = await hear(ear, response_format="vtt")
    assert answer.text == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.200\nHello there.\n\n01:01:01.000 --> 01:01:02.500\nA -> B\n"
    )


async def test_verbose_json_has_segments_unless_only_words_are_asked(ear: Served[Ear]) -> None:
    answer = (await hear(ear, response_format="verbose_json")).json()
    assert answer["task"] == "transcribe"
    assert (answer["language"], answer["duration"]) == ("en", 2.0)
    assert [segment["id"] for segment in answer["segments"]] == [0, 1]
    assert answer["segments"][0]["tokens"] == [1, 2]
    assert "words" not in answer
    fields: dict[str, Any] = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer = (await hear(ear, **fields)).json()
    assert answer["words"] == [
        {"word": "Hello", "start": 0.5, "end": 0.8},
        {"word": "there.", "start": 0.8, "end": 1.2},
    ]
    assert "segments" not in answer
    assert ear.loaded().asked.words
    answer = (await hear(ear, **fields | {"timestamp_granularities[]": ["word", "segment"]})).json()
    assert {"words", "segments"} <= set(answer)


async def test_translation(ear: Served[Ear]) -> None:
    answer = await hear(ear, path="translations", response_format="verbose_json")
    assert answer.json()["task"] == "translate"
    assert ear.loaded().asked.translate


async def test_a_stream_has_each_segment_and_then_all(ear: Served[Ear]) -> None:
    found = events(await hear(ear, stream="true"))
    assert [event["type"] for event in found] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert "".join(event["delta"] for event in found[:2]) == found[2]["text"] == "Hello there. A --> B"
    assert ear.held == 0


async def test_a_stream_that_fails_at_once_has_a_status(ear: Served[Ear]) -> None:
    answer = await hear(ear, stream="true", language="xx")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "language"
    assert ear.held == 0


async def test_a_stream_that_fails_later_says_so_in_an_event(ear: Served[Ear]) -> None:
    ear.loaded().fails_after = 1
    found = events(await hear(ear, stream="true"))
    assert [event["type"] for event in found] == ["transcript.text.delta", "error"]
    assert found[1]["error"]["code"] == "engine_error"
    assert ear.held == 0
    assert ear.loaded().closed


@pytest.mark.parametrize(
    ("data", "fields", "status", "says"),
    [
        (b"", {}, 400, "empty"),
        (b"not audio", {}, 400, "not audio"),
        (CLIP[: len(CLIP) // 2], {}, 400, "truncated"),
        (audio_file(tone(61), 16_000), {}, 413, "longer than 60 s"),
        (CLIP, {"response_format": "xml"}, 400, "'json', 'text', 'srt', 'verbose_json' or 'vtt'"),
        (CLIP, {"temperature": "2"}, 400, "temperature"),
        (CLIP, {"stream": "maybe"}, 400, "stream"),
        (CLIP, {"stream": "true", "response_format": "srt"}, 400, "stream"),
        (CLIP, {"timestamp_granularities[]": "letter"}, 400, "'segment' or 'word'"),
    ],
)
async def test_bad_transcriptions(
    ear: Served[Ear], data: bytes, fields: dict[str, str], status: int, says: str
) -> None:
    answer = await hear(ear, data, **fields)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert ear.held == 0


async def test_a_form_without_a_file(ear: Served[Ear]) -> None:
    for arguments in ({"data": {"model": "m"}}, {"files": {"audio": CLIP}}, {"data": {"file": "text"}}):
        answer = await call(ear, "POST", "/v1/audio/transcriptions", **arguments)
        assert answer.status_code == 400
        assert "no file 'file'" in answer.json()["error"]["message"]
    answer = await call(ear, "POST", "/v1/audio/transcriptions", files={"audio": CLIP})
    assert "here: 'audio'" in answer.json()["error"]["message"]


async def test_the_file_may_come_first_and_empty_fields_are_none(ear: Served[Ear]) -> None:
    answer = await call(
        ear, "POST", "/v1/audio/transcriptions", files=[("file", ("a", CLIP)), ("language", (None, ""))]
    )
    assert answer.status_code == 200
    assert ear.loaded().asked.language is None


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac", "wav"])
async def test_speech(mouth: Served[Mouth], format: str) -> None:
    answer = await say(mouth, input="two words", response_format=format, voice="anna", language="en")
    assert answer.headers["content-type"].startswith("audio/")
    assert decoded(answer.content)[0] == pytest.approx(2, abs=0.1)
    assert mouth.loaded().asked == {"voice": "anna", "language": "en"}
    assert mouth.held == 0


async def test_speech_is_mp3_unless_asked_otherwise(mouth: Served[Mouth]) -> None:
    answer = await say(mouth, input="word")
    assert answer.headers["content-type"] == "audio/mpeg"


async def test_nulls_are_as_good_as_nothing(mouth: Served[Mouth]) -> None:
    answer = await say(mouth, input="word", response_format=None, speed=None, stream_format=None, voice="", language="")
    assert answer.status_code == 200
    assert mouth.loaded().asked == {"voice": None, "language": None}


async def test_speech_as_events(mouth: Served[Mouth]) -> None:
    plain = await say(mouth, input="two words", response_format="pcm", speed=2)
    found = events(await say(mouth, input="two words", response_format="pcm", speed=2, stream_format="sse"))
    assert [event["type"] for event in found[:-1]] == ["speech.audio.delta"] * (len(found) - 1)
    assert found[-1]["type"] == "speech.audio.done"
    assert b"".join(base64.b64decode(event["audio"]) for event in found[:-1]) == plain.content


async def test_speech_that_breaks_off_is_told(mouth: Served[Mouth]) -> None:
    found = events(await say(mouth, input="word FAIL", stream_format="sse", response_format="pcm"))
    assert found[-1]["type"] == "error"
    with pytest.raises(RuntimeError, match="response already started"):
        await say(mouth, input="word FAIL", response_format="pcm")
    assert mouth.held == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": " \n"}, "input"),
        ({"input": "x" * 51}, "input"),
        ({}, "input"),
        ({"input": 5}, "input"),
        ({"input": "a", "voice": "nobody"}, "voice"),
        ({"input": "a", "voice": {"id": "nobody"}}, "voice"),
        ({"input": "a", "voice": {}}, "voice"),
        ({"input": "a", "speed": 0.2}, "speed"),
        ({"input": "a", "speed": 4.1}, "speed"),
        ({"input": "a", "response_format": "midi"}, "response_format"),
        ({"input": "a", "stream_format": "xml"}, "stream_format"),
    ],
)
async def test_bad_speech(mouth: Served[Mouth], body: dict[str, Any], param: str) -> None:
    answer = await say(mouth, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert mouth.held == 0


async def test_voices_as_open_webui_reads_them(mouth: Served[Mouth]) -> None:
    answer = await call(mouth, "GET", "/v1/audio/voices")
    assert answer.json() == {"voices": [{"id": "anna", "name": "Anna", "language": "en"}]}
    models = await call(mouth, "GET", "/v1/audio/models")
    assert models.json() == {"models": [{"id": "m", "name": "m"}, {"id": "whisper-1", "name": "whisper-1"}]}


async def test_voices_are_added_and_deleted(mouth: Served[Mouth]) -> None:
    sample = {"sample": ("bob.mp3", audio_file(tone(2), 16_000, "flac"))}
    answer = await call(mouth, "POST", "/v1/audio/voices", files=sample, data={"name": "bob"})
    assert answer.json() == {"id": "bob", "name": "bob", "language": ""}
    answer = await call(mouth, "POST", "/v1/audio/voices", files={"sample": b"no audio"}, data={"name": "x"})
    assert answer.status_code == 400
    assert (await call(mouth, "POST", "/v1/audio/voices", files=sample)).json()["error"]["param"] == "name"
    assert (await call(mouth, "DELETE", "/v1/audio/voices/bob")).json() == {"id": "bob", "deleted": True}
    assert (await call(mouth, "DELETE", "/v1/audio/voices/bob")).status_code == 404


async def test_v1_predict_transcribes(ear: Served[Ear]) -> None:
    instance = {"b64": base64.b64encode(CLIP).decode(), "language": "en"}
    answer = await call(ear, "POST", "/v1/models/m:predict", json={"instances": [instance, instance]})
    assert answer.json() == {"predictions": ["Hello there. A --> B"] * 2}
    assert (await call(ear, "POST", "/v1/models/whisper-1:predict", json={"instances": [instance]})).status_code == 200


async def test_v1_predict_speaks(mouth: Served[Mouth]) -> None:
    instances = ["two words", {"text": "one", "voice": "anna"}]
    answer = await call(mouth, "POST", "/v1/models/m:predict", json={"instances": instances})
    lengths = []
    for prediction in answer.json()["predictions"]:
        with wave.open(io.BytesIO(base64.b64decode(prediction["b64"]))) as file:
            lengths.append(file.getnframes() / file.getframerate())
    np.testing.assert_allclose(lengths, [2, 1], atol=0.01)


@pytest.mark.parametrize(
    ("instances", "says"),
    [
        ([], "instances has 0 entries"),
        (["text"], "instances[0]: an instance is an object with b64"),
        ([{"b64": "é"}], "not base64"),
        ([{"b64": base64.b64encode(audio_file(tone(40), 16_000)).decode()}] * 2, "instances[1]: with those before it"),
        ([{"b64": "!"}], "not base64"),
        ([{"b64": base64.b64encode(b"no audio").decode()}], "instances[0]: the file is not audio"),
        ([{"b64": "", "other": 1}], "instances[0]: Unrecognized request format: other"),
    ],
)
async def test_bad_predictions(ear: Served[Ear], instances: list[Any], says: str) -> None:
    answer = await call(ear, "POST", "/v1/models/m:predict", json={"instances": instances})
    assert answer.status_code == 400
    assert says in answer.json()["error"]


async def test_predict_is_posted(ear: Served[Ear]) -> None:
    transport = httpx.ASGITransport(
        build_app("m", [models.router(speech_tasks.Transcribe(), ear), v1.router(speech_tasks.Transcribe(), ear)])
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/v1/models/m:predict")
        assert (answer.status_code, "POST" in answer.json()["error"]) == (405, True)
        answer = await client.put("/v1/models/m:predict")
        assert (answer.status_code, "POST" in answer.json()["error"]) == (405, True)


async def test_a_bug_is_answered_in_the_dialect(mouth: Served[Mouth]) -> None:
    mouth.loaded().sample_rate_hz = "no number"  # type: ignore[assignment]  # as a bug would
    transport = httpx.ASGITransport(build_app("m", [audio.speak_router(mouth)]), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.post("/v1/audio/speech", json={"input": "word"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"


async def test_v1_predict_of_another_model(ear: Served[Ear]) -> None:
    answer = await call(ear, "POST", "/v1/models/other:predict", json={"instances": [1]})
    assert answer.status_code == 404
