"""The steps of a switch of the primary on a real pair behind its endpoint, with a client that keeps count."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.commit_writer import DATABASE, CommitWriter
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.ledger import Ledger, Outcome, reconcile_pending
from sebenza_ops.ledger.journal import open_journal
from sebenza_ops.recovery import pair as pair_module
from sebenza_ops.recovery import rejoin as rejoining
from sebenza_ops.recovery import switch_over as switching
from sebenza_ops.recovery.pair import Pair
from sebenza_ops.recovery.switch_finish import finish_switch
from sebenza_ops.recovery.switch_plan import Kind, SwitchPlan, SwitchRefusedError
from sebenza_ops.recovery.switch_steps import plan_switch, progress_of, start_record, take_lease
from sebenza_ops.systems.database_endpoint import EndpointState
from sebenza_ops.systems.errors import FencedOffError
from tests.postgres_pair import until
from tests.recovery.estate import SwitchEstate, switch_estate

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

REASON = "a test of the switch"
# All of the move itself, and the first of what comes after it; those after that change nothing that matters to clients.
KILLED_CALLS = 7


@pytest.fixture(scope="module")
def pair() -> Iterator[SwitchEstate]:
    with pytest.MonkeyPatch.context() as patch, switch_estate(patch.setenv) as found:
        yield found


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    found = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db")
    found.migrate()
    return found


@pytest.fixture(autouse=True)
def nobody_holds_it(ledger: Ledger) -> Iterator[None]:
    """A test that fails in its middle must not keep the next one out."""
    yield
    lease = ledger.leases.current("production")
    if lease is not None:
        ledger.leases.release("production", lease.token, "the test is over", "tests")


def planned(pair: SwitchEstate, run: ChangeRun, kind: Kind = Kind.PLANNED) -> SwitchPlan:
    start_record(run, kind)
    take_lease(run, kind, "switch", REASON, 120)
    return plan_switch(run, kind)


def attempt(run: ChangeRun, plan: SwitchPlan, *, proven: bool = True) -> None:
    """What the tasks do after the plan."""
    run.begin_attempt("switch", 120)
    carry_out(run, plan)
    run.begin_attempt("switch", 120)
    rejoining.rejoin(run, plan, "lindiwe")
    if proven:
        run.begin_attempt("switch", 120)
        rejoining.verify(run, plan)


def carry_out(run: ChangeRun, plan: SwitchPlan) -> None:
    if plan.kind is Kind.PLANNED:
        switching.switch_over(run, plan)
    else:
        switching.fail_over(run, plan, "lindiwe")


def primary(pair: SwitchEstate) -> str:
    states = {name: server.state() for name, server in pair.servers.items()}
    found = [name for name, state in states.items() if state.is_primary]
    assert len(found) == 1, {name: state.words for name, state in states.items()}
    return found[0]


def other(name: str) -> str:
    return {"db1": "db2", "db2": "db1"}[name]


def restart_endpoint(pair: SwitchEstate) -> None:
    """Begin a new process of HAProxy; it has not checked its servers when this returns."""
    assert pair.haproxy is not None
    before = pair.endpoint_process()
    pair.haproxy.send_signal(signal.SIGUSR2)
    until(lambda: pair.endpoint_process() not in (before, ""), "a new process of HAProxy answers", 15)


def writer(pair: SwitchEstate) -> CommitWriter:
    return CommitWriter(pair.endpoint, "postgres", "super")


def missing(pair: SwitchEstate, client: CommitWriter, name: str) -> list[int]:
    server = pair.servers[name]
    return [each.number for each in client.missing((server.address, server.port))]


def test_a_planned_switch_loses_nothing_and_holds_clients_shortly(pair: SwitchEstate, ledger: Ledger) -> None:
    old = primary(pair)
    run = pair.run(ledger)
    # The endpoint was reloaded a moment ago, and takes both servers for up until its checks have ended.
    restart_endpoint(pair)
    settled = pair_module.Pair(pair.environment).settled_endpoint_states()["dbendpoint"]
    assert isinstance(settled, EndpointState), settled
    assert settled.leads_to == (old,)
    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 20, "it writes")
        plan = planned(pair, run)
        began = time.monotonic()
        attempt(run, plan)
        took_seconds = time.monotonic() - began
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 20, "it writes on")
    assert primary(pair) == other(old)
    until(lambda: not missing(pair, client, old), "the replica has everything too", 10)
    assert missing(pair, client, other(old)) == []
    pause_ms = progress_of(run)["pause_ms"]
    print(f"\npause {pause_ms} ms, the client's longest gap {client.longest_gap_seconds * 1000:.0f} ms", client.errors)
    assert 0 < pause_ms <= took_seconds * 1000, "it is not the pause that is measured"
    # Its one connection was closed while it was idle, or in the middle of a row.
    assert len(client.errors) <= 2, client.errors
    summary = finish_switch(run, [], plan_only=False, may_settle=True)
    assert f"{other(old)} is the primary" in summary
    run.release("over")


class KilledError(BaseException):
    """As if the process had been killed: nothing of the procedure catches it."""


@pytest.mark.long
def test_killed_after_every_call_of_the_move_it_converges(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planned switch is killed right after each of its calls in turn, and tried again."""
    calls = deadly = kills = 0

    def counted(what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            result = what(*arguments, **options)
            calls += 1
            if calls == deadly:
                raise KilledError
            return result

        return call

    for name in ("on_server", "on_services", "try_endpoints"):
        monkeypatch.setattr(Pair, name, counted(getattr(Pair, name)))
    with writer(pair) as client:
        while True:
            old, run = primary(pair), pair.run(ledger)
            plan = planned(pair, run)
            calls, deadly = 0, kills + 1
            try:
                attempt(run, plan, proven=False)
            except KilledError:
                kills += 1
                deadly = 0
                run = pair.run(ledger, int(run.holder.run_id.partition("__")[2]))
                assert plan_switch(run, Kind.PLANNED) == plan
                attempt(run, plan, proven=False)
            assert primary(pair) == other(old), f"killed after call {kills}"
            run.release("over")
            if deadly or kills == KILLED_CALLS:
                break
    print(f"\nkilled {kills} times, {len(client.acknowledged)} commits, {len(client.errors)} errors")
    assert kills == KILLED_CALLS
    assert missing(pair, client, primary(pair)) == []


@pytest.mark.long
def test_a_replica_that_does_not_have_everything_is_not_promoted(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, run = primary(pair), pair.run(ledger)
    replica = pair.servers[other(old)]
    hold = switching._hold_clients

    def hold_and_lag(*arguments: Any) -> None:
        hold(*arguments)
        # Somebody pauses the replay just now, after it was looked at.
        replica.query("SELECT pg_wal_replay_pause()")
        until(lambda: replica.query("SELECT pg_get_wal_replay_pause_state()") == "paused", "it is paused")

    monkeypatch.setattr(switching, "_hold_clients", hold_and_lag)
    with writer(pair) as client:
        plan = planned(pair, run)
        run.begin_attempt("switch", 120)
        with pytest.raises(switching.SwitchFailedError, match=r"has not replayed as much.* is the primary again"):
            switching.switch_over(run, plan)
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 20, "it writes on")
    assert primary(pair) == old
    assert missing(pair, client, old) == []
    assert not pair.servers[old].state().has_signal
    run.release("over")
    with pytest.raises(SwitchRefusedError, match="replay is paused"):
        planned(pair, again := pair.run(ledger))
    again.release("over")
    replica.query("SELECT pg_wal_replay_resume()")
    until(lambda: replica.state().is_streaming, "the replica streams again")


def test_a_killed_primary_costs_at_most_what_was_shown(pair: SwitchEstate, ledger: Ledger) -> None:
    old, new = primary(pair), other(primary(pair))
    run = pair.run(ledger, emergency=True)
    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 20, "it writes")
        # The replica hears nothing any more: what is committed now will be lost.
        with pair.servers[new].connect() as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
            connection.execute("SELECT pg_reload_conf()")
        until(lambda: pair.servers[new].state().receiver is None, "the replica is cut off")
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 20, "it writes on")
        pair.kill(old)
        plan = planned(pair, run, Kind.UNPLANNED)
        assert plan.loss.commits is not None
        attempt(run, plan)
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 20, "it writes on")
    assert primary(pair) == new
    lost = missing(pair, client, new)
    print(f"\nshown {plan.loss.words}; lost {len(lost)}; rejoined {progress_of(run)['rejoined']}")
    assert 0 < len(lost) <= plan.loss.commits
    until(lambda: pair.servers[old].state().is_streaming, "the old one follows")
    assert missing(pair, client, old) == lost
    assert "rewound" in progress_of(run)["rejoined"]
    run.release("over")


@pytest.mark.long
def test_an_unreachable_primary_is_left_out_and_gets_no_client_when_it_is_back(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = primary(pair), other(primary(pair))
    run = pair.run(ledger, emergency=True)
    whole = pair.environment
    gone = whole.host(old).model_copy(update={"ssh": whole.host(old).ssh.model_copy(update={"port": 1})})
    hosts = tuple(gone if host.name == old else host for host in whole.hosts)
    run.environment = whole.model_copy(update={"hosts": hosts})
    pair.kill(old)
    plan = planned(pair, run, Kind.UNPLANNED)
    assert not plan.old_reachable
    assert "can't be reached" in plan.text(REASON, "thandi", {})
    attempt(run, plan)
    summary = finish_switch(run, [], plan_only=False, may_settle=True)
    assert "IS LEFT OUT" in summary
    run.release("over")

    # It comes back, as the primary it was, and the endpoint is restarted as well.
    assert "started" in pair.control("start", old)
    until(lambda: pair.servers[old].state().is_primary, "it is back, a primary")
    restart_endpoint(pair)
    until(lambda: pair.passes_check(new), "the new process has checked", 15)
    with writer(pair) as client:
        until(lambda: len(client.acknowledged) > 20, "it writes")
    assert missing(pair, client, new) == []
    # Whoever writes begins with a new database: the old primary has none of the same identity.
    identity = f"SELECT string_agg(oid::text, ' ') FROM pg_database WHERE datname = '{DATABASE}'"
    assert pair.servers[old].query(identity) != pair.servers[new].query(identity), "a client has met the old one"
    with pytest.raises(SwitchRefusedError, match="BOTH ARE PRIMARIES"):
        planned(pair, pair.run(ledger))

    again = pair.run(ledger, emergency=True)
    plan = planned(pair, again, Kind.REJOIN)
    assert (plan.old, plan.new) == (old, new)
    again.begin_attempt("rejoin", 120)
    rejoining.rejoin(again, plan, "lindiwe")
    again.begin_attempt("rejoin", 120)
    rejoining.verify(again, plan)
    assert primary(pair) == new
    again.release("over")


def test_a_superseded_run_is_refused_by_the_hosts(pair: SwitchEstate, ledger: Ledger) -> None:
    first, second = pair.run(ledger, emergency=True), pair.run(ledger, emergency=True)
    old = primary(pair)
    plan = planned(pair, first, Kind.UNPLANNED)
    take_lease(second, Kind.UNPLANNED, "switch", REASON, 120)
    with pytest.raises(FencedOffError):
        switching.fail_over(first, plan, "lindiwe")
    assert primary(pair) == old
    endpoint = pair_module.Pair(pair.environment).endpoint_states()["dbendpoint"]
    assert isinstance(endpoint, EndpointState), endpoint
    assert endpoint.leads_to == (old,)
    second.release("over")


@pytest.mark.long
def test_with_the_ledger_down_only_an_emergency_goes_on_and_keeps_a_journal(
    pair: SwitchEstate, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SEBENZA_JOURNAL", str(tmp_path))
    old, new = primary(pair), other(primary(pair))
    run = pair.run(ledger, emergency=True)
    run.ledger = open_journal(run.holder.dag_id, run.holder.run_id)
    assert run.is_journaled
    with pytest.raises(ChangeRefusedError, match="waits for it"):
        planned(pair, run)
    run = pair.run(ledger, emergency=True)
    run.ledger = open_journal(run.holder.dag_id, run.holder.run_id)
    pair.kill(old)
    plan = planned(pair, run, Kind.UNPLANNED)
    attempt(run, plan)
    assert primary(pair) == new
    assert f"{new} is the primary" in finish_switch(run, [], plan_only=False, may_settle=True)
    # What was taken to be the ledger's was kept in the journal, and comes into the ledger.
    assert ledger.deployments.find(run.holder.dag_id, run.holder.run_id) is None
    reconcile_pending(ledger)
    record = ledger.deployments.get(run.holder.dag_id, run.holder.run_id)
    assert record.outcome is Outcome.SUCCEEDED
    assert ledger.audit.entries(environment="production", action=switching.AUDIT_ACTION)[0].detail["from"] == old
