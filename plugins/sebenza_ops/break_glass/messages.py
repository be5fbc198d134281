"""What the process that asks and the process that runs a procedure tell each other: lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """What is to be run, by whom, and why."""

    dag_id: str
    file: str
    conf: Mapping[str, Any]
    reason: str
    person: str


@dataclass(frozen=True)
class Event:
    """Something that happened: `refused`, `began`, `task`, or `ended`."""

    what: str
    text: str = ""
    task: str = ""
    state: str = ""
    seconds: float | None = None
    lines: list[str] = field(default_factory=list)


class Channel:
    """The way to the process that asks. That nobody reads any more never stops a run.

    Args:
        descriptor: A pipe's end.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, event: Event) -> None:
        """Send an event."""
        try:
            os.write(self._descriptor, (json.dumps(asdict(event)) + "\n").encode())
        except OSError:
            return


def read_events(descriptor: int) -> Iterator[Event]:
    """The events of a run, until it has ended."""
    with os.fdopen(descriptor) as stream:
        for line in stream:
            yield Event(**json.loads(line))
