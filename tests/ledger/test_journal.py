"""What an emergency keeps while the ledger is down, and what becomes of it when the ledger is back."""

from __future__ import annotations

import shutil
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sebenza_ops.ledger import (
    Holder,
    Ledger,
    LedgerUnavailable,
    Message,
    Outcome,
    RunSuperseded,
    find_journal,
    ledger_or_journal,
    reconcile_pending,
)
from sebenza_ops.ledger.database import open_engine
from sebenza_ops.ledger.journal import journal_directory, journal_file, open_journal, pending_journals
from tests.ledger.conftest import SettableClock

ROLLBACK = Holder("rollback.production", "manual__2", "thandi")
DEPLOY = Holder("deploy_blue_green.production", "manual__1", "sipho")
NAME, TTL = "production", 120.0
ON_HOSTS = 40
OLD, NEW = "v1.0.0-aaaaaaaaaaaa", "v1.1.0-bbbbbbbbbbbb"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEBENZA_JOURNAL", str(tmp_path / "journal"))
    return tmp_path / "journal"


@pytest.fixture
def journal(clock: SettableClock) -> Ledger:
    """The journal of the rollback, whose clock a test can move."""
    open_journal(ROLLBACK.dag_id, ROLLBACK.run_id)
    file = journal_file(ROLLBACK.dag_id, ROLLBACK.run_id)
    return Ledger(open_engine(f"sqlite:///{file}"), clock, is_journal=True)


def roll_back(journal: Ledger, *, finish: bool = True) -> int:
    """What a rollback records; returns its fencing token."""
    run = (ROLLBACK.dag_id, ROLLBACK.run_id)
    journal.deployments.start(NAME, *run, ROLLBACK.actor, "last known good", None, "rollback")
    lease = journal.leases.take_over(NAME, ROLLBACK, "orders are lost", TTL, ON_HOSTS + 1000)
    journal.deployments.update(*run, release_id=OLD, previous_release_id=NEW, plan={"to_color": "blue"})
    journal.evidence.add(*run, "timeline", {"items": [{"text": "all new requests go to blue again"}]})
    journal.releases.mark_bad(NAME, NEW, "rolled back: orders are lost", ROLLBACK)
    journal.releases.set_last_known_good(NAME, OLD, ROLLBACK)
    journal.outbox.enqueue(message(ROLLBACK))
    if finish:
        journal.deployments.finish(*run, Outcome.SUCCEEDED, "v1.0.0 is live on blue")
        journal.leases.release(NAME, lease.token, "the run has ended")
    return lease.token


def message(run: Holder) -> Message:
    return Message(run.dag_id, run.run_id, 0, "slack:#ops", "success", NAME, "rolled back", "…", "info", "key")


def everything(ledger: Ledger) -> dict[str, Any]:
    return {
        "leases": ledger.leases.history(NAME),
        "audit": [(e.at, e.action, e.subject, dict(e.detail)) for e in ledger.audit.entries()],
        "deployments": ledger.deployments.recent(NAME),
        "evidence": [(e.at, e.kind) for e in ledger.evidence.entries(ROLLBACK.dag_id, ROLLBACK.run_id)],
        "bad": ledger.releases.bad(NAME, NEW),
        "good": ledger.releases.known_good(NAME),
        "messages": ledger.outbox.of_run(ROLLBACK.dag_id, ROLLBACK.run_id),
    }


def test_all_that_was_kept_is_in_the_ledger_once_however_often_it_is_carried_over(
    ledger: Ledger, journal: Ledger, directory: Path
) -> None:
    token = roll_back(journal)
    file = pending_journals()[0]
    copy = directory / "copy"
    shutil.copy(file, copy)

    first = reconcile_pending(ledger)
    after = everything(ledger)
    assert [result.is_done for result in first] == [True]
    assert not pending_journals(), "a journal that is done with stays in the way"
    # A machine that was restored from a backup brings it again.
    shutil.copy(copy, file)
    second = reconcile_pending(ledger)

    assert second[0].entries == 0
    assert everything(ledger) == after
    assert [lease.token for lease in after["leases"]] == [token]
    record = ledger.deployments.get(ROLLBACK.dag_id, ROLLBACK.run_id)
    assert (record.outcome, record.release_id, record.plan) == (Outcome.SUCCEEDED, OLD, {"to_color": "blue"})
    assert after["bad"].reason == "rolled back: orders are lost"
    assert after["good"][0].release_id == OLD
    assert [entry[1] for entry in after["audit"]].count("lease.taken_over") == 1
    assert len(after["evidence"]) == len(after["messages"]) == 1
    reconciled = ledger.audit.entries(action="journal.reconciled")
    assert [entry.subject for entry in reconciled] == [str(ROLLBACK)]


def test_the_run_that_was_fenced_off_gets_no_token_that_hosts_would_take(ledger: Ledger, journal: Ledger) -> None:
    zombie = ledger.leases.acquire(NAME, DEPLOY, "deploy v1.1.0", 3600, ON_HOSTS - 1)
    token = roll_back(journal)

    # Before the journal is carried over the ledger still believes the zombie; the hosts do not.
    assert ledger.leases.acquire(NAME, DEPLOY, "deploy v1.1.0", TTL).token < token

    reconcile_pending(ledger)

    assert ledger.leases.current(NAME) is None
    ended = next(lease for lease in ledger.leases.history(NAME) if lease.token == zombie.token)
    assert "taken over by rollback.production" in str(ended.end_reason)
    with pytest.raises(RunSuperseded):
        ledger.leases.acquire(NAME, DEPLOY, "deploy v1.1.0", TTL)
    later = ledger.leases.acquire(NAME, Holder("deploy_blue_green.production", "manual__3", "sipho"), "deploy", TTL)
    assert later.token > token


def test_a_rollback_that_still_runs_holds_the_lease_in_the_ledger_too(
    ledger: Ledger, journal: Ledger, clock: SettableClock
) -> None:
    token = roll_back(journal, finish=False)
    reconcile_pending(ledger)
    current = ledger.leases.current(NAME)
    assert current is not None
    assert (current.holder, current.token) == (ROLLBACK, token)
    assert pending_journals(), "the journal of a run that goes on was moved away under it"

    # It goes on in its journal, and ends there.
    clock.advance(5)
    journal.deployments.finish(ROLLBACK.dag_id, ROLLBACK.run_id, Outcome.SUCCEEDED, "v1.0.0 is live")
    journal.leases.release(NAME, token, "the run has ended")
    assert reconcile_pending(ledger)[0].is_done
    assert ledger.leases.current(NAME) is None
    assert ledger.deployments.get(ROLLBACK.dag_id, ROLLBACK.run_id).outcome is Outcome.SUCCEEDED


def test_a_later_change_in_the_ledger_stays_in_force(ledger: Ledger, journal: Ledger, clock: SettableClock) -> None:
    """The journal of another machine comes late: a deployment has taken the hosts' token into account already."""
    token = roll_back(journal, finish=False)
    clock.advance(10)
    later = Holder("deploy_blue_green.production", "manual__3", "sipho")
    held = ledger.leases.acquire(NAME, later, "deploy v1.2.0", TTL, token)
    ledger.releases.set_last_known_good(NAME, "v1.2.0-cccccccccccc", later)

    reconcile_pending(ledger)

    current = ledger.leases.current(NAME)
    assert current is not None
    assert current.token == held.token
    good = ledger.releases.last_known_good(NAME)
    assert good is not None
    assert good.release_id == "v1.2.0-cccccccccccc"


def test_a_run_whose_beginning_the_ledger_has_is_one_record(
    ledger: Ledger, journal: Ledger, clock: SettableClock
) -> None:
    """The ledger goes down in the middle of the rollback: its later tasks keep a journal."""
    run = (ROLLBACK.dag_id, ROLLBACK.run_id)
    ledger.deployments.start(NAME, *run, ROLLBACK.actor, "v1.0.0", None, "rollback")
    ledger.deployments.update(*run, plan={"to_color": "blue"})
    ledger.leases.acquire(NAME, ROLLBACK, "rollback", TTL, ON_HOSTS)
    clock.advance(1)
    journal.deployments.start(NAME, *run, ROLLBACK.actor, "", None, "rollback")
    lease = journal.leases.acquire(NAME, ROLLBACK, "rollback", TTL, ON_HOSTS + 1000)
    journal.deployments.finish(*run, Outcome.SUCCEEDED, "v1.0.0 is live on blue")
    journal.leases.release(NAME, lease.token, "the run has ended")

    reconcile_pending(ledger)

    record = ledger.deployments.get(*run)
    assert (record.requested_version, record.plan) == ("v1.0.0", {"to_color": "blue"})
    assert record.outcome is Outcome.SUCCEEDED
    assert ledger.leases.current(NAME) is None


def test_a_run_that_died_does_not_leave_its_journal_for_ever(
    ledger: Ledger, journal: Ledger, clock: SettableClock
) -> None:
    roll_back(journal, finish=False)
    clock.moment += timedelta(days=2)
    assert reconcile_pending(ledger)[0].is_done
    assert ledger.leases.current(NAME) is None


def test_a_journal_that_can_not_be_read_stays_and_keeps_nobody(
    ledger: Ledger, journal: Ledger, directory: Path
) -> None:
    roll_back(journal)
    spoiled = directory / "rollback.staging-0000000000000000.journal.db"
    spoiled.write_bytes(b"not a database" * 1000)
    assert [result.file.name for result in reconcile_pending(ledger)] == [
        journal_file(ROLLBACK.dag_id, ROLLBACK.run_id).name
    ]
    assert pending_journals() == [spoiled]


def test_a_ledger_that_is_still_down_takes_nothing_and_the_journal_stays(journal: Ledger, tmp_path: Path) -> None:
    roll_back(journal)
    with pytest.raises(LedgerUnavailable):
        reconcile_pending(Ledger.open(f"sqlite:///{tmp_path}/gone/ledger.db"))
    assert pending_journals()


def test_the_journal_is_used_exactly_while_the_ledger_can_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "ledger"
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", f"sqlite:///{place}/ledger.db".replace("sqlite:///", "sqlite://"))
    assert ledger_or_journal(NAME, ROLLBACK).is_journal
    assert not place.exists(), "a ledger was made where its disk is not mounted"
    kept = find_journal(ROLLBACK.dag_id, ROLLBACK.run_id)
    assert kept is not None
    assert kept.leases.acquire(NAME, ROLLBACK, "rollback", TTL, 1).token == 2
    mode = stat.S_IMODE(journal_file(ROLLBACK.dag_id, ROLLBACK.run_id).stat().st_mode)
    assert (mode, stat.S_IMODE(journal_directory().stat().st_mode)) == (0o600, 0o700)

    place.mkdir()
    assert not ledger_or_journal(NAME, ROLLBACK).is_journal

    (place / "ledger.db").write_bytes(b"not a database" * 1000)
    assert ledger_or_journal(NAME, ROLLBACK).is_journal


def test_a_journal_that_can_not_be_written_says_how_to_move_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEBENZA_JOURNAL", "/proc/journal")
    with pytest.raises(LedgerUnavailable, match="SEBENZA_JOURNAL"):
        open_journal(ROLLBACK.dag_id, ROLLBACK.run_id)
