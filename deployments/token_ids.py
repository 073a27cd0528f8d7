"""Text of token ids that a client made with tiktoken, as LangChain does. Knows nothing of models.

tiktoken fetches an encoding's table on first use and keeps it. Here that is tried in a thread of
its own, at most once a minute, so that a host without network answers at once and never garbage.
"""

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deployments.errors import BadRequest

if TYPE_CHECKING:
    import tiktoken

WAIT_S = 5.0
RETRY_S = 60.0


class _Attempt(threading.Thread):
    """One try at loading an encoding: its result, or why there is none."""

    def __init__(self, name: str) -> None:
        super().__init__(name=f"tiktoken-{name}", daemon=True)
        self.encoding_name = name
        self.began_s = time.monotonic()
        self.encoding: tiktoken.Encoding | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        import tiktoken

        try:
            self.encoding = tiktoken.get_encoding(self.encoding_name)
        except Exception as error:
            self.error = error


_attempts: dict[str, _Attempt] = {}
_lock = threading.Lock()


def decode(encoding_name: str, ids: Sequence[int]) -> str:
    """The text of `ids` in tiktoken's encoding of that name. May block for `WAIT_S` the first time.

    Raises `BadRequest` when the encoding's table is not at hand, naming the client setting that
    sends text instead, and when an id is not one of the encoding's.
    """
    encoding = _encoding(encoding_name)
    if encoding is None:
        raise BadRequest(
            f"the input is token ids, and the table of {encoding_name!r} that would turn them into text is not at "
            "hand on this server. Send text: in LangChain, OpenAIEmbeddings(check_embedding_ctx_length=False). "
            "Or give the server the table (TIKTOKEN_CACHE_DIR), or set the model's option token_ids.",
            param="input",
        )
    try:
        return encoding.decode(list(ids), errors="strict")
    except (KeyError, OverflowError, UnicodeDecodeError, ValueError) as error:
        raise BadRequest(f"token ids that are no text in {encoding_name!r}: {error}", param="input") from error


def _encoding(name: str) -> "tiktoken.Encoding | None":
    with _lock:
        attempt = _attempts.get(name)
        failed = attempt is not None and not attempt.is_alive() and attempt.encoding is None
        if attempt is None or (failed and time.monotonic() - attempt.began_s > RETRY_S):
            attempt = _attempts[name] = _Attempt(name)
    attempt.join(max(0.0, attempt.began_s + WAIT_S - time.monotonic()))
    return attempt.encoding
