"""Compressed bodies, as V2's clients send and ask for them: gzip and deflate, opened no further than a limit.

Contract: tritonclient's `request_compression_algorithm` and `response_compression_algorithm`. Lengths that
headers tell, `Inference-Header-Content-Length` among them, are of the body before it is compressed; of a
compressed body only `Content-Length` is. Knows nothing of what bodies say.
"""

import zlib

import numpy as np
import numpy.typing as npt

from deployments.errors import BadRequest, PayloadTooLarge
from deployments.protocols.dialects import Headers
from deployments.tensors import show

Body = bytes | memoryview | npt.NDArray[np.uint8]

_GZIP, _ZLIB, _RAW = 31, 15, -15
_WRAPPINGS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_ZLIB, _RAW)}
"""What a coding's streams may be wrapped in. `deflate` is zlib's by its standard, and bare from some clients."""

SMALL_BYTES = 1024
"""What is shorter is sent as it is."""
_LEVEL = 1
"""The fastest. Tensors hardly shrink, whatever the level."""


def decompress(body: Body, content_encoding: str | None, limit_bytes: int) -> Body:
    """The body that `Content-Encoding` says is in this one; the same object where it says nothing or `identity`.

    Never makes more than `limit_bytes` and one of it: raises `PayloadTooLarge` there, and `BadRequest` for an
    unknown coding, a stream that is corrupt or cut short, and anything after its end.
    """
    coding = (content_encoding or "identity").strip().lower()
    if coding in ("identity", ""):
        return body
    if coding not in _WRAPPINGS:
        raise BadRequest(f"Content-Encoding is {show(content_encoding)}; there are: gzip, deflate, identity")
    for wrapping in _WRAPPINGS[coding]:
        opened = _open(body, wrapping, limit_bytes)
        if opened is not None:
            return opened
    raise BadRequest(f"the body is not {coding}, or not whole, though Content-Encoding says so")


def _open(body: Body, wrapping: int, limit_bytes: int) -> bytes | None:
    """What is in the one stream that `body` is; None if it is none."""
    stream = zlib.decompressobj(wrapping)
    try:
        opened = stream.decompress(body, limit_bytes + 1)  # type: ignore[arg-type]  # an array is a buffer
    except zlib.error:
        return None
    if len(opened) > limit_bytes:
        raise PayloadTooLarge(f"the body is more than {limit_bytes} bytes once decompressed")
    return opened if stream.eof and not stream.unused_data else None


def compress(body: bytes, accept_encoding: str | None) -> tuple[Headers, bytes]:
    """Headers to add, and the body, compressed where the client wants it to be.

    A client wants it that accepts gzip or deflate and nothing else, as tritonclient says it. A list such as
    `gzip, deflate, br` is what HTTP libraries send unasked, which is leave and no wish: to compress 600 KB of
    floats takes some 40 ms and saves a tenth.
    """
    wanted = _wanted(accept_encoding or "")
    if not wanted or len(body) < SMALL_BYTES:
        return [], body
    stream = zlib.compressobj(_LEVEL, wbits=_GZIP if wanted == "gzip" else _ZLIB)
    packed = stream.compress(body) + stream.flush()
    return [(b"content-encoding", wanted.encode()), (b"vary", b"accept-encoding")], packed


def _wanted(accept_encoding: str) -> str | None:
    """The one coding that is accepted, if we have it; `q=0` refuses one, and `identity` needs no saying."""
    accepted = []
    for one in accept_encoding.lower().replace(" ", "").split(","):
        coding, _, weight = one.partition(";q=")
        if coding not in ("", "identity") and (not weight or weight.strip("0.")):
            accepted.append(coding)
    return accepted[0] if len(accepted) == 1 and accepted[0] in ("gzip", "deflate") else None
