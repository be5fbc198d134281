"""What backups need on a database host: one thing is missing, one finding names it."""

from __future__ import annotations

import json

import pytest

from sebenza_ops.estate.findings import Finding, Verdict
from sebenza_ops.estate.gathered import BackupReading
from tests.estate.readings import broken, healthy

MISSING, WARNING, NO_DATA = Verdict.MISSING, Verdict.WARNING, Verdict.NO_DATA


def found(reading: BackupReading) -> list[Finding]:
    estate = healthy()
    estate.backups["db2"] = reading
    return broken(estate)


def changed(part: str, text: str) -> BackupReading:
    reading = healthy().backups["db2"]
    reading.parts[part] = text
    return reading


SETTINGS = healthy().backups["db2"].part("settings")
INFO = json.loads(healthy().backups["db2"].part("info"))


@pytest.mark.parametrize(
    ("part", "text", "check", "verdict", "fix"),
    [
        (
            "programs",
            "pgbackrest\t!missing",
            "backup: programs",
            MISSING,
            "apt-get install -y pgbackrest check-pgbackrest util-linux-extra",
        ),
        ("version", "pgBackRest 2.40", "backup: pgBackRest", MISSING, "apt-get install -y pgbackrest"),
        ("config", "!missing", "backup: configuration", MISSING, "docs/backup.md"),
        ("config", "postgres 644", "backup: configuration", MISSING, "chmod 640 /etc/pgbackrest.conf"),
        ("work_dir", "!not writable", "backup: work_dir", MISSING, "-o postgres"),
        ("work_dir", "postgres 755", "backup: work_dir", WARNING, "chmod 750 /var/lib/sebenza-backup"),
        (
            "settings",
            SETTINGS.replace("archive_mode\ton", "archive_mode\toff"),
            "backup: archiving",
            MISSING,
            "ALTER SYSTEM",
        ),
        ("settings", SETTINGS.replace("pgbackrest --", "/bin/true "), "backup: archiving", MISSING, "archive-push %p"),
        ("settings", "psql: error: no such socket", "backup: archiving", NO_DATA, ""),
        ("settings", SETTINGS.replace("timeout\t60", "timeout\t0"), "backup: archive_timeout", WARNING, "= 60"),
        (
            "settings",
            SETTINGS.replace("checksums\ton", "checksums\toff"),
            "backup: checksums",
            WARNING,
            "pg_checksums -e",
        ),
        (
            "settings",
            SETTINGS.replace("feedback\ton", "feedback\toff"),
            "backup: hot_standby_feedback",
            WARNING,
            "= on",
        ),
        ("settings", SETTINGS.replace("superuser\ttrue", "superuser\tfalse"), "backup: role", MISSING, "owner"),
        ("info", "ERROR: [037]", "backup: repository", MISSING, "stanza-create"),
        ("info", json.dumps([{**INFO[0], "cipher": "none"}]), "backup: encryption", MISSING, "docs/backup.md"),
    ],
)
def test_what_is_missing_is_named(part: str, text: str, check: str, verdict: Verdict, fix: str) -> None:
    if "/bin/true" in text:
        text = text.replace("archive-push ", "")
    (finding,) = found(changed(part, text))
    assert (finding.host, finding.check, finding.verdict) == ("db2", check, verdict)
    assert fix in finding.fix


def test_a_host_that_lets_nobody_in_is_named() -> None:
    (finding,) = found(BackupReading("db2", error="no SSH connection"))
    assert (finding.check, finding.verdict) == ("backup: access", MISSING)
    assert "sebenza_production_database_ssh" in finding.needed


@pytest.mark.parametrize("name", ["cipher_matches", "key_matches"])
def test_a_connection_that_would_not_open_the_backups_is_named(name: str) -> None:
    reading = healthy().backups["db2"]
    setattr(reading, name, False)
    (finding,) = found(reading)
    assert finding.verdict is MISSING
    assert "when this host is gone" in finding.needed
    setattr(reading, name, None)
    assert [each.verdict for each in found(reading)] == [NO_DATA]
