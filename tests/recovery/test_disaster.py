"""The database's part of a disaster recovery on a real pair: a server at each site, the endpoint at the second."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.commit_writer import CommitWriter
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.environments.models import DisasterRecoveryPolicy, Environment
from sebenza_ops.evidence.facts import load
from sebenza_ops.ledger import Ledger, reconcile_pending
from sebenza_ops.ledger.journal import open_journal
from sebenza_ops.recovery import failback
from sebenza_ops.recovery import pair as pair_module
from sebenza_ops.recovery.disaster_assess import databases
from sebenza_ops.recovery.disaster_database import promote_standby
from sebenza_ops.recovery.disaster_fence import fence_site
from sebenza_ops.recovery.disaster_plan import DisasterPlan, DisasterRefusedError
from sebenza_ops.recovery.disaster_record import measures_of, progress_of, start_record
from sebenza_ops.recovery.disaster_rules import DisasterType, Verdict
from sebenza_ops.recovery.disaster_steps import hold_attempt, plan_recovery, take_lease
from sebenza_ops.recovery.disaster_verify import verify_recovery
from sebenza_ops.recovery.failback import move_back, plan_failback, restore_replication, resynchronize
from sebenza_ops.systems.errors import FencedOffError
from tests.postgres_pair import until
from tests.recovery.estate import SwitchEstate, switch_estate

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

REASON = "the primary site does not answer"


class KilledError(BaseException):
    """As if the process had been killed: nothing of the procedure catches it."""


@pytest.fixture
def pair() -> Iterator[SwitchEstate]:
    with pytest.MonkeyPatch.context() as patch, switch_estate(patch.setenv) as found:
        login = {"conn_type": "postgres", "login": "shop", "password": "shop"}
        patch.setenv("AIRFLOW_CONN_SEBENZA_PRODUCTION_SECONDARY_DATABASE", json.dumps(login))
        found.environment = two_sites(found)
        yield found


def two_sites(pair: SwitchEstate, **policy: Any) -> Environment:
    """The pair with db1 at the primary site; db2 and the endpoint are the secondary one's."""
    environment = pair.environment
    second = environment.secondary_site
    assert second is not None
    assert second.database is not None
    own = second.model_copy(
        update={
            "database": second.database.model_copy(update={"endpoint": environment.database.endpoint}),
        }
    )
    return environment.model_copy(
        update={
            "sites": (environment.primary_site, own),
            "hosts": tuple(
                host.model_copy(update={"site": "primary" if host.name == "db1" else second.name})
                for host in environment.hosts
            ),
            "policies": environment.policies.model_copy(
                update={"disaster_recovery": DisasterRecoveryPolicy.model_validate(policy)}
            ),
        }
    )


def out_of_reach(pair: SwitchEstate, run: ChangeRun) -> None:
    """From now on nobody logs in to db1."""
    gone = pair.environment.host("db1")
    gone = gone.model_copy(update={"ssh": gone.ssh.model_copy(update={"port": 1})})
    hosts = tuple(gone if host.name == "db1" else host for host in pair.environment.hosts)
    run.environment = pair.environment.model_copy(update={"hosts": hosts})


def planned(run: ChangeRun, kind: DisasterType | None = None, *, take_over: bool = False) -> DisasterPlan:
    start_record(run, "disaster recovery")
    take_lease(run, "disaster recovery", REASON, 120, take_over=take_over)
    return plan_recovery(run, kind, "v1", None)


def writer(pair: SwitchEstate) -> CommitWriter:
    return CommitWriter(pair.endpoint, "postgres", "super")


def missing(pair: SwitchEstate, client: CommitWriter) -> list[int]:
    server = pair.servers["db2"]
    return [each.number for each in client.missing((server.address, server.port))]


def attempt(run: ChangeRun, plan: DisasterPlan) -> None:
    for step in (lambda: fence_site(run, plan, "lindiwe"), lambda: promote_standby(run, plan)):
        run.begin_attempt("disaster recovery", 120)
        step()


def recovered(pair: SwitchEstate, ledger: Ledger) -> ChangeRun:
    """The other site serves; a failback that holds the environment."""
    run = pair.run(ledger, emergency=True)
    pair.kill("db1")
    attempt(run, planned(run))
    run.release("over")
    back = pair.run(ledger)
    start_record(back, "failback")
    back.acquire("failback", 120, 0)
    return back


def test_a_lost_site_is_left_and_what_comes_back_gets_no_client(pair: SwitchEstate, ledger: Ledger) -> None:
    run = pair.run(ledger, emergency=True)
    out_of_reach(pair, run)
    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 20, "it writes")
        with pair.servers["db2"].connect() as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
            connection.execute("SELECT pg_reload_conf()")
        until(lambda: pair.servers["db2"].state().receiver is None, "the standby hears nothing any more")
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 20, "it writes on")
        pair.kill("db1")
        until(lambda: client.errors, "nobody can write")
        plan = planned(run)
        assert (plan.kind, plan.site, plan.unfenceable) == (DisasterType.FAILOVER, Verdict.LOST, ("db1",))
        assert plan.loss.seconds is not None
        text = plan.text(REASON, "thandi", {})
        assert "can't be reached, so nothing can be stopped there" in text
        assert "PostgreSQL on db1: lost" in text
        attempt(run, plan)
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 20, "it writes on, at the other site")
    lost = missing(pair, client)
    kept = [each for each in client.acknowledged if each.number not in lost and each.at < client.errors[0][0]]
    late = [each for each in client.acknowledged if each.number in lost and each.at > kept[-1].at + plan.loss.seconds]
    assert lost
    assert not late, f"more was lost than the {plan.loss.words} that were shown"
    measures = measures_of(run, plan)
    assert measures.rpo_seconds == pytest.approx(progress_of(run)["lost_seconds"])
    run.begin_attempt("disaster recovery", 120)
    assert "answers on every load balancer" in verify_recovery(run, plan)
    assert ledger.audit.entries(environment="production", action="database.left_unfenced")[0].subject == "db1"

    # It comes back, as the primary that it was: the endpoint of the other site gives it nobody.
    assert "started" in pair.control("start", "db1")
    until(lambda: pair.servers["db1"].state().is_primary, "it is back, a primary")
    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 20, "it writes")
    assert missing(pair, client) == []
    # And a run that is tried again, or a new one, says so instead of calling it proven.
    run.environment = pair.environment
    with pytest.raises(Exception, match=r"one_primary: db1 is a primary on timeline 1.*db2 is a primary on timeline 2"):
        verify_recovery(run, plan)
    # The next fence finds it, and stops it for good.
    run.begin_attempt("disaster recovery", 120)
    fence_site(run, plan, "lindiwe")
    assert "ERROR" in pair.control("start", "db1")
    assert pair.servers["db1"].state().has_signal
    verify_recovery(run, plan)


@pytest.mark.long
def test_it_goes_back_with_nothing_lost_however_often_it_is_killed(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = recovered(pair, ledger)
    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 20, "it writes at the other site")
        plan = plan_failback(back, "v1")
        assert (plan.from_site, plan.to_site, plan.database.old, plan.database.new) == (
            "secondary",
            "primary",
            "db2",
            "db1",
        )
        back.begin_attempt("failback", 120)
        assert "rewound" in resynchronize(back, plan, "lindiwe")
        assert pair.servers["db1"].state().is_streaming
        calls, deadly, kills = 0, 1, 0

        def counted(what: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal calls, deadly
                result = what(*arguments, **options)
                calls += 1
                if calls == deadly:
                    calls, deadly = 0, deadly + 1
                    raise KilledError
                return result

            return call

        for name in ("on_server", "states"):
            monkeypatch.setattr(pair_module.Pair, name, counted(getattr(pair_module.Pair, name)))
        number = int(back.holder.run_id.partition("__")[2])
        while True:
            back = pair.run(ledger, number)
            back.begin_attempt("failback", 120)
            try:
                move_back(back, plan)
            except KilledError:
                kills += 1
            else:
                break
        deadly = 0
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 20, "it writes on, at the primary site")
        back.begin_attempt("failback", 120)
        restore_replication(back, plan, "lindiwe")
    print(f"\nkilled {kills} times; longest gap {client.longest_gap_seconds:.1f} s")
    assert kills >= 4
    one, two = (pair.servers[name] for name in ("db1", "db2"))
    assert (one.state().is_primary, two.state().is_streaming) == (True, True)
    assert not two.state().slots, "a replica that keeps a slot keeps WAL for ever"
    for server in (one, two):
        until(lambda server=server: not client.missing((server.address, server.port)), f"{server.name} has all", 10)


@pytest.mark.long
def test_a_failback_that_is_given_up_in_the_middle_leaves_the_other_site_serving(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = recovered(pair, ledger)

    def killed(*_: Any) -> str:
        raise KilledError

    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 20, "it writes at the other site")
        plan = plan_failback(back, "v1")
        back.begin_attempt("failback", 120)
        resynchronize(back, plan, "lindiwe")
        back.begin_attempt("failback", 120)
        with monkeypatch.context() as patch:
            # The serving server is stopped by then, or started again as a replica-to-be.
            patch.setattr(failback, "_promote", killed)
            with pytest.raises(KilledError):
                move_back(back, plan)
        assert not pair.servers["db2"].state().is_primary
        number = int(back.holder.run_id.partition("__")[2])
        teardown = pair.run(ledger, number)
        teardown.begin_attempt("failback", 120)
        assert failback.settle(teardown, plan) == ""
        assert not progress_of(teardown)["moving"]
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 20, "it writes on, at the other site")
        with pytest.raises(FencedOffError):
            move_back(back, plan)
    assert missing(pair, client) == []
    assert pair.servers["db2"].state().is_primary
    assert pair.servers["db1"].state().is_standby


@pytest.mark.long
def test_killed_after_every_call_it_converges_and_loses_what_it_has_counted(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, deadly = 0, 1

    def counted(what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls, deadly
            result = what(*arguments, **options)
            calls += 1
            if calls == deadly:
                calls, deadly = 0, deadly + 1
                raise KilledError
            return result

        return call

    run = pair.run(ledger, emergency=True)
    number = int(run.holder.run_id.partition("__")[2])
    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 20, "it writes")
        pair.kill("db1")
        plan = planned(run)
        assert plan.kind is DisasterType.FAILOVER
        assert plan.loss.commits is not None
        for name in ("on_server", "on_services"):
            monkeypatch.setattr(pair_module.Pair, name, counted(getattr(pair_module.Pair, name)))
        kills = 0
        while True:
            try:
                run = pair.run(ledger, number, emergency=True)
                assert plan_recovery(run, None, "", None) == plan
                attempt(run, plan)
            except KilledError:
                kills += 1
            else:
                break
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 20, "it writes on, at the other site")
    print(f"\nkilled {kills} times; shown {plan.loss.words}, lost {len(missing(pair, client))}")
    assert kills >= 4
    assert len(missing(pair, client)) <= plan.loss.commits
    assert pair.servers["db2"].state().timeline == 2, "it was promoted once"
    assert pair.servers["db1"].state().running != "yes"


@pytest.mark.long
def test_a_server_that_lives_out_of_reach_ends_the_run_before_anything_is_promoted(
    pair: SwitchEstate, ledger: Ledger
) -> None:
    run = pair.run(ledger, emergency=True)
    out_of_reach(pair, run)
    # The endpoint knows that it lives, so nothing is recommended; asked for all the same, it is refused.
    with pytest.raises(DisasterRefusedError, match=r"nothing was changed.*takes writes"):
        planned(run)
    plan = planned(run, DisasterType.FAILOVER)
    assert any("recommended is no disaster recovery" in line for line in plan.warnings)
    run.begin_attempt("disaster recovery", 120)
    with pytest.raises(DisasterRefusedError, match="db1 at primary take connections, can't be stopped"):
        fence_site(run, plan, "lindiwe")
    assert pair.servers["db1"].state().is_primary
    assert pair.servers["db2"].state().is_standby
    gates = load(ledger, run.holder.dag_id, run.holder.run_id).gates
    assert [gate.verdict for gate in gates if gate.name == "old_site_fenced"] == ["fail"]


@pytest.mark.long
def test_a_late_standby_is_not_recommended_and_of_two_recoveries_the_later_one_counts(
    pair: SwitchEstate, ledger: Ledger
) -> None:
    first = pair.run(ledger, emergency=True)
    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 20, "it writes")
    # The replay is held up, and the primary dies.
    pair.servers["db2"].query("SELECT pg_wal_replay_pause()")
    until(lambda: pair.servers["db2"].query("SELECT pg_get_wal_replay_pause_state()") == "paused", "it is paused")
    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 200, "it writes")
    pair.kill("db1")
    pair.environment = two_sites(pair, maximum_lag_seconds=1)
    first.environment = pair.environment
    found = databases(pair.environment, "primary", "secondary")
    assert set(found.states) == {"db1", "db2"}
    with pytest.raises(DisasterRefusedError, match=r"can't take over: it is \d+ s behind"):
        planned(first)
    plan = planned(first, DisasterType.FAILOVER)
    assert any("replay is paused" in line for line in plan.warnings)
    first.begin_attempt("disaster recovery", 120)

    second = pair.run(ledger, emergency=True)
    with pytest.raises(ChangeRefusedError, match=r"another disaster recovery of production is under way.*thandi"):
        planned(second, DisasterType.FAILOVER)
    again = planned(second, DisasterType.FAILOVER, take_over=True)
    with pytest.raises(FencedOffError):
        fence_site(first, plan, "lindiwe")
    with pytest.raises(FencedOffError):
        promote_standby(first, plan)
    assert pair.servers["db2"].state().is_standby
    attempt(second, again)
    assert pair.servers["db2"].state().is_primary
    # What was received, and only held up, is not lost.
    assert missing(pair, client) == []


@pytest.mark.long
def test_with_ledger_and_site_gone_it_keeps_a_journal_and_a_later_run_ends_it(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("SEBENZA_JOURNAL", str(tmp_path / "journal"))
    pair.kill("db1")
    run = pair.run(ledger, emergency=True)
    out_of_reach(pair, run)
    run.ledger = open_journal(run.holder.dag_id, run.holder.run_id)
    # Nobody has written: how far the standby is behind can't be told, and so nothing is recommended.
    plan = planned(run, DisasterType.FAILOVER)
    # People decide: the lease is handed back meanwhile.
    run.release("people decide now")
    hold_attempt(run, "disaster recovery", 120)
    fence_site(run, plan, "lindiwe")
    promote_standby(run, plan)
    assert pair.servers["db2"].state().is_primary
    run.release("over")

    other = pair.run(ledger, emergency=True)
    out_of_reach(pair, other)
    other.ledger = open_journal(other.holder.dag_id, other.holder.run_id)
    planned(other, DisasterType.FAILOVER)
    with pytest.raises(ChangeRefusedError, match="has changed production since"):
        hold_attempt(run, "disaster recovery", 120)
    reconcile_pending(ledger)
    assert ledger.deployments.find(run.holder.dag_id, run.holder.run_id) is not None
