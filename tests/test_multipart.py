"""Finding one field in a multipart body."""

import httpx
import pytest

from serve_app.gateway import model_named_in
from serve_app.multipart import field_of


def encode(files: dict[str, object], data: dict[str, str]) -> tuple[bytes, bytes]:
    request = httpx.Request("POST", "http://x", files=files, data=data)  # type: ignore[arg-type]
    return request.headers["content-type"].encode(), request.read()


@pytest.mark.parametrize("buffer", [bytes, bytearray])
def test_the_model_beside_a_file(buffer: type) -> None:
    kind, body = encode({"file": ("a.wav", b"\r\n--x\r\n" * 1000)}, {"model": "whisper-1", "language": "en"})
    assert model_named_in(kind, buffer(body)) == "whisper-1"


def test_a_file_named_model_is_not_a_name() -> None:
    kind, body = encode({"model": ("m.bin", b"abc")}, {})
    assert model_named_in(kind, body) is None


@pytest.mark.parametrize("body", [b"", b"--x", b"garbage", b"--x\r\nContent-Disposition: form-data"])
def test_what_is_no_multipart_names_none(body: bytes) -> None:
    assert field_of(body, b"x", b"model") is None
    assert model_named_in(b"multipart/form-data", body) is None


@pytest.mark.parametrize(
    ("body", "name"), [(b'{"model": "m"}', "m"), (b'{"model": 3}', None), (b"[1]", None), (b"\xff", None), (b"", None)]
)
@pytest.mark.parametrize("kind", [b"application/json; charset=utf-8", b"application/x-www-form-urlencoded", b""])
def test_json_whatever_its_content_type(kind: bytes, body: bytes, name: str | None) -> None:
    assert model_named_in(kind, body) == name
