"""The rules of a switch of the primary: who takes over, when it may, what is lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sebenza_ops.ledger import Outcome
from sebenza_ops.recovery.switch_finish import judge
from sebenza_ops.recovery.switch_plan import (
    Kind,
    Loss,
    NothingToSwitchError,
    Stage,
    SwitchPlan,
    SwitchRefusedError,
    conclusion,
    find_pair,
    loss_by_position,
    loss_by_time,
    loss_by_wal,
    position_reached,
    stage_of,
    warnings_of,
    why_not_ready,
)
from sebenza_ops.systems.database_endpoint import EndpointServer, EndpointState, parse_endpoint_state
from sebenza_ops.systems.database_server import (
    Sender,
    ServerState,
    WalEnd,
    lsn_text,
    parse_lsn,
    parse_rebuild_status,
    parse_server_state,
    parse_wal_end,
    segment_name,
)
from sebenza_ops.systems.errors import HostUnreachableError, NoDataError

LSN = parse_lsn("0/5000060")
UNREACHABLE = HostUnreachableError("no SSH connection", host="db1")


def server(host: str, **values: Any) -> ServerState:
    given: dict[str, Any] = {
        "host": host,
        "running": "yes",
        "detail": "",
        "has_signal": False,
        "control_state": "in production",
        "checkpoint_lsn": LSN - 1000,
        "system_identifier": "7",
        "timeline": 1,
        "lsn": LSN,
        "now": 1000.0,
    }
    return ServerState(**(given | values))


PRIMARY = server("db1", in_recovery=False, senders=(Sender("db2_slot", "streaming", LSN, LSN),), size_bytes=10)
REPLICA = server(
    "db2",
    in_recovery=True,
    has_signal=True,
    receive_lsn=LSN,
    last_commit_at=990.0,
    receiver={"status": "streaming", "host": "192.0.2.31", "slot": "db2_slot"},
)
DOWN = replace(PRIMARY, running="no", in_recovery=None, control_state="shut down", checkpoint_lsn=LSN - 1, lsn=0)
KILLED = replace(DOWN, control_state="in production")
PROMOTED = replace(REPLICA, in_recovery=False, timeline=2, receiver=None)
ENDPOINT = EndpointState(
    "dbendpoint",
    {"db1": EndpointServer("db1", True, False, 3, 100), "db2": EndpointServer("db2", False, False, 0, 100)},
    now_milliseconds=1_000_000,
)
PLAN = SwitchPlan(
    environment="production",
    kind=Kind.PLANNED,
    old="db1",
    new="db2",
    system_identifier="7",
    timeline=1,
    lsn=LSN,
    loss=Loss(size_bytes=0, basis="b"),
    old_words="a primary",
    new_words="a replica",
)


def test_positions_are_written_as_postgresql_does() -> None:
    assert lsn_text(parse_lsn("A/FF000060")) == "A/FF000060"
    assert segment_name(1, parse_lsn("0/5000060")) == "000000010000000000000005"
    assert segment_name(18, parse_lsn("A/FF000060")) == "000000120000000A000000FF"


@pytest.mark.parametrize(
    ("kind", "first", "second", "expected"),
    [
        (Kind.PLANNED, PRIMARY, REPLICA, ("db1", "db2")),
        (Kind.UNPLANNED, PRIMARY, REPLICA, ("db1", "db2")),
        (Kind.UNPLANNED, KILLED, REPLICA, ("db1", "db2")),
        (Kind.UNPLANNED, UNREACHABLE, REPLICA, ("db1", "db2")),
        (Kind.UNPLANNED, replace(REPLICA, host="db1", lsn=LSN + 9), REPLICA, ("db2", "db1")),
        (Kind.REJOIN, PRIMARY, PROMOTED, ("db1", "db2")),
        (Kind.REJOIN, KILLED, PROMOTED, ("db1", "db2")),
        (Kind.REJOIN, UNREACHABLE, PROMOTED, ("db1", "db2")),
    ],
)
def test_who_takes_over_from_whom(kind: Kind, first: Any, second: Any, expected: tuple[str, str]) -> None:
    assert find_pair(kind, {"db1": first, "db2": second}) == expected


@pytest.mark.parametrize(
    ("kind", "first", "second", "words"),
    [
        (Kind.PLANNED, KILLED, REPLICA, "choose the kind `unplanned`"),
        (Kind.PLANNED, UNREACHABLE, REPLICA, "no SSH connection"),
        (Kind.PLANNED, PRIMARY, DOWN, "needs a primary and its replica"),
        (Kind.PLANNED, PRIMARY, PROMOTED, "BOTH ARE PRIMARIES"),
        (Kind.UNPLANNED, PRIMARY, PROMOTED, "BOTH ARE PRIMARIES"),
        (Kind.UNPLANNED, KILLED, replace(REPLICA, running="unresponsive", in_recovery=None), "no replica"),
        (Kind.UNPLANNED, KILLED, PROMOTED, "no replica"),
        (Kind.REJOIN, KILLED, REPLICA, "no primary to follow"),
    ],
)
def test_what_can_not_be_is_refused(kind: Kind, first: Any, second: Any, words: str) -> None:
    with pytest.raises(SwitchRefusedError, match=words):
        find_pair(kind, {"db1": first, "db2": second})


def test_a_pair_is_a_pair_and_one_that_follows_needs_nothing() -> None:
    with pytest.raises(SwitchRefusedError, match="3 database hosts"):
        find_pair(Kind.PLANNED, {"db1": PRIMARY, "db2": REPLICA, "db3": REPLICA})
    with pytest.raises(NothingToSwitchError, match="follows db2 already"):
        find_pair(Kind.REJOIN, {"db1": replace(REPLICA, host="db1", timeline=2), "db2": PROMOTED})


@pytest.mark.parametrize(
    ("old", "new", "stage"),
    [
        (PRIMARY, REPLICA, Stage.READY),
        (DOWN, REPLICA, Stage.STOPPED),
        (UNREACHABLE, REPLICA, Stage.STOPPED),
        (replace(REPLICA, host="db1"), REPLICA, Stage.STOPPED),
        (DOWN, PROMOTED, Stage.PROMOTED),
        (PRIMARY, PROMOTED, Stage.PROMOTED),
    ],
)
def test_the_estate_says_how_far_it_has_come(old: Any, new: ServerState, stage: Stage) -> None:
    assert stage_of(PLAN, {"db1": old, "db2": new}) is stage


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (UNREACHABLE, "can't be asked"),
        (replace(REPLICA, system_identifier="8"), "another cluster"),
        (replace(PROMOTED, timeline=1), "without having been promoted"),
        (replace(REPLICA, running="no", in_recovery=None), "no replica that answers"),
    ],
)
def test_what_no_step_leaves_is_refused(new: Any, words: str) -> None:
    with pytest.raises(SwitchRefusedError, match=words):
        stage_of(PLAN, {"db1": DOWN, "db2": new})


def not_ready(old: Any = PRIMARY, new: Any = REPLICA, endpoint: Any = ENDPOINT) -> str:
    endpoints = {"dbendpoint": endpoint} if endpoint is not None else {}
    return "; ".join(why_not_ready("db1", "db2", {"db1": old, "db2": new}, endpoints, "db2_slot", 100))


def test_a_pair_that_is_well_may_be_switched() -> None:
    assert not_ready() == ""
    assert not_ready(replace(PRIMARY, lsn=LSN + 100)) == ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"old": UNREACHABLE}, "no SSH connection"),
        ({"old": replace(PRIMARY, lsn=LSN + 101)}, "101 bytes behind, 100 are allowed"),
        ({"old": replace(PRIMARY, timeline=2)}, "db1 is on timeline 2"),
        ({"old": replace(PRIMARY, system_identifier="8")}, "not of one cluster"),
        ({"old": replace(PRIMARY, senders=())}, "does not use the slot db2_slot on db1 .used: none."),
        ({"new": replace(REPLICA, receiver=None)}, "does not stream from db1"),
        ({"new": replace(REPLICA, replay_paused=True)}, "pg_wal_replay_resume"),
        ({"endpoint": None}, "no host with the role database_endpoint"),
        ({"endpoint": replace(ENDPOINT, servers={})}, "leads to nobody"),
        ({"endpoint": HostUnreachableError("gone", host="dbendpoint")}, "dbendpoint: gone"),
    ],
)
def test_a_pair_that_is_not_well_is_not_switched(changed: dict[str, Any], words: str) -> None:
    import re

    assert re.search(words, not_ready(**changed)), not_ready(**changed)


def test_a_server_that_was_taken_away_keeps_a_planned_switch_from_it() -> None:
    away = replace(ENDPOINT, servers={**ENDPOINT.servers, "db2": EndpointServer("db2", False, True, 0, 1)})
    assert "has taken away db2" in not_ready(endpoint=away)


def test_everything_is_there_only_when_that_is_sure() -> None:
    assert position_reached(DOWN, REPLICA) == LSN
    assert position_reached(DOWN, replace(REPLICA, lsn=LSN - 1)) is None
    assert position_reached(KILLED, replace(REPLICA, lsn=LSN + 999)) is None, "one that was killed has no last record"
    assert position_reached(PRIMARY, REPLICA) is None
    assert position_reached(UNREACHABLE, REPLICA) is None
    assert position_reached(replace(REPLICA, host="db1"), REPLICA) == LSN
    assert position_reached(replace(REPLICA, host="db1", lsn=LSN + 1), REPLICA) is None
    assert position_reached(replace(REPLICA, host="db1", lsn=0), REPLICA) is None
    assert position_reached(replace(DOWN, running="unresponsive"), REPLICA) is None


def test_the_loss_is_counted_where_it_can_be() -> None:
    at = datetime.fromtimestamp(992.5, UTC)
    counted = loss_by_wal(WalEnd(LSN + 500, 3, at, at), REPLICA)
    assert (counted.size_bytes, counted.commits, counted.seconds) == (500, 3, 2.5)
    assert counted.words.startswith("3 committed transactions, 500 bytes of WAL, at most the last 2.5 s")
    assert loss_by_wal(WalEnd(LSN + 500, 0), REPLICA).words == "nothing (counted in its WAL)"
    assert loss_by_position(replace(PRIMARY, lsn=LSN + 7), REPLICA).size_bytes == 7


def test_without_the_old_primary_the_loss_is_a_time() -> None:
    down = replace(ENDPOINT, servers={**ENDPOINT.servers, "db1": EndpointServer("db1", False, False, 0, 4)})
    seen = loss_by_time(REPLICA, {"dbendpoint": down}, "db1", "db1 can't be reached")
    assert (seen.seconds, seen.size_bytes, seen.commits) == (6.0, None, None)
    unseen = loss_by_time(REPLICA, {"dbendpoint": ENDPOINT}, "db1", "db1 can't be reached")
    assert unseen.seconds == 10.0
    never = loss_by_time(replace(REPLICA, last_commit_at=None), {}, "db1", "db1 can't be reached")
    assert never.words.startswith("not known (")
    # By the dead primary's clock: one that was ahead would call any loss none.
    assert REPLICA.last_commit_at is not None
    ahead = replace(REPLICA, last_commit_at=REPLICA.now + 60)
    told = loss_by_time(ahead, {"dbendpoint": ENDPOINT}, "db1", "db1 can't be reached")
    assert told.seconds is None
    assert "60 s after now: that clock was ahead" in told.words


def test_the_question_says_what_approving_accepts() -> None:
    text = PLAN.text("maintenance of db1", "thandi", {"thandi": "requester"})
    assert "Lost: **nothing (b)**" in text
    assert "May not approve: thandi (requester)" in text
    gone = PLAN.model_copy(update={"kind": Kind.UNPLANNED, "old_reachable": False})
    assert "can't be reached, so it can't be stopped" in gone.text("r", "thandi", {})
    back = PLAN.model_copy(update={"kind": Kind.REJOIN})
    assert "Discarded on it" in back.text("r", "thandi", {})


def test_people_are_warned_of_what_they_may_not_know() -> None:
    new = replace(REPLICA, synchronous="db3", tablespaces=1, replay_paused=True)
    found = " ".join(warnings_of(Kind.UNPLANNED, PRIMARY, new))
    for word in ("a planned switch would lose nothing", "waits for synchronous", "tablespaces", "replay is paused"):
        assert word in found
    assert warnings_of(Kind.PLANNED, PRIMARY, REPLICA) == ()


@pytest.mark.parametrize(
    ("failed", "stage", "values", "outcome"),
    [
        ([], Stage.PROMOTED, {}, Outcome.SUCCEEDED),
        ([], None, {"plan_only": True}, Outcome.PLANNED),
        (["plan_switch"], None, {"has_plan": False}, Outcome.REFUSED),
        (["approve_failover"], None, {"has_changed": False}, Outcome.REFUSED),
        (["approve_failover"], None, {"rejected": True}, Outcome.REJECTED),
        (["switch_primary"], Stage.READY, {}, Outcome.ROLLED_BACK),
        (["switch_primary"], Stage.STOPPED, {}, Outcome.FAILED),
        (["rejoin_old_primary"], Stage.PROMOTED, {}, Outcome.FAILED),
    ],
)
def test_how_a_run_ended(failed: list[str], stage: Stage | None, values: dict[str, bool], outcome: Outcome) -> None:
    given = {"plan_only": False, "has_plan": True, "has_changed": True, "rejected": False} | values
    assert judge(failed, stage, **given) is outcome


def test_the_summary_says_who_is_the_primary() -> None:
    done = conclusion(PLAN, [], Stage.PROMOTED, is_left_out=False, pause_ms=900)
    assert done == "production: db2 is the primary, in place of db1; clients waited for 900 ms"
    left = PLAN.model_copy(update={"kind": Kind.UNPLANNED})
    assert "IS LEFT OUT" in conclusion(left, [], Stage.PROMOTED, is_left_out=True, pause_ms=0)
    stopped = conclusion(PLAN, ["switch_primary"], Stage.STOPPED, is_left_out=False, pause_ms=0)
    assert "NO SERVER TAKES WRITES" in stopped


@pytest.mark.parametrize("text", ["", "yes {}\n-\n", "no\n-\nDatabase cluster state: x\n", "perhaps\n-\n"])
def test_a_state_that_can_not_be_read_is_no_state(text: str) -> None:
    with pytest.raises(NoDataError, match="db1"):
        parse_server_state(text, "db1")


@pytest.mark.parametrize("text", ["", "unknown no such file", "0/5 x |", "0/5"])
def test_an_end_that_can_not_be_told_is_no_end(text: str) -> None:
    with pytest.raises(NoDataError):
        parse_wal_end(text, "db1")


def test_other_answers_that_can_not_be_read_are_none() -> None:
    assert parse_wal_end("00000000/05000060 0 |", "db1") == WalEnd(LSN, 0)
    with pytest.raises(NoDataError):
        parse_rebuild_status("done\n{}", "db1")
    with pytest.raises(NoDataError):
        parse_endpoint_state("== servers\n== stat\n== pause\n== file\n== now\n", "dbendpoint")
