"""One short text field out of a multipart body, without copying its files."""

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

MAX_FIELD_BYTES = 1024
PIECE_BYTES = 1 << 20


class _Finder:
    """Callbacks for python-multipart that keep the value of one field and let the rest pass."""

    def __init__(self, name: bytes) -> None:
        self._name, self._wanted = name, False
        self._header, self._value = bytearray(), bytearray()
        self.found: bytearray | None = None

    def on_part_begin(self) -> None:
        self._wanted = False

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            options = parse_options_header(bytes(self._value))[1]
            self._wanted = options.get(b"name") == self._name and b"filename" not in options
        self._header.clear()
        self._value.clear()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted and len(self.found or b"") + end - start <= MAX_FIELD_BYTES:
            self.found = (self.found or bytearray()) + data[start:end]


def field_of(body: bytes | bytearray, boundary: bytes, name: bytes) -> str | None:
    """The value of the text field `name`; None where the body has none, or is no valid multipart."""
    if not boundary:
        return None
    finder = _Finder(name)
    callbacks = {key: getattr(finder, key) for key in dir(finder) if key.startswith("on_")}
    parser = MultipartParser(boundary, callbacks)
    try:
        for at in range(0, len(body), PIECE_BYTES):
            parser.write(bytes(body[at : at + PIECE_BYTES]))
        parser.finalize()
    except MultipartParseError:
        return None
    return finder.found.decode("utf-8", "replace") if finder.found else None
