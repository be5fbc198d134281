"""How long the production database would take to come back, from a restore that was measured. Pure rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sebenza_ops.environments.backup_policy import RestoreTestPolicy
from sebenza_ops.systems.restore_test import RestoreReport

# Below it fixed costs (starting processes, listing the storage) are most of the time: nothing can be projected from it.
PROJECTABLE_BYTES = 10**9
DAY_SECONDS = 86400.0
# Ours. One measurement on a machine that does other things too; what is not known adds to it.
BASE_ERROR = 0.25
FEW_TESTS_ERROR = 0.25
WARM_STORAGE_ERROR = 0.25
FAR_ERROR, FAR_FACTOR = 0.25, 100
SHORT_WAL_ERROR, SHORT_WAL_SECONDS = 0.25, 6 * 3600.0
# A tenth of the copy in memory is what it takes to read directories and start a server.
COLD_RATIO = 0.1


@dataclass(frozen=True)
class WalRate:
    """How much WAL the database writes, measured over so many seconds; declared, where `seconds` is None."""

    bytes_per_day: float
    seconds: float | None


@dataclass(frozen=True)
class Projection:
    """The recovery time at the production size, in seconds: None with the reason in `basis` where it can't be told."""

    seconds: float | None
    low_seconds: float | None
    high_seconds: float | None
    basis: tuple[str, ...]

    def text(self) -> str:
        """In words, for people."""
        if self.seconds is None:
            return f"no recovery time is projected: {'; '.join(self.basis)}"
        return (
            f"projected: {self.seconds:.0f} s ({self.low_seconds:.0f} to {self.high_seconds:.0f}), "
            f"from {'; '.join(self.basis)}"
        )


def lsn_bytes(lsn: str) -> int:
    """An LSN as a number of bytes. Raises ValueError for anything else."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def wal_rate(policy: RestoreTestPolicy, since: tuple[str, float] | None, now_lsn: str) -> WalRate | None:
    """How much WAL a day holds: what the policy declares, or what was written since an earlier LSN.

    Args:
        policy: The environment's policy.
        since: An LSN, and how many seconds ago it was the end; None without an earlier set.
        now_lsn: The end now.
    """
    if policy.wal_bytes_per_day is not None:
        return WalRate(float(policy.wal_bytes_per_day), None)
    if since is None or since[1] <= 0:
        return None
    lsn, seconds = since
    return WalRate(max(0, lsn_bytes(now_lsn) - lsn_bytes(lsn)) / seconds * DAY_SECONDS, seconds)


def project(
    policy: RestoreTestPolicy,
    report: RestoreReport,
    *,
    compression_ratio: float,
    replayed_bytes: int,
    wal: WalRate | None,
    earlier_rates: Sequence[float],
) -> Projection:
    """The recovery time of `production_bytes` with a day's WAL, linear in both, with what it rests on.

    Nothing is projected from less than 1 GB, from data that compresses better than the policy takes for production's,
    from a replay that read from memory, or without knowing how much WAL a day holds: such a number would flatter.

    Args:
        policy: The environment's policy.
        report: The restore.
        compression_ratio: The size of the set's files to what the repository holds of them.
        replayed_bytes: How much WAL was replayed.
        wal: How much a day holds.
        earlier_rates: Bytes a second of earlier restore tests.
    """
    refusals = []
    if report.restored_bytes < PROJECTABLE_BYTES:
        refusals.append(f"{report.restored_bytes} B were restored, less than {PROJECTABLE_BYTES} tell nothing of more")
    if compression_ratio > policy.maximum_compression_ratio:
        refusals.append(
            f"the set compresses {compression_ratio:.1f}:1, better than the {policy.maximum_compression_ratio:g}:1 "
            "that production's data is taken for"
        )
    if report.resident_bytes is None:
        refusals.append("fincore is not on the host, so it can't be told whether the replay read from the disk")
    elif report.resident_bytes > report.restored_bytes * COLD_RATIO:
        refusals.append(f"{report.resident_bytes} B of the restored files were still in memory before the replay")
    if wal is None:
        refusals.append("how much WAL a day holds is not known yet (no earlier set, no wal_bytes_per_day)")
    if refusals or wal is None:
        return Projection(None, None, None, tuple(refusals))
    files_seconds = policy.production_bytes / report.bytes_per_second
    replay_rate = replayed_bytes / max(report.replay_seconds, 0.001)
    wal_seconds = wal.bytes_per_day / max(replay_rate, 1.0)
    error, doubts = _error(policy, report, wal, earlier_rates)
    seconds = files_seconds + wal_seconds
    basis = (
        f"{policy.production_bytes} B at {report.bytes_per_second:.0f} B/s (measured on "
        f"{report.restored_bytes} B that compress {compression_ratio:.1f}:1, written through to the disk)",
        f"{wal.bytes_per_day:.0f} B of WAL, a day's, at {replay_rate:.0f} B/s (measured on {replayed_bytes} B, with "
        "the restored files out of the page cache)",
        *doubts,
    )
    return Projection(seconds, seconds / (1 + error), seconds * (1 + error), basis)


def _error(
    policy: RestoreTestPolicy, report: RestoreReport, wal: WalRate, earlier_rates: Sequence[float]
) -> tuple[float, list[str]]:
    """The error band as a share, and what widens it."""
    rates = sorted([*earlier_rates, report.bytes_per_second])
    error, doubts = BASE_ERROR, []
    if len(rates) >= 3:
        error = max(BASE_ERROR, (rates[-1] - rates[0]) / rates[len(rates) // 2])
        doubts.append(f"{len(rates)} restores between {rates[0]:.0f} and {rates[-1]:.0f} B/s")
    else:
        error += FEW_TESTS_ERROR
        doubts.append(f"{len(rates)} restore{'s' if len(rates) > 1 else ''} measured, so the band is wider")
    # Nobody here may empty the memory of another machine, or of a database that serves.
    error += WARM_STORAGE_ERROR
    doubts.append("the storage's own cache can't be emptied from here: it may have been warm")
    if policy.production_bytes > FAR_FACTOR * report.restored_bytes:
        error += FAR_ERROR
        doubts.append(f"production is taken for {policy.production_bytes / report.restored_bytes:.0f} times as large")
    if wal.seconds is not None and wal.seconds < SHORT_WAL_SECONDS:
        error += SHORT_WAL_ERROR
        doubts.append(f"a day's WAL is taken from {wal.seconds / 60:.0f} minutes")
    return error, doubts
