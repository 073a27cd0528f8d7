"""A container's command line and environment as its pod would have them. Knows nothing of engines."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rayservice.kserve.reading import Key, Reading

PLACEHOLDER = re.compile(r"\{\{\s*\.(?:(Name|Namespace)|(Labels|Annotations)\.(\w+))\s*\}\}")
"""What KServe fills into a runtime's container, from the metadata of the InferenceService."""
VARIABLE = re.compile(r"\$\$(?=\()|\$\(([A-Za-z_][\w.-]*)\)")
"""What Kubernetes fills in, from the container's environment; `$$(` is a `$(` that stays."""
TEMPLATE = re.compile(r"\{\{.*?\}\}")
UNFILLED = re.compile(TEMPLATE.pattern + r"|\$\([A-Za-z_][\w.-]*\)")
"""What is left of either."""
Container = tuple[Reading, tuple[Key, ...]]
"""The object that has it, and where in it."""


def words(containers: Sequence[Container], service: Reading, report: list[str]) -> list[str]:
    """Commands and arguments, the runtime's first, with the service's names and the variables' values in them.

    Words in which something stays unfilled are reported. Raises `DocumentError` for what is no list of texts.
    """
    values = _values(containers, service)
    found: list[str] = []
    for reading, base in containers:
        for key in ("command", "args"):
            for index, given in enumerate(reading.values(*base, key)):
                word = VARIABLE.sub(lambda m: values.get(m[1], m[0]) if m[1] else "$", _named(str(given), service))
                if left := UNFILLED.findall(word):
                    report.append(
                        f"{reading.where(*base, key, index)}: {word}: no value for {', '.join(left)} is in these "
                        "files; say in the catalog what it sets"
                    )
                found.append(word)
    return found


def variables(containers: Sequence[Container], service: Reading) -> Iterator[tuple[dict[str, Any], str]]:
    """Environment variables, with the service's names in them, and their places.

    Raises `DocumentError` for what is no list of objects.
    """
    for reading, base in containers:
        for index, variable in enumerate(reading.objects(*base, "env")):
            if variable.get("value") is not None:
                variable = variable | {"value": _named(str(variable["value"]), service)}
            yield variable, reading.where(*base, "env", index)


def _values(containers: Sequence[Container], service: Reading) -> dict[str, str]:
    """Of variables whose values are in the files; one may be made of those before it."""
    made: dict[str, str] = {}
    for variable, _ in variables(containers, service):
        if (text := variable.get("value")) is not None:
            made[str(variable.get("name"))] = VARIABLE.sub(lambda m: made.get(m[1], m[0]) if m[1] else "$", text)
    return made


def _named(text: str, service: Reading) -> str:
    names = {"Name": service.document.name, "Namespace": service.document.namespace}

    def value(found: re.Match[str]) -> str:
        if found[1]:
            return names[found[1]]
        return service.text("metadata", found[2].lower(), found[3]) or found[0]

    return PLACEHOLDER.sub(value, text)
