"""One short text field out of a multipart body, without copying its files."""

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

MAX_FIELD_BYTES = 1024


def field_of(body: bytes | bytearray, boundary: bytes, name: bytes) -> str | None:
    """The value of the text field `name`; None where the body has none, or is no valid multipart."""
    found: bytearray | None = None
    header, value, wanted = bytearray(), bytearray(), False

    def header_field(data: bytes, start: int, end: int) -> None:
        header.extend(data[start:end])

    def header_value(data: bytes, start: int, end: int) -> None:
        value.extend(data[start:end])

    def header_end() -> None:
        nonlocal wanted
        if header.lower() == b"content-disposition":
            options = parse_options_header(bytes(value))[1]
            wanted = options.get(b"name") == name and b"filename" not in options
        header.clear()
        value.clear()

    def part_begin() -> None:
        nonlocal wanted
        wanted = False

    def part_data(data: bytes, start: int, end: int) -> None:
        nonlocal found
        if wanted and len(found or b"") + end - start <= MAX_FIELD_BYTES:
            found = (found or bytearray()) + data[start:end]

    if not boundary:
        return None
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": part_begin,
            "on_part_data": part_data,
            "on_header_field": header_field,
            "on_header_value": header_value,
            "on_header_end": header_end,
        },
    )
    try:
        parser.write(bytes(body))
        parser.finalize()
    except MultipartParseError:
        return None
    return found.decode("utf-8", "replace") if found else None
