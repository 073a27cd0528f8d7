"""GJSON paths: where the library is right, where its answers were made Go's, and what a request cannot do with them."""

import time
from typing import Any

import pytest
from gjson._gjson import NoResult

from serve_app.graphs.paths import Path

DATA: dict[str, Any] = {
    "predictions": [{"x": 7, "label": "dog", "s": [0.1, 0.9]}, {"x": 3, "label": "cat", "s": [0.8]}],
    "user": {"name": "Tom", "first.name": "T"},
    "null": None,
    "empty": [],
    "mixed": [1, "b", 3, True, None],
    "flag": True,
}
NOTHING = object()


def find(path: str, data: Any = DATA) -> Any:
    found = Path(path).find(data)
    return NOTHING if isinstance(found, NoResult) else found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("predictions.0.x", 7),
        ("predictions.#", 2),
        ("predictions.#.x", [7, 3]),
        ("predictions.#.nope", []),
        ("predictions.5", NOTHING),
        ("predictions.0.x>5", NOTHING),  # a key of that name: comparisons are in #(...)
        ("user.name", "Tom"),
        ("user|name", "Tom"),
        (r"user.first\.name", "T"),
        ("null", None),
        ("nope", NOTHING),
        ("nope.nope", NOTHING),
        ("user.#", NOTHING),
        ("flag.x", NOTHING),
        ("us*.name", "Tom"),
        ("us?r.na*", "Tom"),
        ("x*", NOTHING),
        ('predictions.#(label=="dog").x', 7),
        ("predictions.#(label=dog).x", 7),
        ('predictions.#(label=="bird")', NOTHING),
        ('predictions.#(label=="bird")#', []),
        ('predictions.#(label!="dog").x', 3),
        ("predictions.#(x>5).label", "dog"),
        ("predictions.#(x<=3).label", "cat"),
        ('predictions.#(x>"5").label', "dog"),
        ('predictions.#(label%"c*").x', 3),
        ('predictions.#(label!%"d?g").x', 3),
        ("predictions.#(s.1).x", 7),
        ("predictions.#(s.0>0.5).x", 3),
        ("predictions.#(s.#(>0.85)).x", 7),
        ("predictions.#(s==1)", NOTHING),
        ("[@this].#(predictions.0.label==dog).flag", True),
        ("[@this].#(flag==true).user.name", "Tom"),
        ("[@this].#(flag==false)", NOTHING),
        ("[@this].#(flag>=true).user.name", "Tom"),
        ("[@this].#(null==null)", NOTHING),
        ("[@this].#(null==~null).user.name", "Tom"),
        ("[@this].#(nope==~null).user.name", "Tom"),
        ("[@this].#(nope!=~null)", NOTHING),
        ("[@this].#(flag==~true).user.name", "Tom"),
        ("[@this].#(empty==~*).user.name", "Tom"),
        ("mixed.#(>2)", "b"),
        ("mixed.#(==3)", 3),
        ("predictions.#.s.1", [0.9]),
        ("predictions.#.s|0.0", 0.1),
        ("predictions.#(x>1)#|#", 2),
        ("predictions.@reverse.0.x", 3),
        ("[user.name,nope]", ["Tom"]),
    ],
)
def test_paths(path: str, found: Any) -> None:
    assert find(path) == found
    assert Path(path).exists(DATA) == (found is not NOTHING)


@pytest.mark.parametrize(
    "path", ["", ".a", "a.", "a..b", "a.#(", "a.#(x==1", "a.#()", "a\\", "@", "@nope", "[", "{", "a.#(b..c==1)"]
)
def test_what_is_no_path_is_said_at_start(path: str) -> None:
    with pytest.raises(ValueError, match=r"GJSON path|unknown modifier"):
        Path(path)


@pytest.mark.parametrize("data", [None, 1, "text", [], [1], {}, [[[]]], {"a": None}])
@pytest.mark.parametrize("path", ["a", "0", "#", "#.a", "#.1", "a.#(b==1)", "@keys", "#(>1)", "a.@sort", "@fromstr"])
def test_whatever_the_data_is_the_answer_is_yes_or_no(path: str, data: Any) -> None:
    assert Path(path).exists(data) in (True, False)


def test_long_texts_and_keys_take_no_time() -> None:
    began_s = time.monotonic()
    assert not Path("*a*a*a*b").exists({"a" * 100_000: 1})
    assert not Path('k.#(%"*a*a*a*b")').exists({"k": ["a" * 100_000]})
    assert time.monotonic() - began_s < 1


def test_deep_data_is_no_crash() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert Path('a.@flatten:{"deep":true}').exists({"a": deep}) in (True, False)
    assert Path("a.@tostr").exists({"a": deep}) in (True, False)


@pytest.mark.parametrize(
    ("path", "text", "holds"),
    [
        (r'#(%"a\*b")', "a*b", True),
        (r'#(%"a\*b")', "axb", False),
        ('#(%"[ab]*")', "[ab]c", True),
        ('#(%"[ab]*")', "ac", False),
        ('#(%"a?c")', "a\nc", True),
        ('#(%"a.c")', "abc", False),
        (r'#(=="say \"hi\"")', 'say "hi"', True),
    ],
)
def test_patterns_and_quotes(path: str, text: str, holds: bool) -> None:
    assert Path(path).exists([text]) == holds
