"""Which backup is due and where, what may be removed, how much would be lost: the rules alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sebenza_ops.backup.comparison import differences
from sebenza_ops.backup.errors import BackupRefusedError
from sebenza_ops.backup.plan import check_archiving, check_space, choose_host, cron, type_due
from sebenza_ops.backup.restore_steps import choose_set
from sebenza_ops.backup.retention import dumps_to_delete, reason_to_keep
from sebenza_ops.backup.rpo import recovery_point
from sebenza_ops.environments.models import BackupPolicy
from sebenza_ops.ledger import BackupKind, BackupSet
from sebenza_ops.systems.backup_host import ArchiveState, DatabaseHostState
from sebenza_ops.systems.pgbackrest import ArchiveReport, RepositorySet

# A Wednesday.
NOW = datetime(2026, 11, 25, 0, 30, tzinfo=UTC)
SUNDAY = datetime(2026, 11, 22, 0, 30, tzinfo=UTC)


def policy(**changes: Any) -> BackupPolicy:
    values: dict[str, Any] = {"frequency": "daily", "repository_conn_id": "repository", "cipher_conn_id": "cipher"}
    return BackupPolicy.model_validate(values | changes)


def a_set(label: str, finished: datetime, kind: str = "full", *, has_error: bool = False) -> RepositorySet:
    begun = finished - timedelta(minutes=5)
    based_on = None if kind == "full" else "20261122-003000F"
    return RepositorySet(label, kind, begun, finished, 100, 10, based_on, "0/1", "0/2", "A", "B", has_error)


FULL = a_set("20261122-003000F", SUNDAY)
DIFF = a_set("20261122-003000F_20261124-003000D", NOW - timedelta(days=1), "diff")


@pytest.mark.parametrize(
    ("changes", "expression"),
    [
        ({}, "30 0 * * *"),
        ({"frequency": "weekly", "start": "23:05"}, "5 23 * * 0"),
        ({"frequency": "weekly", "full_on": "saturday"}, "30 0 * * 6"),
        ({"frequency": "weekly", "full_on": "monday"}, "30 0 * * 1"),
    ],
)
def test_the_schedule_is_the_policys(changes: dict[str, Any], expression: str) -> None:
    assert cron(policy(**changes)) == expression


@pytest.mark.parametrize(
    ("changes", "sets", "damaged", "now", "requested", "due"),
    [
        ({}, [], set(), NOW, "auto", "full"),
        ({}, [], set(), NOW, "incr", "full"),
        ({}, [FULL], set(), NOW, "auto", "diff"),
        ({"between": "incr"}, [FULL, DIFF], set(), NOW, "auto", "incr"),
        ({"between": "incr"}, [FULL, DIFF], {DIFF.label}, NOW, "auto", "diff"),
        ({}, [FULL, DIFF], set(), SUNDAY + timedelta(days=7), "auto", "full"),
        ({}, [FULL, DIFF], set(), SUNDAY + timedelta(hours=3), "auto", "diff"),
        ({}, [FULL, DIFF], set(), SUNDAY + timedelta(days=8, minutes=1), "auto", "full"),
        ({}, [FULL, DIFF], {FULL.label}, NOW, "auto", "full"),
        ({}, [FULL, DIFF], {FULL.label}, NOW, "diff", "full"),
        ({}, [replace(FULL, has_error=True)], set(), NOW, "auto", "full"),
        ({}, [FULL, a_set("20261124-003000F", NOW - timedelta(days=1))], {"20261124-003000F"}, NOW, "auto", "full"),
        ({"frequency": "weekly"}, [FULL], set(), NOW, "auto", "full"),
        ({"frequency": "weekly"}, [FULL], set(), NOW, "incr", "incr"),
        ({}, [FULL, DIFF], {DIFF.label}, NOW, "incr", "diff"),
        ({}, [FULL], set(), NOW, "full", "full"),
    ],
)
def test_the_type_that_is_due(
    changes: dict[str, Any],
    sets: list[RepositorySet],
    damaged: set[str],
    now: datetime,
    requested: Any,
    due: str,
) -> None:
    found, reason = type_due(policy(**changes), sets, damaged, now, requested)
    assert found == due, reason
    assert reason


def archive(**changes: Any) -> ArchiveState:
    values: dict[str, Any] = {
        "mode": "on",
        "timeout_seconds": 60,
        "archived_wal": "000000010000000000000007",
        "seconds_since_archived": 20.0,
        "is_failing": False,
        "waiting": 0,
        "oldest_waiting_seconds": None,
    }
    return ArchiveState(**(values | changes))


def state(host: str, **changes: Any) -> DatabaseHostState:
    values: dict[str, Any] = {
        "host": host,
        "in_recovery": False,
        "is_streaming": False,
        "replay_lag_bytes": 0,
        "free_bytes": 10**12,
        "database_bytes": 10**11,
        "system_identifier": "1",
        "archive": archive(),
    }
    return DatabaseHostState(**(values | changes))


PRIMARY = state("db1")
REPLICA = state("db2", in_recovery=True, is_streaming=True)


def chosen(run_on: str, *states: DatabaseHostState) -> tuple[str, str, tuple[str, ...]]:
    host, primary, warnings = choose_host(policy(run_on=run_on), {each.host: each for each in states}, {})
    return host.host, primary.host, warnings


def test_the_replica_is_read_where_the_policy_says_so_and_it_can_be() -> None:
    assert chosen("replica", PRIMARY, REPLICA) == ("db2", "db1", ())
    assert chosen("primary", PRIMARY, REPLICA) == ("db1", "db1", ())
    further = replace(REPLICA, host="db3", replay_lag_bytes=5)
    assert chosen("replica", PRIMARY, further, REPLICA)[0] == "db2"


@pytest.mark.parametrize(
    "change", [{"is_streaming": False}, {"replay_lag_bytes": 10**9}, {"system_identifier": "2"}], ids=str
)
def test_a_replica_that_can_not_be_read_is_told_and_the_primary_is_read(change: dict[str, Any]) -> None:
    host, _, warnings = chosen("replica", PRIMARY, replace(REPLICA, **change))
    assert host == "db1"
    assert "db2" in warnings[0]


def test_a_replica_that_does_not_answer_is_told() -> None:
    host, _, warnings = choose_host(policy(run_on="replica"), {"db1": PRIMARY}, {"db2": "db2: no SSH connection"})
    assert host is PRIMARY
    assert "db2: no SSH connection" in warnings[0]


def test_without_exactly_one_primary_nothing_is_backed_up() -> None:
    with pytest.raises(BackupRefusedError, match="db1 and db2 both take writes"):
        chosen("replica", PRIMARY, state("db2"))
    with pytest.raises(BackupRefusedError, match=r"no primary answers.*db1: no answer"):
        choose_host(policy(), {"db2": REPLICA}, {"db1": "db1: no answer"})


def test_too_little_space_and_an_archive_that_is_off_are_refused() -> None:
    check_space(policy(), state("db1", free_bytes=6 * 1024**3))
    with pytest.raises(BackupRefusedError, match=r"4096 MiB free .* 5120 MiB needed"):
        check_space(policy(), state("db1", free_bytes=4 * 1024**3))
    with pytest.raises(BackupRefusedError, match="52803 MiB needed"):
        check_space(policy(logical_dump={}), state("db1", free_bytes=6 * 1024**3))
    check_archiving(PRIMARY)
    with pytest.raises(BackupRefusedError, match="archive_mode is off"):
        check_archiving(state("db1", archive=archive(mode="off")))


def kept(label: str, days_ago: float, *, good: bool = True, kind: BackupKind = BackupKind.PHYSICAL) -> BackupSet:
    finished = NOW - timedelta(days=days_ago)
    verified = finished if good else None
    backup_type = "full" if label.endswith("F") else "diff"
    return BackupSet("production", kind, label, backup_type, finished, finished, 100, 10, verified_at=verified)


def test_the_last_good_set_and_what_a_backup_needs_never_expire() -> None:
    old, new = kept("20261001-000000F", 55), kept("20261124-000000F", 1)
    assert reason_to_keep({old.label}, [old, new], [new.label]) == ""
    assert reason_to_keep(set(), [new], [new.label]) == ""
    bad = kept("20261124-000000F", 1, good=False)
    assert "no full backup that was verified" in reason_to_keep({old.label}, [old, bad], ["x"])
    assert old.label in reason_to_keep({old.label}, [old, new], ["20261001-000000F_1D", old.label])


def test_dumps_go_by_age_but_the_newest_good_one_stays() -> None:
    old, older, new = kept("b", 40), kept("a", 60), kept("c", 1)
    assert dumps_to_delete([new, old, older], 30, NOW) == [old, older]
    assert dumps_to_delete([old, older], 30, NOW) == [older]
    bad = kept("c", 1, good=False)
    assert dumps_to_delete([bad, old, older], 30, NOW) == [older]
    assert dumps_to_delete([kept("a", 60, good=False)], 30, NOW) == []


@pytest.mark.parametrize(
    ("changes", "repository_max", "seconds"),
    [
        ({}, "000000010000000000000007", 20),
        # Idle for a day: nothing is written, so nothing is to be archived.
        ({"seconds_since_archived": 86400.0}, "000000010000000000000007", 60),
        ({"waiting": 1, "oldest_waiting_seconds": 2.0}, "000000010000000000000007", 20),
        ({"waiting": 9, "oldest_waiting_seconds": 540.0, "seconds_since_archived": 700.0}, "A" * 24, 600),
        ({"is_failing": True, "seconds_since_archived": 400.0}, "000000010000000000000007", 400),
        ({"timeout_seconds": 0, "seconds_since_archived": 400.0}, "000000010000000000000007", 400),
        # What is not in the repository was not archived, whatever the server believes (archive_command=/bin/true).
        ({}, "000000010000000000000006", None),
        ({}, None, None),
        ({"archived_wal": None, "seconds_since_archived": None}, "000000010000000000000007", None),
        ({"mode": "off"}, "000000010000000000000007", None),
        # After a failover.
        ({}, "000000020000000000000007", 20),
        ({"archived_wal": "00000002.history"}, "000000020000000000000007", 20),
        ({"archived_wal": "000000010000000000000007.00000028.backup"}, "000000010000000000000007", 20),
    ],
)
def test_how_much_would_be_lost_now(changes: dict[str, Any], repository_max: str | None, seconds: float | None) -> None:
    point = recovery_point(archive(**changes), repository_max)
    assert point.seconds == seconds, point.reason


def test_the_newest_set_with_a_manifest_is_restored_unless_one_is_named() -> None:
    old = replace(kept("a", 2), detail={"manifest": "m"})
    new, without = replace(kept("b", 1, good=False), detail={"manifest": "n"}), kept("c", 0)
    present = [without, new, old]
    assert choose_set(present, "").label == "b", "a set that was never verified is passed over"
    assert choose_set(present, "a").label == "a"
    with pytest.raises(BackupRefusedError, match=r"no set 'x'.*there are: c, b, a"):
        choose_set(present, "x")
    with pytest.raises(BackupRefusedError, match="c has no manifest"):
        choose_set(present, "c")
    with pytest.raises(BackupRefusedError, match="run backup_database"):
        choose_set([without], "")


def test_every_difference_from_the_manifest_is_named() -> None:
    assert differences({"public.a": 1, "public.b": 2}, {"public.a": 1, "public.b": 2}) == []
    assert differences({"public.a": 1, "public.b": 2}, {"public.a": 3, "public.c": 1}) == [
        "public.a: 3 rows, expected 1",
        "public.b: is missing",
        "public.c: was not in the manifest",
    ]


def test_only_a_gap_that_a_set_needs_breaks_it() -> None:
    gap = ("000000010000000000000005", "000000010000000000000006")
    report = ArchiveReport(False, "wrong sequence", (gap,))
    assert report.breaks("000000010000000000000004")
    assert report.breaks("000000020000000000000006")
    assert not report.breaks("000000010000000000000007")
    assert not ArchiveReport(True, "ok").breaks("000000010000000000000004")
    assert ArchiveReport(False, "UNKNOWN").breaks("000000010000000000000004")
