"""Speech by espeak-ng, on the library and the data that the package espeakng-loader carries.

A text is cut into pieces of bounded length. Each is spoken by a fork of a small process of its own
(`_espeak`), so that a text on which espeak-ng crashes costs its own request only, requests cannot mix,
and the same text always sounds the same. Requests take turns by pieces. Knows nothing of audio formats or HTTP.
"""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from deployments.engines import PCM, LoadContext, Task, Voice, _espeak
from deployments.engines._threads import Turns, stream
from deployments.errors import BadRequest, EngineError, LoadError
from deployments.settings import Frozen

START_TIMEOUT_S = 30
MAX_PIECE = 400
"""Characters that are spoken in one turn."""
AHEAD = 200
"""Pieces of audio, of 150 ms each, that may wait for a slow reader."""
ALIASES = {
    "alloy": "en-us+klatt4",
    "ash": "en-us+m1",
    "ballad": "en-us+m4",
    "cedar": "en-us+m8",
    "coral": "en-us+f2",
    "echo": "en-us+m2",
    "fable": "en-us+m5",
    "marin": "en-us+f5",
    "nova": "en-us+f3",
    "onyx": "en-us+m7",
    "sage": "en-us+f4",
    "shimmer": "en-us+f1",
    "verse": "en-us+m6",
}
"""OpenAI's voices, to which its clients default."""
_ENDS = [re.compile(end) for end in (r"[.!?…؟।]+[\"'”’)\]]*\s|[。！？]|\n\s*\n", r"[,;:،、，；]\s|[、，；]", r"\s")]  # noqa: RUF001
"""Where a text may be cut, the better places first: after sentences, after clauses, between words."""
_UNSPEAKABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which espeak-ng takes for commands, and halves of characters."""


class Options(Frozen):
    language: str = Field(
        "en-us", description="the language that is spoken when a request names neither one nor a voice"
    )
    voice: str | None = Field(None, description="the voice when a request names none; by default the language's own")
    voice_aliases: dict[str, str] | None = Field(
        None, description="further names of voices; by default OpenAI's names for variants of en-us"
    )


class Engine:
    """Engine `espeak`, task speak."""

    task: ClassVar[Task] = "speak"
    options_type: ClassVar[type[Frozen]] = Options
    libraries: ClassVar[tuple[str, ...]] = ()
    note: ClassVar[str] = (
        "A formant synthesizer: instant and in over 100 languages, but plainly a robot; for trying things out and "
        "for tiny machines."
    )

    def load(self, path: Path, options: Options, context: LoadContext) -> None:
        """Start espeak-ng from a folder that holds its library and `espeak-ng-data`. Raises `LoadError`."""
        context.progress("starting espeak-ng")
        self._process = _Process(path)
        try:
            self.sample_rate_hz = int(self._process.contents["rate_hz"])
            aliases = ALIASES if options.voice_aliases is None else options.voice_aliases
            self._voices = _Voices(self._process.contents, aliases)
            self._voices.choose_default(options.voice, options.language)
        except BadRequest as error:
            self._process.close()
            raise LoadError(f"options.{error.param}: {error.message}") from error
        self._name, self._turns = context.name, Turns(max(1, int(context.cpus)))

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.alive()

    def voices(self) -> list[Voice]:
        """The aliases, and each language's voice, which takes a variant as in `de+f2` or `en-us+klatt`."""
        return self._voices.listed()

    async def speak(self, text: str, *, voice: str | None = None, language: str | None = None) -> AsyncGenerator[PCM]:
        """See `deployments.engines.SpeakEngine.speak`.

        A voice that is asked to speak another language than its own lends that language its variant.
        Raises `BadRequest` also for a text in which there is nothing to say, and `EngineError` for one
        on which espeak-ng fails.
        """
        name = self._voices.find(voice, language)
        room = threading.Semaphore(AHEAD)

        def produce(cancelled: threading.Event) -> Generator[PCM]:
            for pcm in self._spoken(name, text, cancelled):
                while not room.acquire(timeout=0.1):
                    if cancelled.is_set():
                        return
                yield pcm

        async with aclosing(stream(f"engine-{self._name}", produce)) as pieces:
            async for pcm in pieces:
                room.release()
                yield pcm

    async def add_voice(self, name: str, pcm: PCM, rate_hz: int) -> Voice:  # noqa: ARG002
        """Raises `BadRequest`: the voices are espeak-ng's own."""
        raise BadRequest("this model's voices are fixed; none can be added", param="voice")

    async def delete_voice(self, name: str) -> None:  # noqa: ARG002
        """Raises `BadRequest`: the voices are espeak-ng's own."""
        raise BadRequest("this model's voices are fixed; none can be deleted", param="voice")

    def _spoken(self, voice: str, text: str, cancelled: threading.Event) -> Iterator[PCM]:
        """The audio of a text from its first sound on what precedes it included, a turn for each piece."""
        silence: list[bytes] = []
        heard = False
        for piece in cut(_UNSPEAKABLE.sub(" ", text)):
            with self._turns.turn(cancelled):
                made = self._process.speak(voice, piece, cancelled)
            if cancelled.is_set():
                return
            heard = heard or any(any(part) for part in made)
            if not heard:
                silence += made
                continue
            for part in [*silence, *made]:
                yield np.frombuffer(part, np.int16).astype(np.float32) / np.float32(32768)
            silence = []
        if not heard:
            raise BadRequest("there is nothing in the text that this voice can say", param="input")


def cut(text: str) -> Iterator[str]:
    """A text in pieces of at most `MAX_PIECE` characters, none of white space only, cut at the best ends there are."""
    at = 0
    while at < len(text):
        end = len(text)
        if end - at > MAX_PIECE:
            window = text[at : at + MAX_PIECE]
            ends = (max((match.end() for match in kind.finditer(window)), default=0) for kind in _ENDS)
            end = at + next((found for found in ends if found), MAX_PIECE)
        if piece := text[at:end].strip():
            yield piece
        at = end


class _Language(NamedTuple):
    """One of espeak-ng's voices: its file, its name for people, and its languages in lower case, its own first."""

    file: str
    name: str
    tags: tuple[str, ...]


class _Voices:
    """Which voice is meant by a name, a language or both. Names and languages in any case."""

    def __init__(self, contents: dict[str, Any], aliases: dict[str, str]) -> None:
        self._by_id: dict[str, _Language] = {}
        priorities: dict[str, int] = {}
        self._by_tag: dict[str, str] = {}
        for file, name, languages in contents["voices"]:
            tags = tuple(tag.lower() for _, tag in languages)
            id_ = tags[0] if tags[0] not in self._by_id else Path(file).name.lower()
            self._by_id[id_] = _Language(file, name, tags)
            for priority, tag in languages:
                if priority < priorities.get(tag.lower(), 256):
                    priorities[tag.lower()], self._by_tag[tag.lower()] = priority, id_
        self._variants = {file.lower(): file for file, _ in contents["variants"]}
        self._aliases = {alias.lower(): target for alias, target in aliases.items()}
        for alias, target in aliases.items():
            try:
                self._named(target)
            except BadRequest as error:
                raise BadRequest(f"{alias!r}: {error.message}", param="voice_aliases") from error
        self._names = list(aliases)

    def choose_default(self, voice: str | None, language: str) -> None:
        """Settle what is spoken when a request names nothing. Raises `BadRequest`."""
        self._default = self._meant(voice) if voice is not None else (self._by_language(language), "")

    def listed(self) -> list[Voice]:
        """The aliases, then each language's voice."""
        aliases = [(alias, *self._meant(alias)) for alias in self._names]
        return [
            *(Voice(alias, f"{self._by_id[id_].name}, {variant or 'plain'}", id_) for alias, id_, variant in aliases),
            *(Voice(id_, one.name, one.tags[0]) for id_, one in self._by_id.items()),
        ]

    def find(self, voice: str | None, language: str | None) -> str:
        """What espeak-ng calls the voice: its file, and its variant after a plus. Raises `BadRequest`."""
        id_, variant = self._default if voice is None else self._meant(voice)
        if language is not None and language.lower().replace("_", "-") not in self._by_id[id_].tags:
            id_ = self._by_language(language)
        return self._by_id[id_].file + (f"+{variant}" if variant else "")

    def _meant(self, voice: str) -> tuple[str, str]:
        return self._named(self._aliases.get(voice.lower(), voice))

    def _named(self, name: str) -> tuple[str, str]:
        """Id and variant of a voice named `<language>` or `<language>+<variant>`."""
        id_, plus, variant = name.lower().partition("+")
        id_ = id_ if id_ in self._by_id else self._by_tag.get(id_, "")
        if not id_:
            have = ", ".join([*self._names, *self._by_id])
            raise BadRequest(f"unknown voice {name!r}; have: {have}; and variants as in en-us+f2", param="voice")
        if plus and variant not in self._variants:
            have = ", ".join(self._variants)
            raise BadRequest(f"unknown voice {name!r}; variants of {id_!r} are: {have}", param="voice")
        return id_, self._variants[variant] if plus else ""

    def _by_language(self, language: str) -> str:
        """The voice of a BCP 47 tag, or of the longest part of it that is known (RFC 4647, lookup)."""
        parts = language.lower().replace("_", "-").split("-")
        for length in range(len(parts), 0, -1):
            if found := self._by_tag.get("-".join(parts[:length])):
                return found
        raise BadRequest(f"unknown language {language!r}; have: {', '.join(sorted(self._by_tag))}", param="language")


class _Process:
    """The process of `_espeak`, started from a folder; `contents` is what it says it has. Raises `LoadError`."""

    def __init__(self, folder: Path) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-S", _espeak.__file__, str(folder.absolute())]
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
        self._control.settimeout(START_TIMEOUT_S)
        try:
            self.contents: dict[str, Any] = json.loads(_espeak.receive(self._control))
        except (OSError, EOFError) as error:
            self.contents = {"error": f"its process did not begin ({type(error).__name__})"}
        if "error" in self.contents:
            self.close()
            raise LoadError(f"espeak-ng cannot be loaded from {folder}: {self.contents['error']}")

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End it. What speaks now fails or finishes."""
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def speak(self, voice: str, text: str, cancelled: threading.Event) -> list[bytes]:
        """One piece of text as int16 audio, in parts. Raises `EngineError`."""
        ours, theirs = socket.socketpair()
        made: list[bytes] = []
        with ours:
            try:
                with theirs:
                    socket.send_fds(self._control, [b"+"], [theirs.fileno()])
                _espeak.send(ours, voice.encode())
                _espeak.send(ours, text.encode())
                while not cancelled.is_set() and (part := _espeak.receive(ours)):
                    made.append(part)
            except (OSError, EOFError) as error:
                why = f"fails on the text that begins {text[:40]!r}" if self.alive() else "has ended"
                raise EngineError(f"espeak-ng {why}") from error
        return made
