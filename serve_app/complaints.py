"""What is wrong with a catalog, in one line: where, what, and for an unknown key which keys there are.

Knows nothing of what catalogs mean.
"""

from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Place = tuple[int | str, ...]


def complaint(
    error: ErrorDetails, loc: Place, data: object, whole: type[BaseModel], keys_of: type[BaseModel] | None = None
) -> str:
    """One of pydantic's errors about `data`, which is read as `whole`; `keys_of` says which keys are valid at `loc`."""
    place, here = "", data
    for part in loc:
        place += f"[{part}]" if isinstance(part, int) else f".{part}"
        try:
            here = here[part]  # type: ignore[index]  # plain data of unknown shape
        except (KeyError, IndexError, TypeError):
            here = None
        if isinstance(part, int) and isinstance(here, dict) and "name" in here:
            place += f" ({here['name']})"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        shape = keys_of or _shape_at(whole, loc[:-1])
        message = f"unknown key; valid here: {', '.join(_keys(shape))}" if shape else "unknown key"
    return f"{place.lstrip('.') or 'catalog'}: {message}"


def _keys(shape: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in shape.model_fields.items()]


def _shape_at(whole: type[BaseModel], loc: Place) -> type[BaseModel] | None:
    """The pydantic model that a place is read as."""
    shape: Any = whole
    for part in loc:
        if isinstance(part, str) and isinstance(shape, type) and issubclass(shape, BaseModel):
            shape = shape.model_fields[part].annotation
        else:  # an element of a list, or a value of a mapping
            shape = get_args(shape)[0 if isinstance(part, int) else -1]
        shape = next((arg for arg in get_args(shape) if type(None) in get_args(shape)), shape)
    return shape if isinstance(shape, type) and issubclass(shape, BaseModel) else None
