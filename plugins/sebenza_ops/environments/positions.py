"""Reads YAML and remembers where every key and value stands, so that a mistake can be pointed at.

Scalars follow YAML 1.2's core schema: only true/false are booleans, `02:00` and `no` are strings.
(YAML 1.1, PyYAML's default, reads 12:30 as 750 and no as false.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Location = tuple[str | int, ...]

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"


class _Loader(_SafeLoader):
    """Composes nodes; resolves scalars by the YAML 1.2 core schema."""

    yaml_implicit_resolvers: ClassVar[dict[str | None, list[tuple[str, re.Pattern[str]]]]] = {}


for _name, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something wrong with the YAML itself."""

    mark: Mark
    location: Location
    value: str
    expected: str


@dataclass(slots=True)
class Document:
    """Plain data of one YAML document, with the places of its parts and its mistakes."""

    data: Any = None
    keys: dict[Location, Mark] = field(default_factory=dict)
    values: dict[Location, Mark] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def mark(self, location: Sequence[str | int], key: bool = False) -> Mark:
        """Return the place of `location`, or of its nearest existing parent."""
        place = tuple(location)
        while place:
            found = (self.keys.get(place) if key else None) or self.values.get(place)
            if found:
                return found
            place = place[:-1]
        return self.values.get((), Mark(1, 1))


def read_document(text: str) -> Document:
    """Parse `text` as one YAML document; never raises for bad YAML, see `Document.mistakes`."""
    document = Document()
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
        document.mistakes.append(Mistake(place, (), _line(text, place), _explain(error, text, place)))
        return document
    except yaml.YAMLError as error:
        document.mistakes.append(Mistake(Mark(1, 1), (), "", f"expected valid YAML: {error}"))
        return document
    finally:
        loader.dispose()
    if node is not None:
        document.data = _construct(node, (), document, ())
    return document


def _line(text: str, place: Mark) -> str:
    lines = text.splitlines()
    return lines[place.line - 1].strip() if place.line <= len(lines) else ""


def _explain(error: yaml.MarkedYAMLError, text: str, place: Mark) -> str:
    lines = text.splitlines()
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "expected spaces: YAML does not allow tabs for indentation"
    detail = error.problem or error.context or "syntax error"
    return f"expected valid YAML: {detail}"


def _mark(node: Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _construct(node: Node, location: Location, document: Document, parents: tuple[int, ...]) -> Any:
    document.values[location] = _mark(node)
    if id(node) in parents:
        document.mistakes.append(Mistake(_mark(node), location, "*alias", "expected no alias to its own parent"))
        return None
    inside = (*parents, id(node))
    if isinstance(node, MappingNode):
        return _mapping(node, location, document, inside)
    if isinstance(node, SequenceNode):
        return [_construct(child, (*location, index), document, inside) for index, child in enumerate(node.value)]
    if isinstance(node, ScalarNode):
        return _scalar(node, location, document)
    raise AssertionError(f"YAML has no node {type(node).__name__}")


def _mapping(node: MappingNode, location: Location, document: Document, parents: tuple[int, ...]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, ScalarNode):
            document.mistakes.append(Mistake(_mark(key_node), location, "", "expected a plain name as key"))
            continue
        key = str(key_node.value)
        place = (*location, key)
        if key in result:
            first = document.keys[place].line
            document.mistakes.append(
                Mistake(_mark(key_node), place, key, f"expected each key once; it stands in line {first} already")
            )
            continue
        document.keys[place] = _mark(key_node)
        result[key] = _construct(value_node, place, document, parents)
        if not isinstance(value_node, ScalarNode):
            # A block begins at its first child, which is not where people look for it.
            document.values[place] = _mark(key_node)
    return result


def _scalar(node: ScalarNode, location: Location, document: Document) -> Any:
    text = str(node.value)
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except ValueError:
        kind = "unreadable"
    if kind != "str":
        document.mistakes.append(
            Mistake(_mark(node), location, text, f"expected a plain value without the tag {node.tag}")
        )
        return None
    return text
