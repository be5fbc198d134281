"""The catalog of backup sets says what the repository says, and keeps what was found out about each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sebenza_ops.ledger import BackupKind, BackupSet, Holder, Ledger, RecordUnknown
from tests.ledger.conftest import SettableClock

RUN = Holder("backup_database.production", "scheduled__1", "scheduler")
PHYSICAL = BackupKind.PHYSICAL


def backup_set(clock: SettableClock, label: str, *, hours: float = 0, **changes: Any) -> BackupSet:
    finished = clock.moment + timedelta(hours=hours)
    values: dict[str, Any] = {
        "environment": "production",
        "kind": PHYSICAL,
        "label": label,
        "backup_type": "full" if label.endswith("F") else "diff",
        "started_at": finished - timedelta(minutes=5),
        "finished_at": finished,
        "size_bytes": 10**12,
        "stored_bytes": 10**11,
        "based_on": None if label.endswith("F") else "20260301-000000F",
    }
    return BackupSet(**(values | changes))


def reconcile(ledger: Ledger, *sets: BackupSet, reason: str = "not in the repository") -> tuple[list[str], list[str]]:
    found = ledger.backup_sets.reconcile("production", PHYSICAL, sets, reason, "scheduler")
    return sorted(found.added), sorted(found.gone)


def test_a_set_is_kept_once_with_all_that_is_known(ledger: Ledger, clock: SettableClock) -> None:
    made = backup_set(clock, "20260301-000000F", made_by=RUN, detail={"lsn_stop": "0/4000100"})
    ledger.backup_sets.record(made)
    again = ledger.backup_sets.record(replace(made, detail={"manifest": "backups/m.json"}))
    assert again == replace(made, detail={"lsn_stop": "0/4000100", "manifest": "backups/m.json"})
    assert ledger.backup_sets.of_run(RUN.dag_id, RUN.run_id) == [again]
    assert [entry.action for entry in ledger.audit.entries()] == ["backup.recorded"]


def test_only_what_was_verified_and_is_not_damaged_is_good(ledger: Ledger, clock: SettableClock) -> None:
    made = ledger.backup_sets.record(backup_set(clock, "20260301-000000F", made_by=RUN))
    assert not made.is_good
    ledger.backup_sets.mark_verified("production", PHYSICAL, [made.label])
    assert ledger.backup_sets.present("production", PHYSICAL)[0].is_good
    clock.advance(60)
    ledger.backup_sets.mark_bad("production", PHYSICAL, made.label, "checksum invalid: 1", RUN)
    bad = ledger.backup_sets.find("production", PHYSICAL, made.label)
    assert bad is not None
    assert (bad.is_good, bad.bad_since, bad.bad_reason) == (False, clock.moment, "checksum invalid: 1")
    clock.advance(60)
    ledger.backup_sets.mark_bad("production", PHYSICAL, made.label, "checksum invalid: 2", RUN)
    later = ledger.backup_sets.find("production", PHYSICAL, made.label)
    assert later is not None
    assert (later.bad_since, later.bad_reason) == (bad.bad_since, "checksum invalid: 2")
    ledger.backup_sets.mark_restored("production", PHYSICAL, made.label)
    restored = ledger.backup_sets.find("production", PHYSICAL, made.label)
    assert restored is not None
    assert restored.restore_tested_at == clock.moment


def test_the_catalog_follows_the_repository(ledger: Ledger, clock: SettableClock) -> None:
    full = backup_set(clock, "20260301-000000F")
    diff = backup_set(clock, "20260301-000000F_20260302-000000D", hours=24)
    assert reconcile(ledger, full) == ([full.label], [])
    ledger.backup_sets.mark_verified("production", PHYSICAL, [full.label])
    assert reconcile(ledger, full, diff) == ([diff.label], [])
    assert [each.label for each in ledger.backup_sets.present("production", PHYSICAL)] == [diff.label, full.label]
    assert ledger.backup_sets.present("production", PHYSICAL)[1].is_good, "a verdict was lost"

    clock.advance(3600)
    assert reconcile(ledger, diff, reason="expired after 30 days") == ([], [full.label])
    gone = ledger.backup_sets.find("production", PHYSICAL, full.label)
    assert gone is not None
    assert (gone.gone_at, gone.gone_reason, gone.is_good) == (clock.moment, "expired after 30 days", False)
    assert reconcile(ledger, diff) == ([], []), "what is gone is reported again"

    assert reconcile(ledger, full, diff) == ([], [])
    back = ledger.backup_sets.find("production", PHYSICAL, full.label)
    assert back is not None
    assert back.gone_at is None


def test_kinds_and_environments_are_apart(ledger: Ledger, clock: SettableClock) -> None:
    reconcile(ledger, backup_set(clock, "20260301-000000F"))
    dump = backup_set(clock, "20260301-000000F", kind=BackupKind.LOGICAL, backup_type="dump")
    ledger.backup_sets.record(dump)
    ledger.backup_sets.record(replace(dump, environment="staging"))
    assert reconcile(ledger) == ([], ["20260301-000000F"])
    assert [each.kind for each in ledger.backup_sets.present("production", BackupKind.LOGICAL)] == [BackupKind.LOGICAL]
    assert len(ledger.backup_sets.present("staging", BackupKind.LOGICAL)) == 1


def test_a_run_that_adopts_a_set_is_its_maker(ledger: Ledger, clock: SettableClock) -> None:
    made = backup_set(clock, "20260301-000000F")
    reconcile(ledger, made)
    assert ledger.backup_sets.record(replace(made, made_by=RUN)).made_by == RUN
    other = Holder(RUN.dag_id, "scheduled__2", "scheduler")
    assert ledger.backup_sets.record(replace(made, made_by=other)).made_by == RUN


def test_an_unknown_set_has_no_verdict(ledger: Ledger) -> None:
    with pytest.raises(RecordUnknown, match="reconcile it first"):
        ledger.backup_sets.mark_verified("production", PHYSICAL, ["20260301-000000F"])
