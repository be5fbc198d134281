"""Turns what the YAML reader and pydantic found into problems for people."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from sebenza_ops.environments.errors import NOTHING, CrossCheckError, Problem
from sebenza_ops.environments.fields import NO_SECRETS, holds_secret
from sebenza_ops.environments.positions import Document, Location

_SECRET_NAME = re.compile(r"pass(word|wd|phrase)?|secret|token|private|credential|api_?key", re.IGNORECASE)
_LONGEST_VALUE = 80
REDACTED = "(not shown)"


def path_text(location: Sequence[str | int]) -> str:
    """Write a location as people do: `hosts[1].ssh.port`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(location: Sequence[str | int], value: Any) -> str:
    """Return `value` for a message: short, and redacted when it or its field's name looks secret."""
    if value is NOTHING:
        return ""
    names = [part for part in location if isinstance(part, str)]
    if names and _SECRET_NAME.search(names[-1]):
        return REDACTED
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if holds_secret(text):
        return REDACTED
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def yaml_problems(file: Path, document: Document) -> list[Problem]:
    """Problems of the YAML itself."""
    return [
        Problem(
            file,
            mistake.mark.line,
            mistake.mark.column,
            path_text(mistake.location),
            shown(mistake.location, mistake.value) if not _SECRET_NAME.search(mistake.value) else REDACTED,
            mistake.expected,
        )
        for mistake in document.mistakes
    ]


def secret_problems(file: Path, document: Document) -> list[Problem]:
    """Values that are recognisably secrets. Their text is never part of the problem."""

    def find(value: Any, location: Location) -> Iterator[Problem]:
        if isinstance(value, dict):
            for key, child in value.items():
                yield from find(child, (*location, key))
        elif isinstance(value, list):
            for index, child in enumerate(value):
                yield from find(child, (*location, index))
        elif isinstance(value, str) and holds_secret(value):
            mark = document.mark(location)
            yield Problem(file, mark.line, mark.column, path_text(location), REDACTED, NO_SECRETS)

    return list(find(document.data, ()))


def validation_problems(
    file: Path, document: Document, model: type[BaseModel], error: ValidationError
) -> list[Problem]:
    """Every error of pydantic, with the place in the file."""
    problems: list[Problem] = []
    details = error.errors(include_url=False)
    for detail in details:
        if detail["type"] == "too_short" and any(_is_below(other["loc"], detail["loc"]) for other in details):
            continue  # the list is only short because pydantic left out the items that are wrong
        cause = detail.get("ctx", {}).get("error")
        location, data = _resolve(document.data, detail["loc"])
        if isinstance(cause, CrossCheckError):
            problems.extend(
                _problem(file, document, (*location, *finding.location), finding.value, finding.expected)
                for finding in cause.findings
            )
            continue
        kind = detail["type"]
        if kind == "missing":
            problems.append(_problem(file, document, location, NOTHING, _missing_text(model, location)))
        elif kind == "extra_forbidden":
            problems.append(_problem(file, document, location, data, _extra_text(model, location), key=True))
        else:
            problems.append(_problem(file, document, location, data, _expected_text(kind, detail)))
    return problems


def _problem(
    file: Path, document: Document, location: Location, value: Any, expected: str, key: bool = False
) -> Problem:
    """Build a problem; `value` is `NOTHING` where no value is to be shown."""
    mark = document.mark(location, key=key)
    return Problem(file, mark.line, mark.column, path_text(location), shown(location, value), expected)


def _resolve(data: Any, loc: Sequence[str | int]) -> tuple[Location, Any]:
    """Follow pydantic's location through the data, without the tags that unions and keys add to it."""
    location: list[str | int] = []
    parts = [part for part in loc if part != "[key]"]
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if _has(data, part):
            data = data[part]
        elif last and isinstance(data, dict) and part not in data.values():
            data = None
        else:
            continue
        location.append(part)
    return tuple(location), data


def _is_below(loc: Sequence[str | int], parent: Sequence[str | int]) -> bool:
    return len(loc) > len(parent) and tuple(loc[: len(parent)]) == tuple(parent)


def _has(data: Any, part: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def _expected_text(kind: str, detail: Any) -> str:
    message: str = detail["msg"]
    context = detail.get("ctx", {})
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        return f"expected text of the form {context['pattern']}"
    if kind == "union_tag_invalid":
        return f"expected {context['discriminator']} to be one of {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"expected a field {context['discriminator']}"
    return re.sub(r"^(Input|String|List|Tuple|Dictionary|Value) should (be|have) ", "expected ", message)


def _missing_text(model: type[BaseModel], location: Location) -> str:
    parent = _model_at(model, location[:-1])
    field = parent.model_fields.get(str(location[-1])) if parent else None
    meaning = f" ({field.description})" if field and field.description else ""
    return f"expected this field{meaning}"


def _extra_text(model: type[BaseModel], location: Location) -> str:
    parent = _model_at(model, location[:-1])
    name = str(location[-1])
    if _SECRET_NAME.search(name):
        return f"expected no such field; {NO_SECRETS.removeprefix('expected ')}"
    if parent is None:
        return "expected no such field"
    close = difflib.get_close_matches(name, parent.model_fields, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"expected no such field; {hint}known here: {', '.join(parent.model_fields)}"


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """Return the model that describes `location`, or None where it can't be told (a union)."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        if current is None:
            return None
        if part not in current.model_fields:
            continue  # a key of a dictionary of models, such as application.colors.blue
        models = set(_models_in(current.model_fields[part].annotation))
        current = models.pop() if len(models) == 1 else None
    return current


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
