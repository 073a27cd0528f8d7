"""The process in which espeak-ng speaks: it loads the library once and forks itself for every piece of text.

espeak-ng 1.52 overruns its buffers on some texts, which ends the process, and keeps state in globals
from one text to the next. A fork of a process that has not spoken yet fails alone and always sounds the
same. Run as a script with one end of a socket as its input, it needs the standard library only, and ends
when the other end is closed, however that came about. Knows nothing of engines, nor which texts belong together.

    at the start   it sends one frame of JSON: what there is (see `contents`), or {"error": ...}
    for a piece    it receives a socket and forks; on that socket come two frames, voice and text, and
                   frames of audio go back, int16 at the library's rate, with an empty one at the end
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SYNCHRONOUS, DONT_EXIT = 2, 0x8000
UTF8, END_PAUSE = 1, 0x1000
BUFFER_MS = 150
LONGEST_S = 10
"""Processor time for one piece; 400 characters take some milliseconds."""
_LENGTH = struct.Struct("<I")
_Heard = Callable[[bytes], bool]
_Listed = tuple[str, str, list[tuple[int, str]]]


def send(to: socket.socket, data: bytes) -> None:
    """One frame: its length, then its bytes."""
    to.sendall(_LENGTH.pack(len(data)) + data)


def receive(at: socket.socket) -> bytes:
    """The next frame. Raises `EOFError` when the other end is closed before the frame's end."""
    return _exactly(at, _LENGTH.unpack(_exactly(at, _LENGTH.size))[0])


def _exactly(at: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        part = at.recv(size - len(got))
        if not part:
            raise EOFError
        got += part
    return bytes(got)


class _Voice(ctypes.Structure):
    """`espeak_VOICE` of speak_lib.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender_age_variant", ctypes.c_ubyte * 4),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


class Library:
    """espeak-ng in this process, with the data beside it. Raises `OSError` where either is missing or broken."""

    def __init__(self, folder: Path) -> None:
        files = [*sorted(folder.glob("libespeak-ng*.so*")), *sorted(folder.glob("libespeak-ng*.dylib"))]
        if not files or not (folder / "espeak-ng-data").is_dir():
            raise FileNotFoundError(f"no libespeak-ng and espeak-ng-data in {folder}")
        os.chdir(folder)  # the library keeps 160 bytes of its data's path
        self._library = ctypes.CDLL(str(files[0].resolve()))
        self.rate_hz = self._library.espeak_Initialize(SYNCHRONOUS, BUFFER_MS, b".", DONT_EXIT)
        if self.rate_hz <= 0:
            raise OSError(f"espeak-ng cannot read its data in {folder}")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # or breath differs from one start to the next
        self._library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))

    def speak(self, voice: bytes, text: bytes, heard: _Heard) -> None:
        """Give `heard` the audio as it is made, until it returns False. Raises `OSError` for what cannot be spoken."""

        def callback(samples: int | None, count: int, _events: int | None) -> int:
            return 0 if not samples or count <= 0 or heard(ctypes.string_at(samples, 2 * count)) else 1

        as_c = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(callback)
        self._library.espeak_SetSynthCallback(as_c)
        if self._library.espeak_SetVoiceByName(voice):
            raise OSError(f"espeak-ng has no voice {voice!r}")
        size, nobody = ctypes.c_size_t(len(text) + 1), ctypes.c_void_p()
        if self._library.espeak_Synth(text, size, 0, 1, 0, UTF8 | END_PAUSE, nobody, nobody):
            raise OSError("espeak-ng did not speak the text")

    def voices(self, language: bytes | None = None) -> list[_Listed]:
        """File, name, and languages with their priorities, lower being better; of `b"variant"`: the variants."""
        asked = _Voice(languages=ctypes.cast(ctypes.c_char_p(language), ctypes.c_void_p)) if language else None
        listed = self._library.espeak_ListVoices(ctypes.byref(asked) if asked else None)
        found: list[_Listed] = []
        while listed[len(found)]:
            one = listed[len(found)].contents
            found.append((one.identifier.decode(), one.name.decode().strip(), _languages(one.languages)))
        return found

    def can_speak(self, voice: str) -> bool:
        """Whether any sound comes of that voice: some have no dictionary."""
        made: list[bytes] = []

        def heard(pcm: bytes) -> bool:
            made.append(pcm)
            return not any(pcm)

        with contextlib.suppress(OSError):
            self.speak(voice.encode(), b"hello 1", heard)
        return any(any(pcm) for pcm in made)


def _languages(at: int | None) -> list[tuple[int, str]]:
    """What speak_lib.h says of `languages`: a byte of priority and a string ending in zero, until a zero byte."""
    found: list[tuple[int, str]] = []
    while at and (priority := ctypes.string_at(at, 1)[0]):
        tag = ctypes.string_at(at + 1)
        found.append((priority, tag.decode()))
        at += len(tag) + 2
    return found


def contents(library: Library) -> dict[str, Any]:
    """What the library has: rate in Hz, voices that can speak (MBROLA's, of other rates, left out), and variants."""
    voices = [one for one in library.voices() if not one[0].startswith("mb/") and library.can_speak(one[0])]
    variants = [(Path(file).name, name) for file, name, _ in library.voices(b"variant")]
    return {"rate_hz": library.rate_hz, "voices": voices, "variants": variants}


def in_a_fork(work: Callable[[], None]) -> None:
    """Do it in a process of its own, which is quiet and ends with it. Raises `OSError` when there can be none."""
    if os.fork():
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)  # the library writes of every oddity
        signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_S)
        work()
    finally:
        os._exit(0)


def answer(library: Library, asker: socket.socket) -> None:
    """Speak the one piece that comes from `asker`, unless it goes away first."""

    def heard(pcm: bytes) -> bool:
        try:
            send(asker, pcm)
        except OSError:
            return False
        return True

    library.speak(receive(asker), receive(asker), heard)
    send(asker, b"")


def main(folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for whoever closes the socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for forks
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a fork that fails leaves no file
    with socket.socket(fileno=0) as control:
        try:
            library = Library(folder)
        except (OSError, AttributeError) as error:
            send(control, json.dumps({"error": str(error)}).encode())
            return
        in_a_fork(lambda: send(control, json.dumps(contents(library)).encode()))
        while sockets := socket.recv_fds(control, 1, 1)[1]:
            with socket.socket(fileno=sockets[0]) as asker, contextlib.suppress(OSError):
                in_a_fork(lambda: answer(library, asker))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
