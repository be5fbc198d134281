"""The recovery time that a restore test projects: from what, how surely, and when not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sebenza_ops.backup.plan import weekly_cron
from sebenza_ops.backup.projection import Projection, WalRate, lsn_bytes, project, wal_rate
from sebenza_ops.backup.restore_operators import is_whole_wanted
from sebenza_ops.environments.backup_policy import RestoreTestPolicy
from sebenza_ops.systems.restore_test import RestoreReport

POLICY = RestoreTestPolicy()
# 100 MB/s of files, and 2 GB of them.
REPORT = RestoreReport(
    restore_seconds=20.0,
    replay_seconds=10.0,
    check_seconds=5.0,
    restored_bytes=2 * 10**9,
    resident_bytes=0,
    has_checksums=True,
    rows={"public.a": 1},
)
DAY_OF_WAL = WalRate(20 * 10**9, 86400.0)


def projected(report: RestoreReport = REPORT, **values: Any) -> Projection:
    known = {"compression_ratio": 4.0, "replayed_bytes": 10**9, "wal": DAY_OF_WAL, "earlier_rates": ()}
    return project(POLICY, report, **{**known, **values})


def test_files_and_a_days_wal_are_projected_by_their_own_rates() -> None:
    found = projected()
    # 500 GB at 100 MB/s, and 20 GB of WAL at 100 MB/s.
    assert found.seconds == pytest.approx(5000 + 200)
    assert found.low_seconds is not None
    assert found.seconds is not None
    assert found.high_seconds is not None
    assert found.low_seconds < found.seconds < found.high_seconds
    for part in ("500000000000 B at 100000000 B/s", "compress 4.0:1", "out of the page cache", "250 times as large"):
        assert part in found.text(), found.text()
    assert "the storage's own cache can't be emptied from here" in found.text()


@pytest.mark.parametrize(
    ("report", "values", "reason"),
    [
        (REPORT, {"compression_ratio": 5.1}, "better than the 5:1"),
        (replace(REPORT, restored_bytes=10**9 - 1), {}, "tell nothing of more"),
        (replace(REPORT, resident_bytes=None), {}, "fincore is not on the host"),
        (replace(REPORT, resident_bytes=10**9), {}, "were still in memory"),
        (REPORT, {"wal": None}, "how much WAL a day holds is not known"),
    ],
)
def test_a_number_that_would_flatter_is_none(report: RestoreReport, values: dict[str, Any], reason: str) -> None:
    found = projected(report, **values)
    assert (found.seconds, found.low_seconds, found.high_seconds) == (None, None, None)
    assert reason in found.text()


def test_what_is_less_sure_widens_the_band() -> None:
    def width(found: Projection) -> float:
        assert found.high_seconds is not None
        assert found.seconds is not None
        return found.high_seconds / found.seconds

    alone = width(projected())
    assert width(projected(earlier_rates=(99e6, 101e6))) < alone
    assert width(projected(earlier_rates=(20e6, 180e6))) > alone
    assert width(projected(wal=WalRate(20e9, 60.0))) > alone
    assert width(projected(replace(REPORT, restored_bytes=50 * 10**9))) < alone


def test_a_days_wal_is_declared_or_measured_since_the_oldest_set() -> None:
    assert lsn_bytes("1/10") == 2**32 + 16
    assert wal_rate(POLICY, ("0/0", 43200.0), "0/64") == WalRate(200.0, 43200.0)
    assert wal_rate(POLICY, None, "0/64") is None
    declared = POLICY.model_copy(update={"wal_bytes_per_day": 7})
    assert wal_rate(declared, None, "0/64") == WalRate(7.0, None)


def test_everything_is_read_back_once_a_week_and_where_asked() -> None:
    assert weekly_cron(POLICY) == "30 3 * * 3"
    assert [is_whole_wanted("auto", each) for each in ("scheduled", "DagRunType.SCHEDULED", "asset_triggered")] == [
        True,
        True,
        False,
    ]
    assert is_whole_wanted("yes", "manual")
    assert not is_whole_wanted("no", "scheduled")
