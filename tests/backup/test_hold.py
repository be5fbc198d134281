"""A restore keeps the sets that are there from being removed, and waits for a removal that is under way."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sebenza_ops.backup import finish, hold, steps
from sebenza_ops.backup.jobs import WAIT_SECONDS, JobRunning
from sebenza_ops.backup.plan import BackupPlan
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.systems import clocks
from sebenza_ops.systems.clocks import HostClock, read_clock
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.ssh import Fence
from tests.systems.estates import shipped

PRODUCTION = shipped("production")
BACKUP = Holder("backup_database.production", "night", "scheduler")
RESTORE = Holder("restore_point_in_time.production", "at_three", "thandi")
OTHER = Holder("restore_database.production", "beside", "sipho")
PLAN = BackupPlan(
    environment="production",
    job="j" * 32,
    backup_type="diff",
    reason="asked for",
    host="db2",
    primary="db1",
    from_replica=True,
)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger; no host answers."""
    monkeypatch.setattr(steps, "on_hosts", lambda hosts, login, action: {})
    found = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    found.migrate()
    return found


def a_run(ledger: Ledger, holder: Holder) -> ChangeRun:
    name = "production.backup" if holder is BACKUP else None
    return ChangeRun(ledger, PRODUCTION, holder, lease_name=name)


def test_nothing_is_removed_while_a_restore_reads_a_set(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "expire_sets", lambda *_: pytest.fail("a set was removed that somebody reads"))
    warnings: list[str] = []
    restore, backup = a_run(ledger, RESTORE), a_run(ledger, BACKUP)
    with hold.kept(restore, "restore to 03:00"):
        finish.remove_old(backup, PLAN, "20261126-003000F", warnings)
    # The next step of the restore takes it again; until then it is still kept.
    finish.remove_old(backup, PLAN, "20261126-003000F", warnings)
    assert len(warnings) == 2
    assert "restore_point_in_time.production (run at_three, started by thandi) reads a set since" in warnings[0]
    assert "The next backup does it" in warnings[0]

    removed: list[str] = []
    monkeypatch.setattr(finish, "expire_sets", lambda run, fence, plan, label, told: removed.append(label))
    monkeypatch.setattr(finish, "delete_dumps", lambda run, plan: removed.append("dumps"))
    hold.let_go(restore)
    finish.remove_old(backup, PLAN, "20261126-003000F", warnings)
    assert removed == ["20261126-003000F", "dumps"]
    assert ledger.leases.current("production.sets") is None


def test_a_restore_waits_for_a_removal_and_is_refused_by_another_restore(ledger: Ledger) -> None:
    backup, restore = a_run(ledger, BACKUP), a_run(ledger, RESTORE)
    slept: list[float] = []
    with hold.removal(backup) as removing:

        def ends(seconds: float) -> None:
            slept.append(seconds)
            removing.release("it is done")

        held = hold.hold(restore, "restore to 03:00", sleep=ends)
    assert slept
    assert held.fence.token > removing.fence.token
    with pytest.raises(ChangeRefusedError, match=r"at_three.* restores a set just now.*Wait for its end") as refused:
        hold.hold(a_run(ledger, OTHER), "restore beside")
    assert refused.value.is_for_now
    # A backup later on does not keep the restore's next try from taking it again.
    hold.let_go(restore)
    with hold.removal(backup):
        pass
    assert hold.hold(restore, "restore to 03:00").fence.token > held.fence.token


def test_a_removal_that_works_on_by_itself_keeps_its_lease(ledger: Ledger) -> None:
    backup = a_run(ledger, BACKUP)
    with pytest.raises(JobRunning), hold.removal(backup):
        raise JobRunning(PRODUCTION, PRODUCTION.host("db2"), "job", "the expiration")
    kept = ledger.leases.current("production.sets")
    assert kept is not None
    assert kept.holder.is_run(BACKUP)
    assert kept.expires_at - kept.acquired_at > timedelta(seconds=WAIT_SECONDS)


def test_a_wrong_clock_removes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HostClock("db2", 3456000.0, 0.1)
    host = SimpleNamespace(raise_token=lambda fence: None, clock=lambda: clock)
    backup = a_run(ledger, BACKUP)
    steps.take_lease(backup)

    class OnHost:
        def __enter__(self) -> tuple[Any, Any]:
            # Without pgBackRest: whatever asks it fails.
            return None, host

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(finish, "on_host", lambda environment, name: OnHost())
    warnings: list[str] = []
    finish.expire_sets(backup, Fence("production.sets", 1, "x"), PLAN, "20261126-003000F", warnings)
    assert warnings == [
        "no set was removed: the clock of db2 is 3456000.0 s ahead of Airflow's, and pgBackRest would count their ages "
        "by it"
    ]


@pytest.mark.parametrize(
    ("skew", "unsure", "is_wrong"), [(0.2, 0.01, False), (-4.0, 0.1, False), (-60.0, 0.1, True), (8.0, 4.0, False)]
)
def test_what_can_not_be_told_is_not_held_against_a_clock(skew: float, unsure: float, is_wrong: bool) -> None:
    clock = HostClock("db1", skew, unsure)
    assert clock.is_wrong is is_wrong
    assert ("behind" if skew < 0 else "ahead of") in clock.words


def test_a_clock_is_read_by_the_quickest_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ours:
        now = 1000.0

        def time(self) -> float:
            return self.now

        monotonic = time

    ours = Ours()
    monkeypatch.setattr(clocks, "time", ours)

    class Session:
        # How long the question and the answer are under way.
        host, ways = SimpleNamespace(name="db1"), iter([(4.0, 0.0), (0.25, 0.75), (0.0, 8.0)])

        def run(self, argv: list[str], timeout_seconds: float) -> Any:
            there, back = next(self.ways)
            ours.now += there
            read = ours.now + 60
            ours.now += back
            return SimpleNamespace(stdout=f"{read}\n")

    session: Any = Session()
    found = read_clock(session)
    # Read a quarter of a second after the question; half of the second that it took is assumed.
    assert (found.skew_seconds, found.uncertainty_seconds) == (59.75, 0.5)
    broken: Any = SimpleNamespace(host=SimpleNamespace(name="db1"), run=lambda *_, **__: SimpleNamespace(stdout="?"))
    with pytest.raises(NoDataError, match="its clock can't be read"):
        read_clock(broken)
