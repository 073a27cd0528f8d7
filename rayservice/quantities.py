"""Kubernetes' quantities, such as 500m and 16Gi, as numbers."""

from decimal import Decimal, InvalidOperation

_BINARY = {suffix: Decimal(1 << 10 * (power + 1)) for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
SUFFIXES = _BINARY | {suffix: Decimal(10) ** power for suffix, power in _DECIMAL.items()}


def number(quantity: object) -> Decimal:
    """`500m` is 0.5, `1Gi` is 2**30. Raises `ValueError` for what is no quantity."""
    text = str(quantity).strip()
    digits = text.rstrip("KMGTPEikmun")
    suffix = text[len(digits) :]
    try:
        return Decimal(digits) * SUFFIXES[suffix]
    except (InvalidOperation, KeyError):
        raise ValueError(f"{quantity!r} is not a quantity, such as 500m or 16Gi") from None
