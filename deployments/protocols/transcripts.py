"""A transcript in the formats of OpenAI's audio API. Knows nothing of requests and engines."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

from starlette.responses import PlainTextResponse, Response

from deployments.engines import Segment
from deployments.protocols.app import json_response

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
FORMATS: tuple[Format, ...] = get_args(Format)
Granularity = Literal["segment", "word"]


class Transcript(NamedTuple):
    """What was heard in `duration_s` seconds of audio, and how it is to be shown."""

    segments: Sequence[Segment]
    duration_s: float
    translated: bool
    language: str | None
    """The language that was asked for, if one was."""
    granularities: Sequence[Granularity]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()


def usage(duration_s: float) -> dict[str, object]:
    """OpenAI's usage of a model that is paid by the second."""
    return {"type": "duration", "seconds": round(duration_s)}


def _json(transcript: Transcript) -> Response:
    return json_response({"text": transcript.text, "usage": usage(transcript.duration_s)})


def _text(transcript: Transcript) -> Response:
    return PlainTextResponse(transcript.text + "\n")


def _verbose(transcript: Transcript) -> Response:
    spoken = transcript.segments[0].language if transcript.segments else transcript.language
    content: dict[str, object] = {
        "task": "translate" if transcript.translated else "transcribe",
        "language": spoken or "",
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
    }
    if "segment" in transcript.granularities:
        content["segments"] = [_segment(i, segment) for i, segment in enumerate(transcript.segments)]
    if "word" in transcript.granularities:
        content["words"] = [
            {"word": word.text.strip(), "start": word.start_s, "end": word.end_s}
            for segment in transcript.segments
            for word in segment.words
        ]
    return json_response(content | {"usage": usage(transcript.duration_s)})


def _segment(index: int, segment: Segment) -> dict[str, object]:
    return {
        "id": index,
        "seek": segment.seek,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def _srt(transcript: Transcript) -> Response:
    blocks = [
        f"{index}\n{_clock(segment.start_s, ',')} --> {_clock(segment.end_s, ',')}\n{_line(segment)}\n"
        for index, segment in enumerate(transcript.segments, 1)
    ]
    return PlainTextResponse("\n".join(blocks))


def _vtt(transcript: Transcript) -> Response:
    blocks = [
        f"{_clock(segment.start_s, '.')} --> {_clock(segment.end_s, '.')}\n{_line(segment)}\n"
        for segment in transcript.segments
    ]
    return Response("\n".join(["WEBVTT\n", *blocks]), media_type="text/vtt")


def _clock(time_s: float, point: str) -> str:
    milliseconds = round(time_s * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    seconds, milliseconds = divmod(rest, 1000)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _line(segment: Segment) -> str:
    """The text as one cue: an arrow or an empty line inside it would end the cue."""
    return " ".join(segment.text.replace("-->", "->").split())


RENDER: dict[Format, Callable[[Transcript], Response]] = {
    "json": _json,
    "text": _text,
    "srt": _srt,
    "verbose_json": _verbose,
    "vtt": _vtt,
}
