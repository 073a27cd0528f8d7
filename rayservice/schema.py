"""A manifest against KubeRay's schema of a RayService, as a Kubernetes API server checks it in a server-side apply.

The schema is OpenAPI's structural kind: keys that it does not name are refused, `x-kubernetes-int-or-string`
takes both, defaults count as given, nulls are refused, and lists that are maps hold no key twice.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parent / "schemas" / "rayservice-v1.openapi.json"
RANGES = {"int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1)}
CHECKED = ("type", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "required")


def complaints(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """What the API server would refuse: places such as `spec.rayClusterConfig`, and reasons."""
    return sorted({*_violations(manifest), *_doubles(manifest, _structural(), "")})


@functools.cache
def _structural() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA.read_text())
    return schema


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_as_json_schema(_structural(), top=True))


def _violations(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for error in _validator().iter_errors(manifest):
        place = ""
        for part in error.absolute_path:
            place += f"[{part}]" if isinstance(part, int) else f".{part}"
        message = error.message if len(error.message) < 300 else f"{error.message[:300]}..."
        yield place.lstrip("."), message


def _as_json_schema(node: dict[str, Any], top: bool = False) -> dict[str, Any]:
    """The same in JSON Schema, whose unknown keys are allowed and whose integers may be 1.0."""
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]} | {key: node[key] for key in ("pattern",) if key in node}
    made = {key: node[key] for key in CHECKED if key in node}
    if node.get("nullable"):
        made["type"] = [node["type"], "null"]
    if node.get("format") in RANGES:
        made["minimum"], made["maximum"] = RANGES[node["format"]]
        made |= {key: node[key] for key in ("minimum", "maximum") if key in node}
    if "items" in node:
        made["items"] = _as_json_schema(node["items"])
    properties = node.get("properties")
    if properties:
        made["properties"] = {key: _as_json_schema(one) for key, one in properties.items()}
        given = {key for key, one in properties.items() if "default" in one}
        made["required"] = [key for key in node.get("required", []) if key not in given]
    if isinstance(node.get("additionalProperties"), dict):
        made["additionalProperties"] = _as_json_schema(node["additionalProperties"])
    elif properties and not node.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    if top:  # of metadata the schema says nothing, and the API server checks it everywhere alike
        made["properties"]["metadata"] = {"type": "object", "required": ["name"]}
        made["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return made


def _doubles(value: Any, node: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """Entries of a list that have the same key as one before, and those of a set that are there twice."""
    if isinstance(value, dict):
        properties, others = node.get("properties", {}), node.get("additionalProperties")
        for key, one in value.items():
            found = properties.get(key, others if isinstance(others, dict) else None)
            if found:
                yield from _doubles(one, found, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list) and "items" in node:
        keys = node.get("x-kubernetes-list-map-keys") if node.get("x-kubernetes-list-type") == "map" else None
        of_set = node.get("x-kubernetes-list-type") == "set"
        seen: set[str] = set()
        for index, one in enumerate(value):
            yield from _doubles(one, node["items"], f"{place}[{index}]")
            if not of_set and not (keys and isinstance(one, dict)):
                continue
            defaults = {key: node["items"].get("properties", {}).get(key, {}).get("default") for key in keys or ()}
            name = json.dumps(one if of_set else [one.get(key, defaults[key]) for key in keys or ()])
            if name in seen:
                yield f"{place}[{index}]", f"{name} is there twice" + (f" by {', '.join(keys)}" if keys else "")
            seen.add(name)
