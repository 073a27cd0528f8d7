"""Text as XTTS takes it: in its languages, in pieces within its limits. Knows nothing of audio."""

import re
import textwrap
import threading
from pathlib import Path
from typing import Any

from deployments.errors import BadRequest

SENTENCE_END = re.compile(r"(?<=[.!?…।؟])\s+|(?<=[。！？])|\n+")  # noqa: RUF001 - as Chinese writes them


class TextReader:
    """A checkpoint's tokenizer, and the languages and lengths that its model takes."""

    def __init__(self, path: Path, config: Any) -> None:
        from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

        self._tokenizer = VoiceBpeTokenizer(vocab_file=path / "vocab.json")
        self._languages: dict[str, str] = {language.split("-")[0]: language for language in config.languages}
        self._max_tokens = config.model_args.gpt_max_text_tokens - 1
        self._guard = threading.Lock()  # coqui's cleaners are not made for several threads

    def language(self, asked: str) -> str:
        """The model's own name for a BCP 47 tag. Raises `BadRequest` naming the languages there are."""
        base = re.split("[-_]", asked.lower())[0]
        if base not in self._languages:
            have = ", ".join(self._languages.values())
            raise BadRequest(f"unknown language {asked[:80]!r}; have: {have}", param="language")
        return self._languages[base]

    def pieces(self, text: str, language: str) -> list[str]:
        """What is spoken at once, in order. Raises `BadRequest` for a text with nothing that can be spoken."""
        limit = self._tokenizer.char_limits.get(language.split("-")[0], 250)
        with self._guard:
            fitting = [piece for part in split(text, limit) for piece in self._fit(part, language)]
        if not fitting:
            raise BadRequest(f"the input has nothing that can be spoken in language {language!r}", param="input")
        return fitting

    def _fit(self, piece: str, language: str) -> list[str]:
        """A piece, or its halves where it has too many tokens; nothing where it has none that sound."""
        ids = self._ids(piece, language)
        if len(ids) > self._max_tokens and len(piece) > 1:
            halves = textwrap.wrap(piece, -(-len(piece) // 2))
            return [part for half in halves for part in self._fit(half, language)]
        tokens = [self._tokenizer.tokenizer.id_to_token(one) for one in ids]
        sounds = any(letter.isalnum() for token in tokens if not token.startswith("[") for letter in token)
        return [piece] if sounds else []

    def _ids(self, piece: str, language: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(piece.strip().lower(), lang=language)
        except ImportError as error:
            needed = getattr(error.__cause__ or error, "name", None) or error
            lacking = f"language {language!r} needs the Python package {needed}, which this server does not have"
            raise BadRequest(lacking, param="language") from error
        except Exception as error:  # mostly num2words': not every number in every language
            unread = f"the input cannot be read in language {language!r}: {type(error).__name__} {error}"
            raise BadRequest(f"{unread.strip()}; writing its numbers as words may help", param="input") from error
        return ids


def split(text: str, limit: int) -> list[str]:
    """Sentences together up to `limit` characters; longer ones cut between words, and longer words anywhere."""
    pieces: list[str] = []  # not by coqui's split_sentence, which needs spaCy
    for sentence in SENTENCE_END.split(text):
        for part in textwrap.wrap(sentence, limit, break_on_hyphens=False):
            if pieces and len(pieces[-1]) + 1 + len(part) <= limit:
                pieces[-1] += f" {part}"
            else:
                pieces.append(part)
    return pieces
