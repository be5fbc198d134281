"""What is wrong in an inventory file, said so that an editor can jump to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one inventory file.

    `line` and `column` count from 1; they are 0 when the whole file or directory is meant.
    `path` is the place inside the document, for example `hosts[1].ssh.port`; it is empty for the
    document itself. `value` is what was found, already redacted when it may be a secret.
    """

    file: Path
    line: int
    column: int
    path: str
    value: str
    expected: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else str(self.file)
        subject = f" {self.path}:" if self.path else ""
        found = f" (found {self.value})" if self.value else ""
        return f"{place}:{subject} {self.expected}{found}"


class InventoryError(ValueError):
    """One inventory file (or the directory) can't be used; lists every problem found in it."""

    def __init__(self, file: Path, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{file.name}: {count} {noun}; this file is not used until they are corrected\n{lines}")

    @property
    def environment(self) -> str:
        """Name of the environment that the file should describe (the file's stem)."""
        return self.file.stem


NOTHING = object()
"""Stands for "there is no value to show": a missing field, a contradiction about a whole list."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction between fields, found after each field alone was valid.

    `location` is relative to the model that found it; `value` may be `NOTHING`.
    """

    location: tuple[str | int, ...]
    value: object
    expected: str


class CrossCheckError(ValueError):
    """Raised by a model whose fields contradict each other; carries where each contradiction is."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(finding.expected for finding in self.findings))
