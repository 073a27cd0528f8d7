"""Plain data to YAML, the same bytes each time, with comments where they were put. Knows nothing of what it says."""

from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import LiteralScalarString


@dataclass(frozen=True)
class Said:
    """A value of a mapping, with a comment that goes above it."""

    value: Any
    comment: str


def dump(data: dict[str, Any], header: str = "") -> str:
    """A document; texts of several lines are literal blocks, `header` a comment at the top."""
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 1 << 16
    yaml.representer.ignore_aliases = lambda *_: True
    text = StringIO()
    yaml.dump(_commented(data, 0), text)
    return "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines()) + text.getvalue()


def plain(value: Any) -> Any:
    """The same without comments."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return plain(value.value) if isinstance(value, Said) else value


def _commented(value: Any, column: int) -> Any:
    if isinstance(value, dict):
        made = CommentedMap()
        for key, one in value.items():
            made[key] = _commented(one.value if isinstance(one, Said) else one, column + 2)
            if isinstance(one, Said):
                made.yaml_set_comment_before_after_key(key, before=one.comment, indent=column)
        return made
    if isinstance(value, list | tuple):
        return CommentedSeq([_commented(one, column + 2) for one in value])
    if isinstance(value, str) and "\n" in value:
        return LiteralScalarString(value)
    return value
