"""Findings: what was found, what is needed, and the exact change that would mend it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict

TABLE_COLUMNS = 118
# People who follow a run are shown so many of what is to be changed; the report has all.
SHOWN_AT_THE_END = 5


class Verdict(StrEnum):
    """How a check ended. `no_data` is no good news: what could not be asked is not known to work."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"
    NO_DATA = "no_data"

    @property
    def word(self) -> str:
        """The verdict as people read it."""
        return self.value.replace("_", " ")


# Most urgent first.
_ORDER = (Verdict.MISSING, Verdict.NO_DATA, Verdict.WARNING, Verdict.OK)


class Finding(BaseModel):
    """One check of one host or system.

    Args:
        host: The host's name in the inventory, or the system's ("object storage").
        check: What was looked at.
        verdict: How it ended.
        found: What is there.
        needed: What the procedures need; empty where it is what was found.
        fix: Commands or configuration that would mend it, ready to be copied; never run by us.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    check: str
    verdict: Verdict
    found: str
    needed: str = ""
    fix: str = ""


class Findings:
    """Findings about one host or system, in the order in which they were made.

    Args:
        host: Whom they are about.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.all: list[Finding] = []

    def ok(self, check: str, found: str) -> None:
        """What is needed is there."""
        self._add(check, Verdict.OK, found, "", "")

    def warning(self, check: str, found: str, needed: str, fix: str = "") -> None:
        """The procedures work, but somebody should know, or one of them will not."""
        self._add(check, Verdict.WARNING, found, needed, fix)

    def missing(self, check: str, found: str, needed: str, fix: str = "") -> None:
        """Something that the procedures can't do without is not there."""
        self._add(check, Verdict.MISSING, found, needed, fix)

    def no_data(self, check: str, found: str, needed: str, fix: str = "") -> None:
        """It could not be asked."""
        self._add(check, Verdict.NO_DATA, found, needed, fix)

    def _add(self, check: str, verdict: Verdict, found: str, needed: str, fix: str) -> None:
        self.all.append(
            Finding(host=self.host, check=check, verdict=verdict, found=found.strip(), needed=needed, fix=fix.strip())
        )


class EstateReport(BaseModel):
    """Everything that a check of one environment found; holds no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many findings there are of each verdict, most urgent first."""
        counted = Counter(finding.verdict for finding in self.findings)
        return {verdict: counted[verdict] for verdict in _ORDER}

    @property
    def hosts(self) -> list[str]:
        """Whom the findings are about, in the order in which they were asked."""
        return list(dict.fromkeys(finding.host for finding in self.findings))

    @property
    def is_ready(self) -> bool:
        """Whether every procedure that the environment's policies allow finds what it needs."""
        counts = self.counts
        return not counts[Verdict.MISSING] and not counts[Verdict.NO_DATA]

    def of_host(self, host: str) -> list[Finding]:
        """A host's findings, most urgent first."""
        return by_urgency(finding for finding in self.findings if finding.host == host)

    def to_mend(self) -> list[Finding]:
        """Everything that is not ok, most urgent first."""
        return by_urgency(finding for finding in self.findings if finding.verdict is not Verdict.OK)

    def worst(self) -> list[str]:
        """The most urgent of what is to be changed, in lines, and how many more there are."""
        broken = self.to_mend()
        lines: list[str] = []
        for finding in broken[:SHOWN_AT_THE_END]:
            needed = f"; needed: {finding.needed}" if finding.needed else ""
            lines.append(f"{finding.verdict.word}: {finding.host}, {finding.check}: {finding.found}{needed}")
            lines += textwrap.indent(finding.fix, "  ").splitlines()
        if len(broken) > SHOWN_AT_THE_END:
            lines.append(f"and {len(broken) - SHOWN_AT_THE_END} more in the report")
        return lines

    def summary(self) -> str:
        """One sentence for a headline."""
        counts = self.counts
        parts = [f"{number} {verdict.word}" for verdict, number in counts.items() if number]
        ready = "ready, with warnings" if counts[Verdict.WARNING] else "ready"
        state = ready if self.is_ready else "not ready"
        return f"{self.environment} is {state} for the procedures: {', '.join(parts) or 'nothing was checked'}"


def by_urgency(findings: Iterable[Finding]) -> list[Finding]:
    """Findings, most urgent first, else in their order."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.verdict))


def render_table(report: EstateReport) -> str:
    """The report for a terminal or a task's log: every check in a line, then each change that would mend something."""
    rows = [
        (finding.verdict.word, finding.host, finding.check, finding.found)
        for host in report.hosts
        for finding in report.of_host(host)
    ]
    lines = [report.summary(), "", *_aligned(("VERDICT", "HOST", "CHECK", "FOUND"), rows)]
    broken = report.to_mend()
    if broken:
        lines += ["", f"What to change ({len(broken)}). Nothing of it was done:"]
    for number, finding in enumerate(broken, start=1):
        lines += ["", f"{number}. {finding.host}, {finding.check}: {finding.verdict.word}"]
        lines += _wrapped("found: ", finding.found) + _wrapped("needed: ", finding.needed)
        lines += textwrap.indent(finding.fix, "      ").splitlines()
    lines += ["", report.summary()]
    return "\n".join(lines)


def _aligned(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(3)]
    left = sum(widths) + 6
    room = max(TABLE_COLUMNS - left, 40)
    lines = []
    for row in (titles, *rows):
        text = textwrap.wrap(row[3], room) or [""]
        head = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append(f"{head}  {text[0]}")
        lines += [" " * left + part for part in text[1:]]
    return lines


def _wrapped(label: str, text: str) -> list[str]:
    if not text:
        return []
    return textwrap.wrap(text, TABLE_COLUMNS - 4, initial_indent=f"   {label}", subsequent_indent="     ")
