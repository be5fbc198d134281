"""A restored cluster takes the place of a real pair's primary behind its endpoint, or everything is as it was."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lab.commit_writer import CommitWriter
from sebenza_ops.changes import ChangeRun
from sebenza_ops.ledger import Holder, Ledger, Outcome
from sebenza_ops.recovery import point_exchange
from sebenza_ops.recovery import rejoin as rejoining
from sebenza_ops.recovery.pair import Pair
from sebenza_ops.recovery.point_exchange import ExchangeFailedError, exchange, prove, replica_plan
from sebenza_ops.recovery.point_finish import finish
from sebenza_ops.recovery.point_operators import (
    ExchangeClusterOperator,
    FinishPointRestoreOperator,
    PlanPointRestoreOperator,
    RebuildReplicaOperator,
    RestoreBesideOperator,
    VerifyPointRestoreOperator,
)
from sebenza_ops.recovery.point_plan import PointPlan
from sebenza_ops.recovery.point_steps import RestoredPoint, begin, restore_beside
from sebenza_ops.recovery.run_record import take_lease
from sebenza_ops.systems.errors import FencedOffError
from sebenza_ops.systems.point_restore import PointRestore
from sebenza_ops.systems.ssh import Fence
from tests.postgres_pair import as_owner, until
from tests.recovery.estate import SwitchEstate, switch_estate
from tests.recovery.tasks import Tasks

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(400)]

_numbers = itertools.count(1)
PGBACKREST = """
[global]
repo1-path={repository}
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=a-passphrase-of-the-tests
start-fast=y
compress-type=zst
log-path={root}
lock-path={root}/lock
spool-path={root}
[main]
pg1-path={root}/data
pg1-port={port}
pg1-socket-path={root}/run
"""
ARCHIVING = """
archive_mode = on
archive_timeout = 60
archive_command = 'pgbackrest --config={root}/pgbackrest.conf --stanza=main archive-push %p'
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[SwitchEstate]:
    """The pair of the switch's tests, archived by pgBackRest."""
    with pytest.MonkeyPatch.context() as patch, switch_estate(patch.setenv) as found:
        repository = found.root / "repository"
        repository.mkdir()
        for server in found.servers.values():
            text = PGBACKREST.format(repository=repository, root=server.root, port=server.port)
            (server.root / "pgbackrest.conf").write_text(text)
            with (server.root / "postgresql.conf").open("a") as configuration:
                configuration.write(ARCHIVING.format(root=server.root))
        if os.geteuid() == 0:
            for place in (repository, *(server.root / "pgbackrest.conf" for server in found.servers.values())):
                shutil.chown(place, "postgres", "postgres")
        for name in found.servers:
            found.control("restart", name)
        until(lambda: found.servers["db2"].state().is_streaming, "the replica streams")
        until(lambda: found.passes_check("db1"), "the endpoint knows the primary")
        database = found.environment.policies.backup
        assert database is not None
        policy = database.model_copy(
            update={
                "config_file": "/pgbackrest.conf",
                "work_dir": "/work",
                "minimum_free_bytes": 1024,
                "timeout_seconds": 120,
            }
        )
        policies = found.environment.policies.model_copy(update={"backup": policy})
        found.environment = found.environment.model_copy(update={"policies": policies})
        pgbackrest(found, "stanza-create")
        pgbackrest(found, "backup", "--type=full", "--no-expire-auto", "--repo1-retention-full=9")
        # pgBackRest tells whole seconds: only a later one is after the set.
        time.sleep(1.2)
        yield found


def pgbackrest(pair: SwitchEstate, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    config = pair.servers["db1"].root / "pgbackrest.conf"
    done = as_owner(["pgbackrest", f"--config={config}", "--stanza=main", *options, command])
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def a_run(pair: SwitchEstate, ledger: Ledger, number: int | None = None) -> ChangeRun:
    """A new run, or one of before, tried again."""
    holder = Holder("restore_point_in_time.production", f"manual__{number or next(_numbers)}", "thandi")
    return ChangeRun(ledger, pair.environment, holder, conf={})


def a_play(pair: SwitchEstate, ledger: Ledger, patch: pytest.MonkeyPatch, target: dict[str, Any]) -> Tasks:
    """The tasks of a new run."""
    params = {"exclusive": False, "timeline": 0, "set": "", "plan_only": False, "reason": "a test of it", **target}
    return Tasks(pair.environment, ledger, a_run(pair, ledger).holder, params, patch)


def beside(pair: SwitchEstate, what: str) -> list[Path]:
    return sorted(pair.servers["db1"].root.glob(f"data.{what}-*"))


def prepared(run: ChangeRun, moment: float) -> tuple[PointPlan, RestoredPoint]:
    take_lease(run, "restore")
    target = {"target_type": "time", "target": datetime.fromtimestamp(moment, UTC).isoformat(), "exclusive": False}
    plan = begin(run, target)
    return plan, restore_beside(run, plan, "a test of the restore", {})


def completed(run: ChangeRun, plan: PointPlan, restored: RestoredPoint) -> str:
    """What the tasks do after the approval, each with a fencing token of its own."""
    for step in (
        lambda: exchange(run, plan, restored, "lindiwe"),
        lambda: rejoining.rejoin(run, replica_plan(plan, restored), "lindiwe"),
        lambda: prove(run, plan, restored),
        lambda: rejoining.verify(run, replica_plan(plan, restored)),
    ):
        run.begin_attempt("restore", 120)
        step()
    run.begin_attempt("restore", 120)
    summary = finish(run, [], plan_only=False, may_settle=True)
    run.release("over")
    return summary


def written(pair: SwitchEstate) -> tuple[CommitWriter, float]:
    """A writer that has written until a moment and beyond, and the moment."""
    with CommitWriter(pair.endpoint, "postgres", "super") as client:
        until(lambda: len(client.acknowledged) > 50, "it writes")
        moment = time.time()
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 50, "it writes on")
    return client, moment


def wrong_rows(pair: SwitchEstate, client: CommitWriter, moment: float, name: str) -> int:
    server = pair.servers[name]
    return client.wrong_rows(client.numbers((server.address, server.port)), moment).count


class KilledError(BaseException):
    """As if the process had been killed: nothing of the procedure catches it."""


def test_the_restored_cluster_takes_the_place_and_the_replica_follows(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, moment = written(pair)
    target = {"target_type": "time", "target": datetime.fromtimestamp(moment, UTC).isoformat()}
    with monkeypatch.context() as patch:
        steps = a_play(pair, ledger, patch, target)
        plan = PointPlan.model_validate(steps.do(PlanPointRestoreOperator, "plan_restore"))
        found = steps.do(RestoreBesideOperator, "restore_beside", plan=steps.left["plan_restore"])
        restored = RestoredPoint.model_validate(found)
        assert "lab_writer public.commits" in restored.text
        (copy,) = beside(pair, "restored")
        approved = {"plan": steps.left["plan_restore"], "copy": found, "approved_by": "lindiwe"}
        steps.do(ExchangeClusterOperator, "exchange_cluster", **approved)
        steps.do(RebuildReplicaOperator, "rebuild_replica", **approved)
        steps.do(VerifyPointRestoreOperator, "verify_restore", **approved)
        summary = steps.do(FinishPointRestoreOperator, "finish")
    print("\n", summary)
    assert "make a full backup now" in summary
    assert ledger.leases.current("production") is None
    for name in ("db1", "db2"):
        until(lambda name=name: not wrong_rows(pair, client, moment, name), f"{name} has exactly the rows", 20)
    states = {name: server.state() for name, server in pair.servers.items()}
    assert states["db1"].is_primary
    assert states["db1"].timeline == restored.timeline > plan.timeline
    assert states["db2"].is_streaming
    assert not copy.exists()
    assert not Path(restored.socket).exists()
    kept = beside(pair, "before")[0]
    assert (kept / "standby.signal").exists(), "started by mistake it would be a second primary"
    assert ledger.deployments.get(steps.holder.dag_id, steps.holder.run_id).outcome is Outcome.SUCCEEDED

    # What was there before can be come back to, by the restore point and the former timeline; and the new one is whole.
    way_back = {"target_type": "name", "target": f"sebenza_before_{plan.key[:12]}", "timeline": plan.timeline}
    again = a_run(pair, ledger)
    take_lease(again, "restore")
    back = begin(again, {**way_back, "exclusive": False})
    found = restore_beside(again, back, "a test of the restore", {})
    there = found.rows["lab_writer"]["public.commits"]
    assert there >= len(client.acknowledged), "what was acknowledged before the exchange can't be come back to"
    again.begin_attempt("restore", 120)
    assert "ended before anything was exchanged" in finish(
        again, ["approve_exchange"], plan_only=False, may_settle=True
    )
    again.release("over")
    assert not beside(pair, "restored")


def test_a_cluster_that_does_not_start_is_taken_back(pair: SwitchEstate, ledger: Ledger) -> None:
    client, moment = written(pair)
    run = a_run(pair, ledger)
    plan, restored = prepared(run, moment)
    (copy,) = beside(pair, "restored")
    with (copy / "postgresql.auto.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    run.begin_attempt("restore", 120)
    with pytest.raises(ExchangeFailedError, match="The database is as it was before"):
        exchange(run, plan, restored, "lindiwe")
    state = pair.servers["db1"].state()
    assert state.is_primary
    assert state.timeline == plan.timeline
    assert not state.has_signal
    server = pair.servers["db1"]
    assert client.missing((server.address, server.port)) == []
    until(lambda: pair.servers["db2"].state().is_streaming, "the replica follows as before", 30)
    with CommitWriter(pair.endpoint, "postgres", "super") as after:
        until(lambda: len(after.acknowledged) > 10, "clients write on")
    run.begin_attempt("restore", 120)
    finish(run, ["exchange_cluster"], plan_only=False, may_settle=True)
    assert ledger.deployments.get(run.holder.dag_id, run.holder.run_id).outcome is Outcome.ROLLED_BACK
    assert not beside(pair, "restored")
    run.release("over")


def test_marked_failed_in_the_middle_what_the_attempt_still_does_comes_too_late(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow ends the attempt's process seconds after it has started the teardown."""
    client, moment = written(pair)
    attempt = a_run(pair, ledger)
    plan, restored = prepared(attempt, moment)
    attempt.begin_attempt("restore", 120)
    fence_service = Pair.fence_service

    def fenced(self: Pair, name: str, fence: Fence) -> None:
        fence_service(self, name, fence)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Pair, "fence_service", fenced)
        with pytest.raises(KilledError):
            exchange(attempt, plan, restored, "lindiwe")
    teardown = a_run(pair, ledger, int(attempt.holder.run_id.removeprefix("manual__")))
    teardown.begin_attempt("restore", 120)
    state_of, refused = point_exchange._state, []

    def exchanged(copy: PointRestore) -> str:
        return copy.swap(attempt.fence, plan.system_identifier)

    def looked_at(found: Pair, plan: PointPlan) -> Any:
        state = state_of(found, plan)
        for late in (
            lambda: point_exchange.on_copy(
                attempt, plan, lambda copy: copy.swap(attempt.fence, plan.system_identifier)
            ),
            lambda: found.start_service(plan.host, attempt.fence),
        ):
            with pytest.raises(FencedOffError):
                late()
            refused.append(late)
        return state

    monkeypatch.setattr(point_exchange, "_state", looked_at)
    finish(teardown, ["exchange_cluster"], plan_only=False, may_settle=True)
    assert len(refused) == 2
    server = pair.servers["db1"]
    assert (server.state().is_primary, server.state().timeline) == (True, plan.timeline)
    assert client.missing((server.address, server.port)) == []
    with CommitWriter(pair.endpoint, "postgres", "super") as after:
        until(lambda: len(after.acknowledged) > 10, "clients write on")
    assert ledger.deployments.get(attempt.holder.dag_id, attempt.holder.run_id).outcome is Outcome.ROLLED_BACK
    assert not beside(pair, "restored")
    teardown.release("over")


def test_killed_on_its_way_it_goes_on(pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed right after the server was stopped, and again right after the directories were exchanged."""
    client, moment = written(pair)
    run = a_run(pair, ledger)
    plan, restored = prepared(run, moment)
    same = a_run(pair, ledger, int(run.holder.run_id.removeprefix("manual__")))

    def deadly(what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            what(*arguments, **options)
            raise KilledError

        return call

    for place, name in ((Pair, "fence_service"), (PointRestore, "swap")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, deadly(getattr(place, name)))
            same.begin_attempt("restore", 120)
            with pytest.raises(KilledError):
                exchange(same, plan, restored, "lindiwe")
    assert not (copy := beside(pair, "restored")), f"{copy} was not exchanged"
    assert pair.servers["db1"].state().running == "no"
    completed(same, plan, restored)
    for name in ("db1", "db2"):
        until(lambda name=name: not wrong_rows(pair, client, moment, name), f"{name} has exactly the rows", 20)
