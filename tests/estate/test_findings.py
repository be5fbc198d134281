"""What people who follow a check are shown at its end."""

from __future__ import annotations

from datetime import UTC, datetime

from sebenza_ops.estate.findings import EstateReport, Findings

_AT = datetime(2026, 11, 23, 8, tzinfo=UTC)


def _report(*all_findings: Findings) -> EstateReport:
    found = tuple(finding for findings in all_findings for finding in findings.all)
    return EstateReport(environment="staging", started_at=_AT, finished_at=_AT, findings=found)


def test_the_most_urgent_come_first_with_what_mends_them() -> None:
    app = Findings("app1")
    app.ok("access", "logged in")
    app.warning("clock", "2 s behind", "at most 1 s")
    app.missing("Node.js", "v16", "18 or later", "apt-get install nodejs\nnode --version")
    assert _report(app).worst() == [
        "missing: app1, Node.js: v16; needed: 18 or later",
        "  apt-get install nodejs",
        "  node --version",
        "warning: app1, clock: 2 s behind; needed: at most 1 s",
    ]


def test_of_many_the_first_are_shown_and_the_rest_counted() -> None:
    app = Findings("app1")
    for number in range(7):
        app.no_data(f"check {number}", "no answer", "")
    worst = _report(app).worst()
    assert worst[0] == "no data: app1, check 0: no answer"
    assert worst[5:] == ["and 2 more in the report"]


def test_nothing_is_to_be_done_where_everything_is_there() -> None:
    app = Findings("app1")
    app.ok("access", "logged in")
    assert _report(app).worst() == []
