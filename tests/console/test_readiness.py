"""What the overview says of recovery, and when it does not call it well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sebenza_ops.console.readiness import drill_line, loss_line, readiness, restore_line
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.evidence.facts import utc_now
from sebenza_ops.ledger import BackupKind, BackupSet, KnownPoint, Ledger
from tests.console.samples import keep_recovery

NOW = datetime(2026, 11, 26, 6, 0, tzinfo=UTC)
PROJECTION = {"seconds": 5400.0, "low_seconds": 4200.0, "high_seconds": 7000.0}


def point(seconds: float | None, ago_seconds: float = 180, missed: bool = False) -> KnownPoint:
    asked = NOW - timedelta(seconds=ago_seconds)
    until = None if seconds is None else asked - timedelta(seconds=seconds)
    return KnownPoint(until, asked, "9 WAL segments wait", 3600, asked if missed else None)


@pytest.mark.parametrize(
    ("known", "word", "tone", "says"),
    [
        (None, "not known", "warning", "switch on watch_recovery_point.production"),
        (point(42), "met", "success", "At most 42 s of commits, objective 1 h 00 min (asked 3 min 00 s ago)"),
        (point(4000, missed=True), "missed", "error", "9 WAL segments wait"),
        (point(None, missed=True), "not known", "error", "can't be told: 9 WAL segments wait"),
        # Nobody has asked for an hour: all that came since may be lost.
        (point(42, ago_seconds=3600), "old", "warning", "At most 1 h 00 min of commits"),
    ],
)
def test_the_loss(known: KnownPoint | None, word: str, tone: str, says: str) -> None:
    line = loss_line("production", known, NOW)
    assert (line.word, line.tone) == (word, tone)
    assert says in line.sentence


def proven(days_ago: float, projection: dict[str, Any] | None = None) -> BackupSet:
    at = NOW - timedelta(days=days_ago)
    test = {"restore_seconds": 22.0, "replay_seconds": 3.0, "projection": projection or {"seconds": None}}
    return BackupSet(
        "production", BackupKind.PHYSICAL, "20261122-003000F", "full", at, at, 1, 1,
        detail={"restore_test": test}, restore_tested_at=at,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "word", "tone", "says"),
    [
        (None, "not proven", "warning", "run verify_backups.production"),
        (proven(1), "proven", "success", "in 25 s; 500 GB can't be projected from it"),
        (proven(1, PROJECTION), "proven", "success", "500 GB would take 1 h 30 min (1 h 10 min to 1 h 56 min)"),
        (proven(1, {**PROJECTION, "high_seconds": 15000.0}), "too slow", "error", "objective 4 h 00 min"),
        (proven(9, PROJECTION), "old", "warning", "more than a week ago"),
    ],
)
def test_the_restore(found: BackupSet | None, word: str, tone: str, says: str) -> None:
    line = restore_line("production", found, 4 * 3600.0, 500 * 10**9, NOW)
    assert (line.word, line.tone) == (word, tone)
    assert says in line.sentence


@pytest.mark.parametrize(
    ("days_ago", "measured", "word", "says"),
    [
        (3, {"rto_from_start_seconds": 31.8, "rpo_seconds": 4.0}, "done", "served after 32 s, the last 4.0 s lost"),
        (3, {"rto_from_start_seconds": None, "rpo_seconds": None}, "error", "users would not have been served"),
        (40, {"rto_from_start_seconds": 31.8, "rpo_seconds": None}, "old", "more than a month ago"),
    ],
)
def test_the_drill(days_ago: float, measured: dict[str, Any], word: str, says: str) -> None:
    line = drill_line("production", (NOW - timedelta(days=days_ago), measured), NOW)
    assert line.word == word
    assert says in line.sentence


def test_what_was_never_done_is_said(ledger: Ledger) -> None:
    environments = load_inventory().environments
    lines = readiness(environments["production"], ledger, utc_now())
    assert [(line.title, line.word) for line in lines] == [
        ("Loss", "not known"),
        ("Restore", "not proven"),
        ("Drill", "none yet"),
    ]
    assert readiness(environments["development"], ledger, utc_now()) == []


def test_what_was_measured_is_said(ledger: Ledger) -> None:
    keep_recovery(ledger)
    lines = readiness(load_inventory().environments["production"], ledger, utc_now())
    assert [(line.title, line.word) for line in lines] == [("Loss", "met"), ("Restore", "proven"), ("Drill", "done")]
    assert "20261122-003000F was restored and proven" in lines[1].sentence
