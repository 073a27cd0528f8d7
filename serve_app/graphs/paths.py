"""GJSON paths (`predictions.#(label=="dog")`) looked up in JSON that was read, as KServe's router does by Go's gjson.

The library gjson reads the paths. Three things are ours, because its answers are not Go's or may take hours:
what holds in `#(...)`, wildcards, and what a `|` ends. Differences that are left are in docs/graphs.md.
"""

import copy
import fnmatch
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gjson import GJSONError, GJSONObj
from gjson._gjson import (
    ArrayIndexQueryPart,
    ArrayLengthQueryPart,
    ArrayQueryQueryPart,
    BaseQueryPart,
    FieldQueryPart,
    ModifierQueryPart,
    NoResult,
)

TRUE, FALSE = frozenset({"1", "t", "true"}), frozenset({"0", "f", "false"})
"""The strings that Go's gjson takes for true and for false."""
ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_WILD = re.compile(r"(?<!\\)[?*]")


class Path(GJSONObj):
    """A path, read once. Raises `ValueError` where it is none."""

    def __init__(self, text: str) -> None:
        super().__init__(None, text)
        try:
            self._parts = self._parse(start=0, end=len(text) - 1) if text else []
        except (GJSONError, RecursionError, IndexError) as error:
            raise ValueError(f"{text!r} is no GJSON path: {str(error).splitlines()[0]}") from None
        if not self._parts:
            raise ValueError(f"{text!r} is no GJSON path: it is empty")

    def exists(self, data: Any) -> bool:
        """Whether there is something at the path, be it null."""
        return not isinstance(self.find(data), NoResult)

    def find(self, data: Any) -> Any:
        """What is at the path; a `NoResult` where nothing is."""
        look = copy.copy(self)  # one path serves many threads, and looking keeps notes in it
        look._after_hash = look._after_query_all = False
        try:
            for part in self._parts:
                data = look._parse_part(part, data)
        except (GJSONError, RecursionError):
            return NoResult()
        return data

    def _parse_part(self, part: BaseQueryPart, obj: Any, *, in_multipaths: bool = False) -> Any:
        """As the library has it, but for paths over the elements of an array that end there, and for wildcards."""
        if part.delimiter == "|" and not isinstance(part.previous, ArrayLengthQueryPart):
            self._after_hash = self._after_query_all = False
        within = (self._after_hash or self._after_query_all) and part.delimiter == "."
        if isinstance(part, ArrayIndexQueryPart) and within and self._is_sequence(obj):
            obj = [one for one in obj if not self._is_sequence(one) or len(one) > part.index]
        if isinstance(part, FieldQueryPart) and isinstance(obj, Mapping) and _WILD.search(part.part):
            matches = pattern(part.part)
            return next((value for key, value in obj.items() if matches(key)), NoResult())
        return super()._parse_part(part, obj, in_multipaths=in_multipaths)

    def _parse_array_query_query_part(self, *, start: int, delimiter: str, max_end: int = 0) -> ArrayQueryQueryPart:
        query = super()._parse_array_query_query_part(start=start, delimiter=delimiter, max_end=max_end)
        if query.field:
            _path(query.field)  # what is wrong with it is said now
        return query

    def _parse_modifier_query_part(
        self, *, start: int, delimiter: str, max_end: int = 0, in_multipaths: bool = False
    ) -> ModifierQueryPart:
        part = super()._parse_modifier_query_part(
            start=start, delimiter=delimiter, max_end=max_end, in_multipaths=in_multipaths
        )
        if part.name not in self.builtin_modifiers():
            have = ", ".join(f"@{name}" for name in sorted(self.builtin_modifiers()))
            raise ValueError(f"{self._query!r} has the unknown modifier @{part.name}; have: {have}")
        return part

    def _parse_query(self, query: ArrayQueryQueryPart, obj: Sequence[Any]) -> Any:
        """`#(...)`: the first element for which it holds, or with `#(...)#` all of them."""
        return self._evaluate_query_return_value(query, [one for one in obj if self._holds(query, one)])

    def _holds(self, query: ArrayQueryQueryPart, element: Any) -> bool:
        value = _path(query.field).find(element) if query.field else element
        if isinstance(query.value, ArrayQueryQueryPart):
            inner = query.value
            return self._is_sequence(value) and any(self._holds(inner, one) for one in value)
        if query.operator in ("==~", "!=~"):
            found = truthiness(value, query.value)
            return found is not None and (found == (query.operator == "==~"))
        if isinstance(value, NoResult):
            return False
        return not query.operator or compare(value, query.operator, _bare(query.value))


@functools.lru_cache(maxsize=1024)
def _path(text: str) -> Path:
    return Path(text)


def compare(value: Any, operator: str, wanted: str) -> bool:
    """Go's gjson's comparison of a JSON value with a text: as numbers where the value is one, else as texts.

    Null, objects and arrays equal nothing and differ from nothing.
    """
    if isinstance(value, bool):
        return _compare_bool(value, operator, wanted)
    if operator in ("%", "!%"):
        return isinstance(value, str) and pattern(wanted)(value) == (operator == "%")
    if isinstance(value, str):
        return ORDER[operator](value, wanted)
    if isinstance(value, int | float):
        try:
            return ORDER[operator](value, float(wanted))
        except ValueError:
            return ORDER[operator](value, 0.0)
    return False


def _compare_bool(value: bool, operator: str, wanted: str) -> bool:
    if operator in ("=", "==", "!="):
        return ((wanted == "true") if value else (wanted == "false")) == (operator != "!=")
    above, below = (">", ">="), ("<", "<=")
    if operator in (above if value else below):
        return operator.endswith("=") or wanted == ("false" if value else "true")
    return False


def truthiness(value: Any, kind: str) -> bool | None:
    """Whether a value is what `==~true`, `==~false`, `==~null` or `==~*` ask; None where they ask something else."""
    gone = isinstance(value, NoResult)
    match kind:
        case "*":
            return not gone
        case "null":
            return gone or value is None
        case "true":
            return value.lower() in TRUE if isinstance(value, str) else _is_number(value) and bool(value)
        case "false":
            number = _is_number(value) and not value
            return value.lower() in FALSE if isinstance(value, str) else gone or value is None or number
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _bare(value: str) -> str:
    """The text that a query compares with, without its quotes."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1]) if "\\" in value and "*" not in value else value[1:-1]
    return value


@functools.lru_cache(maxsize=1024)
def pattern(text: str) -> Callable[[str], bool]:
    r"""Whether texts match one with `*`, `?` and `\` before what is meant as it is, in time that grows with its length.

    `fnmatch` never tries again what a `*` has taken; the library's own takes hours for `*a*a*a` and a long text.
    """
    made = ""
    for escaped, plain in re.findall(r"\\(.)|(.)", text, re.DOTALL):
        literal = escaped or plain
        made += f"[{literal}]" if literal == "[" or (escaped and literal in "*?") else literal
    matches = re.compile(fnmatch.translate(made)).match
    return lambda given: matches(given) is not None
