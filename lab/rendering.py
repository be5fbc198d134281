"""Configuration files from templates: the lab's own, and those that are installed on real hosts too."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lab import paths

_TEMPLATES = Environment(
    loader=FileSystemLoader([paths.LAB_TEMPLATES, paths.HOST_TEMPLATES]),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    autoescape=False,
)


def render(template: str, **values: Any) -> str:
    """A configuration file from lab/templates or include/hosts."""
    return _TEMPLATES.get_template(template).render(**values)
