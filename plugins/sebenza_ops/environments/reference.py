"""The field tables of docs/environments.md, generated from the models' schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sebenza_ops.environments.schema import inventory_schema

MARKER = "<!-- Generated from here on: python -m sebenza_ops.environments reference -->"
_REFERENCE = "#/$defs/"


def inventory_reference() -> str:
    """Return Markdown tables of every model and field, in the order in which files use them."""
    definitions: dict[str, Any] = json.loads(inventory_schema())["$defs"]
    lines: list[str] = []
    for name in _in_order(definitions, ("Environment", "Build")):
        definition = definitions[name]
        if "properties" not in definition:
            continue
        required = definition.get("required", [])
        lines += [f"### {name}", "", definition["description"].strip(), ""]
        lines += ["| field | value | default | meaning |", "|---|---|---|---|"]
        for field, schema in definition["properties"].items():
            default = "**required**" if field in required else _default(schema)
            meaning = schema.get("description") or _described(schema, definitions)
            lines.append(f"| `{field}` | {_escape(_type(schema, definitions))} | {default} | {_escape(meaning)} |")
        lines.append("")
    return "\n".join(lines)


def _in_order(definitions: dict[str, Any], roots: tuple[str, ...]) -> list[str]:
    found: list[str] = []

    def visit(name: str) -> None:
        if name not in found:
            found.append(name)
            for reference in _references(definitions[name]):
                visit(reference)

    for root in roots:
        visit(root)
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref":
                yield value.removeprefix(_REFERENCE)
            elif key != "discriminator":
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _described(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "const" in schema:
        return f"Always {schema['const']}."
    name = schema.get("$ref", "").removeprefix(_REFERENCE)
    return str(definitions.get(name, {}).get("description", "")).split("\n", maxsplit=1)[0]


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    if default is None:
        return ""
    if isinstance(default, dict):
        return "its defaults"
    return f"`{default}`" if isinstance(default, str) and default else f"`{json.dumps(default)}`"


def _type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REFERENCE)
        choices = definitions[name].get("enum")
        return " \\| ".join(f"`{choice}`" for choice in choices) if choices else f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(option, definitions) for option in schema[key] if option.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return " \\| ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return f"list of {_type(schema['items'], definitions)}"
    if schema["type"] == "object":
        return f"mapping to {_type(schema['additionalProperties'], definitions)}"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` \\| `false`"}
    return words[schema["type"]] + _range(schema)


def _range(schema: dict[str, Any]) -> str:
    bounds = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    stated = [f"{sign} {schema[key]}" for key, sign in bounds if key in schema]
    return f" {', '.join(stated)}" if stated else ""


def _escape(text: str) -> str:
    return text.replace("\n", " ").replace("<", "&lt;")
