"""Which set becomes a new database, what is refused before anything begins, and what a difference is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sebenza_ops.ledger import BackupKind, BackupSet
from sebenza_ops.recovery.database_restore import (
    DatabaseRestoreRefusedError,
    choose_set,
    differences,
    refuse_space,
    refuse_target,
    shown_sets,
    verified,
)
from sebenza_ops.systems.database_restore import BackupManifest, parse_backup_manifest
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.wal_archive import Room, Rows

NOW = datetime(2026, 3, 2, 1, tzinfo=UTC)
OLD, NEW = "20260301-003000F", "20260302-003000F"


def a_set(label: str, kind: BackupKind, days: int = 0, **changed: Any) -> BackupSet:
    end = NOW - timedelta(days=days)
    found = BackupSet(
        "production", kind, label, "full", end, end, 10 * 2**20, 100, detail={"manifest": "m"}, verified_at=end
    )
    return replace(found, **changed)


LOGICAL, PHYSICAL = BackupKind.LOGICAL, BackupKind.PHYSICAL
SETS = [a_set(NEW, LOGICAL), a_set(OLD, LOGICAL, 1), a_set(NEW, PHYSICAL), a_set(OLD, PHYSICAL, 1)]


@pytest.mark.parametrize(
    ("sets", "wanted", "source", "label", "kind"),
    [
        (SETS, "", "auto", NEW, LOGICAL),
        (SETS, "", "files", NEW, PHYSICAL),
        (SETS, OLD, "auto", OLD, LOGICAL),
        (SETS, OLD, "files", OLD, PHYSICAL),
        ([replace(SETS[0], bad_since=NOW), *SETS[1:]], "", "dump", OLD, LOGICAL),
        # The newest dump is damaged: its files are newer than the dump before.
        ([replace(SETS[0], bad_since=NOW), *SETS[1:]], "", "auto", NEW, PHYSICAL),
        (SETS[2:], "", "auto", NEW, PHYSICAL),
        ([replace(SETS[2], verified_at=None), SETS[3]], "", "auto", OLD, PHYSICAL),
        ([replace(SETS[2], detail={}), SETS[3]], "", "files", OLD, PHYSICAL),
    ],
)
def test_the_newest_verified_set_or_the_one_that_is_named(
    sets: list[BackupSet], wanted: str, source: str, label: str, kind: BackupKind
) -> None:
    chosen = choose_set(sets, wanted, source)
    assert (chosen.label, chosen.kind) == (label, kind)


@pytest.mark.parametrize(
    ("sets", "wanted", "source", "why"),
    [
        ([], "", "auto", "no verified set is there"),
        (SETS[2:], "", "dump", "no verified set is there"),
        (SETS, "20200101-000000F", "auto", f"there is no set .*; verified ones: {NEW}"),
        (
            [replace(SETS[0], bad_since=NOW, bad_reason="pages are wrong")],
            NEW,
            "dump",
            "not to be trusted: pages are wrong",
        ),
        ([replace(SETS[0], verified_at=None)], NEW, "auto", "it was never verified; verified ones: none"),
    ],
)
def test_no_other_set_is_taken(sets: list[BackupSet], wanted: str, source: str, why: str) -> None:
    with pytest.raises(DatabaseRestoreRefusedError, match=why):
        choose_set(sets, wanted, source)


def test_the_form_offers_each_verified_set_once_the_newest_first() -> None:
    offered = verified([*SETS, a_set("20260228-003000F", LOGICAL, 2, bad_since=NOW)], "auto")
    assert [each.label for each in offered] == [NEW, OLD]
    shown = shown_sets([replace(offered[0], restore_tested_at=NOW), offered[1]])
    assert f"| {NEW} | 2026-03-02 01:00 UTC | 10 | 2026-03-02 01:00 UTC |" in shown
    assert f"| {OLD} | 2026-03-01 01:00 UTC | 10 | not yet |" in shown


MANIFEST = BackupManifest(NEW, "shop", "2026-03-02", "0/1", 1000, 7, {"public.orders": 5, "public.users": 2}, ())


def test_a_name_that_is_taken_and_a_disk_that_is_full_are_refused() -> None:
    refuse_target("shop_restored", ("postgres", "shop"))
    with pytest.raises(DatabaseRestoreRefusedError, match="there is a database shop already"):
        refuse_target("shop", ("postgres", "shop"))
    one, two = Room(1700, 1700, True, True, NOW), Room(499, 1700, False, True, NOW)
    refuse_space(one, 100, MANIFEST, 0, 400)
    with pytest.raises(DatabaseRestoreRefusedError, match="the data directory's disk has"):
        refuse_space(one, 101, MANIFEST, 0, 400)
    with pytest.raises(DatabaseRestoreRefusedError, match="the data directory's disk has"):
        refuse_space(one, 0, MANIFEST, 200, 400)
    with pytest.raises(DatabaseRestoreRefusedError, match="the disk of work_dir has"):
        refuse_space(two, 100, MANIFEST, 0, 400)
    refuse_space(two, 99, MANIFEST, 0, 400)


def test_every_difference_is_told() -> None:
    right = Rows({"copy": {"public.orders": 5, "public.users": 2}}, {"copy": 7})
    assert differences(MANIFEST, right, "copy") == []
    wrong = Rows({"copy": {"public.orders": 4, "public.more": 1}}, {"copy": 6})
    assert differences(MANIFEST, wrong, "copy") == [
        "public.more: was not in the manifest",
        "public.orders: 4 rows, expected 5",
        "public.users: is missing",
        "schema revision 6, expected 7",
    ]


def test_a_manifest_that_is_none_is_no_data() -> None:
    with pytest.raises(NoDataError, match="can't be read"):
        parse_backup_manifest({"backup": NEW}, "m")
