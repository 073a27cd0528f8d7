"""Bodies compressed as tritonclient does it, and bodies that would fill the memory."""

import contextlib
import gzip
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient

from deployments.errors import BadRequest, PayloadTooLarge
from deployments.protocols.compression import SMALL_BYTES, compress, decompress
from deployments.protocols.open_inference import InferRequest, InferResponse, write_json
from deployments.tensors import Tensor

LIMIT = 1 << 20


def bare(data: bytes) -> bytes:
    """A deflate stream without zlib's wrapping."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


PACKED = [("gzip", gzip.compress), ("GZIP ", gzip.compress), ("deflate", zlib.compress), ("deflate", bare)]


@pytest.mark.parametrize(("coding", "pack"), PACKED)
@pytest.mark.parametrize("data", [b"", b"{}", bytes(LIMIT)])
def test_what_was_compressed_is_opened(coding: str, pack: object, data: bytes) -> None:
    assert callable(pack)
    packed = pack(data)
    assert decompress(packed, coding, LIMIT) == data
    assert decompress(memoryview(packed), coding, LIMIT) == data
    assert decompress(np.frombuffer(packed, np.uint8), coding, LIMIT) == data


@pytest.mark.parametrize("coding", [None, "", "identity", "Identity"])
def test_what_is_not_compressed_is_left_as_it_is(coding: str | None) -> None:
    body = b"x" * 10
    assert decompress(body, coding, 1) is body


@pytest.mark.parametrize(("coding", "pack"), PACKED)
def test_a_bomb_is_not_opened(coding: str, pack: object) -> None:
    assert callable(pack)
    bomb = pack(bytes(64 * LIMIT))
    tracemalloc.start()
    with pytest.raises(PayloadTooLarge, match=str(LIMIT)):
        decompress(bomb, coding, LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x" * 10_000])
def test_unknown_codings_are_refused(coding: str) -> None:
    with pytest.raises(BadRequest, match="gzip, deflate, identity"):
        decompress(b"", coding, LIMIT)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b""),
        ("gzip", b"{}"),
        ("gzip", zlib.compress(b"a")),
        ("gzip", gzip.compress(b"a" * 99, mtime=0)[:-1]),
        ("gzip", gzip.compress(b"a", mtime=0) + b"b"),
        ("gzip", gzip.compress(b"a", mtime=0) * 2),
        ("deflate", b""),
        ("deflate", gzip.compress(b"a", mtime=0)),
        ("deflate", zlib.compress(b"a" * 99)[:-1]),
        ("deflate", zlib.compress(b"a") + b"b"),
    ],
)
def test_what_is_corrupt_or_cut_short_is_refused(coding: str, body: bytes) -> None:
    with pytest.raises(BadRequest, match=coding):
        decompress(body, coding, LIMIT)


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=64))
def test_any_bytes_are_opened_or_refused(coding: str, body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert len(decompress(body, coding, LIMIT)) <= LIMIT


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_tritonclient_opens_an_answer_and_its_header_length_is_of_the_opened_one(coding: str) -> None:
    tensor = Tensor.of("x", np.zeros(LIMIT // 4, np.float32))
    request = InferRequest("m", [tensor], parameters={"binary_data_output": True})
    headers, body = write_json(InferResponse("m", [tensor]), request)
    more, packed = compress(body, coding)
    assert dict(more)[b"content-encoding"] == coding.encode()
    assert len(packed) < len(body) // 10
    result = InferenceServerClient.parse_response_body(
        packed,
        header_length=dict(headers)[b"inference-header-content-length"].decode(),
        content_encoding=coding,
    )
    assert np.array_equal(result.as_numpy("x"), tensor.array)


@pytest.mark.parametrize(
    "accepted", ["gzip", "GZIP", "gzip;q=0.5", "gzip, identity", "br;q=0, gzip", "deflate, gzip;q=0"]
)
def test_a_client_that_takes_nothing_else_gets_it(accepted: str) -> None:
    more, _ = compress(bytes(SMALL_BYTES), accepted)
    assert (b"content-encoding", b"deflate" if "deflate" in accepted else b"gzip") in more


@pytest.mark.parametrize(
    "accepted", [None, "", "identity", "br", "*", "gzip, deflate", "gzip, deflate, br", "gzip;q=0"]
)
def test_a_client_that_has_not_asked_gets_the_body_as_it_is(accepted: str | None) -> None:
    body = bytes(SMALL_BYTES)
    assert compress(body, accepted) == ([], body)


def test_a_small_body_is_left_as_it_is() -> None:
    assert compress(bytes(SMALL_BYTES - 1), "gzip")[0] == []
