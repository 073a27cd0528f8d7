"""Durations as people write them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from deployments.settings import DurationS

seconds = TypeAdapter(DurationS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", None), (90, 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("2m 5s", 125)],
)
def test_durations(text: object, expected: float | None) -> None:
    if expected is None:
        with pytest.raises(ValidationError, match="30s, 10m"):
            seconds.validate_python(text)
    else:
        assert seconds.validate_python(text) == expected


@pytest.mark.parametrize("text", ["", "m", "10 parsecs", "-5s", 0, -1, float("inf"), "1m1h"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        seconds.validate_python(text)
