"""Switches of the database's primary: killed on their way, of a pair that is not well, and two at once."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psutil
import psycopg2

from lab import addresses, commit_writer, estate, haproxy, paths, postgres, supervision
from lab.accounts import DATABASE_USER, make_directory
from lab.chaos.drill import Drill
from lab.chaos.moments import FENCE_LOCK
from lab.chaos.run import MissedStateError, Run
from lab.chaos.scenario import SWITCH, Live, Scenario
from lab.commit_writer import CommitWriter
from lab.configuration import PAUSE_MAP
from lab.secrets import lab_secrets

_TASK: Final = "switch_primary"
_QUESTION: Final = "approve_failover"
ENDPOINT: Final = (addresses.address("dbendpoint"), addresses.POSTGRES_PORT)
# Where the owner of the cluster keeps its fence, on a database host.
OWNERS_LOCK: Final = "var/lib/postgresql/sebenza/fence-production.lock"
OTHER: Final = {"db1": "db2", "db2": "db1"}


def _switch(drill: Drill, **conf: Any) -> Run:
    values = {"reason": f"fault test {drill.scenario.name}", **conf}
    return drill.follows(SWITCH, drill.stage.client.trigger(SWITCH, values))


@contextmanager
def _written() -> Iterator[CommitWriter]:
    """A client that writes all the time; its database goes at the end."""
    password = lab_secrets().postgres_superuser
    writer = CommitWriter(ENDPOINT, "postgres", password)
    try:
        with writer:
            yield writer
    finally:
        commit_writer.drop(ENDPOINT, "postgres", password)


def _judge(drill: Drill, writer: CommitWriter, primary: str) -> None:
    """One primary, its replica follows, clients get there, and every acknowledged commit is on both."""
    now = len(writer.acknowledged)
    drill.until(lambda: len(writer.acknowledged) > now + 20, "the client writes on", 60)
    writer.stop()
    found = {host: takes_writes(host) for host in OTHER}
    drill.expect(found == {primary: True, OTHER[primary]: False}, f"not {primary} alone takes writes: {found}")
    drill.expect(postgres.leads_to_production() == primary, f"clients are not led to {primary}")
    drill.until(lambda: postgres.streams(primary, f"{OTHER[primary]}_slot"), "the replica follows", 30)
    drill.until(lambda: not any(_missing(writer, host) for host in OTHER), "both have every acknowledged commit", 20)
    drill.note(
        f"{len(writer.acknowledged)} commits acknowledged, none lost; longest gap {writer.longest_gap_seconds:.1f} s"
    )


def _missing(writer: CommitWriter, host: str) -> int:
    return len(writer.missing((addresses.address(host), addresses.POSTGRES_PORT)))


def takes_writes(host: str) -> bool:
    """Whether a server is a primary, by itself."""
    with postgres.connect(host) as cursor:
        cursor.execute("SELECT NOT pg_is_in_recovery()")
        return bool(cursor.fetchone()[0])


def _killed(reach: Callable[[Drill, Run, str], None]) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        old = postgres.primary_of_production()
        with _written() as writer:
            run = _switch(drill)
            processes = run.until_started(_TASK)
            reach(drill, run, old)
            try:
                processes.kill_task()
            except ProcessLookupError:
                raise MissedStateError(f"{_TASK} was over before it could be killed") from None
            # What held the state is let go, and the next attempt goes on.
            drill.stack.close()
            drill.ends(run, "success")
            drill.expect(run.tasks()[_TASK].try_number > 1, f"{_TASK} was not killed")
            _judge(drill, writer, OTHER[old])

    return play


@contextmanager
def held(host: str, lock: str) -> Iterator[None]:
    """Hold the lock under which a fence is checked: whoever changes the host waits."""
    place = paths.host_files(host) / lock
    if not place.parent.exists():
        make_directory(place.parent, DATABASE_USER)
    with place.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_paused() -> bool:
    """Whether the endpoint lets new connections wait."""
    answer = haproxy.runtime_command("dbendpoint", f"show map {paths.host_root('dbendpoint') / PAUSE_MAP}")
    return not answer.strip().endswith(" 0")


def _while_clients_wait(drill: Drill, run: Run, old: str) -> None:
    run.until(is_paused, "clients wait")


def _while_nobodytakes_writes(drill: Drill, run: Run, old: str) -> None:
    drill.stack.enter_context(held(OTHER[old], OWNERS_LOCK))
    run.until(lambda: (postgres.data_directory(old) / "standby.signal").exists(), "the old primary is to be a replica")
    run.until(lambda: not _writes_anywhere(), "nobody takes writes")


def _writes_anywhere() -> bool:
    try:
        return any(takes_writes(host) for host in OTHER)
    except psycopg2.OperationalError:
        return False


def _before_clients_are_led(drill: Drill, run: Run, old: str) -> None:
    run.until(is_paused, "clients wait")
    drill.stack.enter_context(held("dbendpoint", FENCE_LOCK))
    run.until(lambda: _promoted(OTHER[old]), "the new primary takes writes")


def _promoted(host: str) -> bool:
    try:
        return takes_writes(host)
    except psycopg2.OperationalError:
        return False


def _lagging(drill: Drill) -> None:
    """The replica receives, and replays nothing: it falls behind by more than is allowed."""
    old = postgres.primary_of_production()
    startup = next(
        process
        for process in psutil.Process(supervision.state(OTHER[old], "postgresql").pid).children()
        if "startup" in " ".join(process.cmdline())
    )
    with _written() as writer:
        os.kill(startup.pid, signal.SIGSTOP)
        try:
            with postgres.connect(old) as cursor:
                for _ in range(40):
                    cursor.execute("SELECT pg_logical_emit_message(false, 'chaos', repeat('x', 1000000))")
            run = _switch(drill)
            drill.ends(run, "failed")
            drill.expect("bytes behind" in run.errors(), f"it is not said how far it is behind: {run.errors()}")
        finally:
            os.kill(startup.pid, signal.SIGCONT)
        _judge(drill, writer, old)


def _asked(drill: Drill, **conf: Any) -> tuple[Run, str]:
    """A switch that a person approves; what was shown before."""
    run = _switch(drill, **conf)
    run.until_done(_QUESTION, "awaiting_input")
    body = str(drill.stage.client.hitl_details(SWITCH, run.run_id, _QUESTION)["body"])
    # An answer that comes at once meets Airflow still parking the task.
    time.sleep(3)
    reason = {"reason": "the host's console says that it is dead"}
    drill.stage.approver.answer(SWITCH, run.run_id, _QUESTION, ["Switch the primary"], reason)
    return run, body


def _lagging_promoted(drill: Drill) -> None:
    """The replica gets nothing for a while, then the primary's host dies; and it comes back as the primary it was."""
    old = postgres.primary_of_production()
    new = OTHER[old]
    with _written() as writer:
        drill.until(lambda: len(writer.acknowledged) > 50, "the client writes", 30)
        # What is under way in a connection would still arrive: there is none.
        with postgres.connect(new) as cursor:
            cursor.execute("ALTER SYSTEM SET primary_conninfo = ''")
            cursor.execute("SELECT pg_reload_conf()")
        drill.until(lambda: not postgres.streams(old, f"{new}_slot"), "the replica receives nothing", 30)
        now = len(writer.acknowledged)
        drill.until(lambda: len(writer.acknowledged) > now + 100, "the client writes on", 30)
        supervision.kill_host(old)
        run, body = _asked(drill, kind="unplanned")
        drill.expect("at most the last" in body, f"the question does not say what would be lost: {body[:600]}")
        drill.ends(run, "success")
        now = len(writer.acknowledged)
        drill.until(lambda: len(writer.acknowledged) > now + 20, "the client writes on", 60)
        _loss_as_shown(drill, run, writer, new)
        _old_comes_back(drill, writer, old, new)


def _loss_as_shown(drill: Drill, run: Run, writer: CommitWriter, new: str) -> None:
    shown = float(drill.stage.records.plan(run.dag_id, run.run_id)["loss"]["seconds"])
    lost = {each.number for each in writer.missing((addresses.address(new), addresses.POSTGRES_PORT))}
    drill.expect(len(lost) >= 100, f"only {len(lost)} commits are lost: the replica was not behind")
    died_at = writer.errors[0][0]
    last = max(each.at for each in writer.acknowledged if each.number not in lost and each.at < died_at)
    # What an acknowledgement takes on its way.
    late = [each for each in writer.acknowledged if each.number in lost and each.at > last + shown + 0.2]
    drill.expect(not late, f"{len(late)} lost commits are later than the {shown} s that were shown")
    drill.note(f"{len(lost)} commits lost, within the {shown:.1f} s that were shown")


def _old_comes_back(drill: Drill, writer: CommitWriter, old: str, new: str) -> None:
    estate.start_host(old)
    drill.until(lambda: _promoted(old), "the former primary is back, a primary", 40)
    led = [postgres.leads_to_production() for _ in range(5)]
    drill.expect(set(led) == {new}, f"clients are led to {led}")
    refused = _switch(drill)
    drill.ends(refused, "failed")
    drill.expect("BOTH ARE PRIMARIES" in refused.errors(), f"it is not said that both are: {refused.errors()}")
    rejoined, _ = _asked(drill, kind="rejoin")
    drill.ends(rejoined, "success")
    # What was lost is lost on both; all others are on both.
    there = writer.numbers((addresses.address(new), addresses.POSTGRES_PORT))
    writer.acknowledged = [each for each in writer.acknowledged if each.number in there]
    _judge(drill, writer, new)


def _two_at_once(drill: Drill) -> None:
    old = postgres.primary_of_production()
    with _written() as writer:
        runs = [_switch(drill), _switch(drill)]
        states = sorted(run.until_ended() for run in runs)
        drill.note(f"the runs ended as {' and '.join(states)}")
        drill.expect(states == ["failed", "success"], f"not one of two: {[run.errors() for run in runs]}")
        _judge(drill, writer, OTHER[old])


def _scenario(name: str, fault: str, expects: str, play: Callable[[Drill], None]) -> Scenario:
    return Scenario(
        name=f"switch-{name}",
        fault=fault,
        expects=expects,
        play=play,
        live=Live.OLD,
        has_load=False,
        procedure=SWITCH,
    )


_GOES_ON: Final = "the next attempt goes on: the other server is the primary, and no acknowledged commit is lost"
SCENARIOS: Final = (
    _scenario(
        "killed-while-clients-wait",
        "the task of a planned switch of the database's primary is killed when it has let new connections wait",
        _GOES_ON,
        _killed(_while_clients_wait),
    ),
    _scenario(
        "killed-while-nobody-takes-writes",
        "it is killed when the old primary has stopped, and the new one is not promoted yet",
        _GOES_ON,
        _killed(_while_nobodytakes_writes),
    ),
    _scenario(
        "killed-before-clients-are-led",
        "it is killed when the new one is the primary, and the endpoint has not been told",
        _GOES_ON,
        _killed(_before_clients_are_led),
    ),
    _scenario(
        "of-a-lagging-replica",
        "the replica receives, and replays nothing for 40 MB",
        "the switch is refused before anything is changed, and says how far it is behind",
        _lagging,
    ),
    _scenario(
        "unplanned-of-a-lagging-replica",
        "the replica receives nothing for a hundred commits, then the primary's host dies; it comes back as a primary",
        "what would be lost is shown, and no more is; no client gets to the former primary, which rejoins as a replica",
        _lagging_promoted,
    ),
    _scenario(
        "two-at-once",
        "two planned switches are started in the same moment",
        "one is refused, the other one succeeds: the primary is switched once",
        _two_at_once,
    ),
)
