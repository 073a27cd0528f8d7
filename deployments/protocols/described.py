"""OpenAPI descriptions of bodies that routes read by themselves."""

from typing import Any

from pydantic import BaseModel


def form_body(shape: type[BaseModel], file: str) -> dict[str, object]:
    """The OpenAPI description of a form with the fields of `shape` and a file."""
    schema = whole_schema(shape)
    schema["properties"][file] = {"type": "string", "format": "binary"}
    schema["required"] = [*schema.get("required", []), file]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def json_body(shape: type[BaseModel]) -> dict[str, object]:
    """The OpenAPI description of a JSON body that a route reads by itself."""
    schema = whole_schema(shape)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def whole_schema(shape: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model with those of its parts in their places: OpenAPI finds no `$defs` within a route."""
    schema = shape.model_json_schema()
    parts = schema.pop("$defs", {})

    def placed(node: Any) -> Any:
        if isinstance(node, list):
            return [placed(one) for one in node]
        if not isinstance(node, dict):
            return node
        own = {key: placed(value) for key, value in node.items() if key != "$ref"}
        return placed(parts[node["$ref"].rpartition("/")[2]]) | own if "$ref" in node else own

    found: dict[str, Any] = placed(schema)
    return found
