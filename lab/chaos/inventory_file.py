"""The lab's inventory, changed for a while: a shorter policy, so that a rehearsal does not wait for minutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import yaml

from lab import paths


@contextmanager
def changed_policy(environment: str = "production", policy: str = "blue_green", **values: object) -> Iterator[None]:
    """Change values of one of an environment's policies; the file is as before at the end of the block.

    Tasks read the inventory when they start.
    """
    with changed_policies(environment, **{policy: values}):
        yield


@contextmanager
def changed_policies(environment: str, **policies: Mapping[str, object]) -> Iterator[None]:
    """Change values of some of an environment's policies, or give it ones that it has not; as `changed_policy`."""
    file = paths.ENVIRONMENTS_DIR / f"{environment}.yaml"
    before = file.read_text()
    content = yaml.safe_load(before)
    for name, values in policies.items():
        content["policies"].setdefault(name, {}).update(values)
    _replace(file.name, yaml.safe_dump(content, sort_keys=False))
    try:
        yield
    finally:
        _replace(file.name, before)


def _replace(name: str, text: str) -> None:
    # Never half a file: Airflow parses it at any time.
    new = paths.ENVIRONMENTS_DIR / f".{name}.new"
    new.write_text(text)
    new.replace(paths.ENVIRONMENTS_DIR / name)
