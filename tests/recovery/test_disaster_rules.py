"""The rules of a disaster recovery: what is lost, what is recommended, how far it has come, what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from sebenza_ops.environments.models import Dns
from sebenza_ops.environments.policies import Objectives
from sebenza_ops.ledger import Outcome
from sebenza_ops.recovery.disaster_dns import not_yet
from sebenza_ops.recovery.disaster_fence import still_alive
from sebenza_ops.recovery.disaster_finish import judge
from sebenza_ops.recovery.disaster_measures import (
    Measures,
    compare,
    durations_of,
    mean_time_to_recover,
    missed,
)
from sebenza_ops.recovery.disaster_rules import (
    Component,
    ComponentVerdict,
    DisasterType,
    Findings,
    Sighting,
    Stage,
    Standing,
    Verdict,
    isolated_places,
    judge_components,
    judge_site,
    lost_words,
    recommend,
    stage_of_recovery,
    why_not_promotable,
)
from sebenza_ops.recovery.switch_plan import Loss
from sebenza_ops.systems.dns_records import Answer
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.reachability import parse_sightings

DB = Component(site="primary", host="db1", what="PostgreSQL", address="192.0.2.31", port=5432)
LB = Component(site="primary", host="lb1", what="HTTPS", address="192.0.2.11", port=443)
DB3 = Component(site="secondary", host="db3", what="PostgreSQL", address="198.51.100.33", port=5432)


def seen(place: str, **reached: bool | None) -> list[Sighting]:
    components = {"db": DB, "lb": LB, "db3": DB3}
    return [Sighting(place=place, component=components[name], reached=found) for name, found in reached.items()]


def verdicts(*sightings: list[Sighting]) -> dict[str, Verdict]:
    return {
        each.component.host: each.verdict for each in judge_components([each for part in sightings for each in part])
    }


def test_what_nobody_reaches_is_lost_and_what_some_reach_is_cut_off() -> None:
    worker, app4 = seen("worker", db=False, lb=False, db3=True), seen("app4", db=False, lb=True, db3=True)
    assert verdicts(worker, app4) == {"db1": Verdict.LOST, "lb1": Verdict.CUT_OFF, "db3": Verdict.UP}
    cut = next(each for each in judge_components(worker + app4) if each.verdict is Verdict.CUT_OFF)
    assert "reached from app4; not from worker" in cut.words


def test_a_place_that_reaches_nothing_is_no_witness_against_a_site() -> None:
    worker, app4 = seen("worker", db=False, lb=False, db3=False), seen("app4", db=True, lb=True, db3=True)
    assert isolated_places(worker + app4) == {"worker"}
    assert set(verdicts(worker, app4).values()) == {Verdict.UP}


def test_when_no_place_reaches_anything_it_is_lost_and_not_unknown() -> None:
    worker, app4 = seen("worker", db=False, db3=False), seen("app4", db=None, db3=None)
    assert set(verdicts(worker, app4).values()) == {Verdict.LOST}


def test_nobody_could_look_is_unknown() -> None:
    assert set(verdicts(seen("app4", db=None), seen("lb3", db=None)).values()) == {Verdict.UNKNOWN}


@pytest.mark.parametrize(
    ("db", "lb", "expected"),
    [
        (False, False, Verdict.LOST),
        (True, True, Verdict.UP),
        (False, True, Verdict.CUT_OFF),
        (None, None, Verdict.UNKNOWN),
        (None, False, Verdict.LOST),
    ],
)
def test_a_site_is_lost_only_when_all_of_it_is(db: bool | None, lb: bool | None, expected: Verdict) -> None:
    judged = judge_components(seen("worker", db=db, lb=lb, db3=True))
    assert judge_site("primary", judged) is expected
    assert judge_site("elsewhere", judged) is Verdict.UNKNOWN


def test_what_is_not_up_is_listed_by_site() -> None:
    judged = judge_components(seen("worker", db=False, lb=True, db3=True))
    assert lost_words(judged) == "- primary: PostgreSQL on db1: lost"
    assert "every place" in lost_words(judge_components(seen("worker", db3=True)))


def test_a_server_that_anybody_still_reaches_or_nobody_could_look_at_counts_as_alive() -> None:
    def look(verdict: Verdict) -> list[ComponentVerdict]:
        return [ComponentVerdict(component=DB, verdict=verdict)]

    for verdict in (Verdict.UP, Verdict.CUT_OFF, Verdict.UNKNOWN):
        assert still_alive(look(verdict), ("db1",)) == ["db1"]
    assert still_alive(look(Verdict.LOST), ("db1",)) == []
    assert still_alive(look(Verdict.UP), ("db2",)) == []


def found(**values: Any) -> Findings:
    given: dict[str, Any] = {
        "site": Verdict.LOST,
        "failover_loss": Loss(seconds=2, basis="b"),
        "repository_loss": Loss(seconds=50, basis="b"),
        "critical_tables": ("public.orders",),
    }
    return Findings(**(given | values))


@pytest.mark.parametrize(
    ("findings", "kind", "says"),
    [
        (found(), DisasterType.FAILOVER, "standby can take over"),
        (found(primary_answers=True), None, "would lose what it has"),
        (found(site=Verdict.CUT_OFF, replica_answers=True), None, "`switch_database_primary`"),
        # A replica at a site that is lost can't have been seen; if it was, nobody else there works.
        (found(replica_answers=True), DisasterType.FAILOVER, "primary site is lost"),
        (found(standby_problem="it is late"), DisasterType.FULL, "it is late"),
        (found(standby_problem="late", restore_seconds=10_000), DisasterType.FULL, "about 10000 s"),
        (found(standby_problem="late", restore_seconds=20_000), DisasterType.PARTIAL, "public.orders"),
        (
            found(standby_problem="late", restore_seconds=20_000, partial_problem="there is no dump"),
            DisasterType.FULL,
            "critical tables can't come first: there is no dump",
        ),
        (
            found(standby_problem="late", restore_seconds=20_000, partial_loss=Loss(seconds=9000, basis="the dump")),
            DisasterType.PARTIAL,
            "which lacks at most the last 9000.0 s of commits",
        ),
        (found(standby_problem="late", restore_seconds=20_000, critical_tables=()), DisasterType.FULL, "20000"),
        (found(standby_problem="late", repository_problem="its key is gone"), None, "its key is gone"),
    ],
)
def test_what_loses_least_of_what_is_possible_is_recommended(
    findings: Findings, kind: DisasterType | None, says: str
) -> None:
    advice = recommend(findings)
    assert advice.kind is kind
    assert says in advice.words


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (Standing(), Stage.DECLARED),
        (Standing(is_fenced=True), Stage.FENCED),
        (Standing(is_fenced=True, is_serving=True), Stage.FENCED),
        # Its fence can't be seen any more, but it was promoted.
        (Standing(is_writable=True), Stage.WRITABLE),
        (Standing(is_fenced=False, is_writable=True, is_serving=True), Stage.SERVING),
        (Standing(is_fenced=True, is_writable=True, is_serving=True, is_led=True), Stage.LED),
        (Standing(is_led=True), Stage.DECLARED),
    ],
)
def test_the_estate_tells_the_stage(standing: Standing, expected: Stage) -> None:
    assert stage_of_recovery(standing) is expected


def test_a_standby_of_another_cluster_or_too_far_behind_is_not_recommended() -> None:
    good: dict[str, Any] = {
        "system_identifier": "7",
        "expected_identifier": "7",
        "lag_seconds": 3600.0,
        "lag_limit_seconds": 3600.0,
    }
    assert why_not_promotable(**good) == []
    assert why_not_promotable(**good | {"expected_identifier": ""}) == []
    assert "of the cluster 7, not of 8" in why_not_promotable(**good | {"expected_identifier": "8"})[0]
    assert "3601 s behind" in why_not_promotable(**good | {"lag_seconds": 3601.0})[0]
    # No data is not good news.
    assert "can't be told" in why_not_promotable(**good | {"lag_seconds": None})[0]


def test_times_are_measured_from_the_last_good_probe_and_from_the_start() -> None:
    measures = Measures(declared_at=1100, last_good_at=1000, served_at=1160, last_kept_at=990)
    assert (measures.rto_seconds, measures.rto_from_start_seconds, measures.rpo_seconds) == (160, 60, 10)
    assert measures.model_copy(update={"lost_seconds": 0.0}).rpo_seconds == 0
    assert Measures(declared_at=1100).rpo_seconds is None


def test_what_was_not_measured_is_a_miss_and_the_mean_is_over_all_runs() -> None:
    objectives = Objectives(rto_seconds=100, rpo_seconds=10, mttr_seconds=120)
    measures = Measures(declared_at=1100, last_good_at=1000, served_at=1160, last_kept_at=990)
    before = durations_of([{"rto_seconds": 60.0}, {"rto_from_start_seconds": 20.0}, {}])
    assert before == [60.0, 20.0]
    judged = {each.name: each for each in compare(measures, objectives, before)}
    assert [each.name for each in missed(list(judged.values()))] == ["RTO from the last good probe"]
    assert judged["MTTR"].measured_seconds == pytest.approx(80)
    assert "MISSED" in judged["RTO from the last good probe"].words
    assert mean_time_to_recover([]) is None
    assert len(missed(compare(Measures(declared_at=0), objectives, []))) == 4


def test_a_run_that_has_changed_nothing_is_refused_and_not_failed() -> None:
    assert judge([], plan_only=False, has_changed=True, rejected=False) is Outcome.SUCCEEDED
    assert judge(["assess"], plan_only=False, has_changed=False, rejected=False) is Outcome.REFUSED
    assert judge(["lead_users"], plan_only=False, has_changed=True, rejected=False) is Outcome.FAILED
    assert judge(["approve_recovery"], plan_only=False, has_changed=False, rejected=True) is Outcome.REJECTED


NEW, OLD = Answer(("198.51.100.13",), 30), Answer(("192.0.2.11",), 200)
SILENT = Answer(error="timed out")
DNS = Dns(
    backend="rfc2136",
    conn_id="c",
    zone="sebenza.com",
    names=("app.sebenza.com",),
    servers=("a:53", "b:53"),
    resolvers=("r:53", "s:53"),
)


@pytest.mark.parametrize(
    ("found", "may_be_gone", "waited_for"),
    [
        ({"a:53": NEW, "b:53": NEW, "r:53": NEW, "s:53": NEW}, False, ""),
        # A server that is gone with its site answers nobody anything wrong.
        ({"a:53": SILENT, "b:53": NEW, "r:53": NEW, "s:53": NEW}, True, ""),
        ({"a:53": SILENT, "b:53": NEW, "r:53": NEW, "s:53": NEW}, False, "a:53"),
        # Old addresses are waited for, however long it takes.
        ({"a:53": SILENT, "b:53": NEW, "r:53": OLD, "s:53": NEW}, True, "r:53"),
        # One of each must answer.
        ({"a:53": SILENT, "b:53": NEW, "r:53": SILENT, "s:53": SILENT}, True, "r:53"),
        ({"a:53": SILENT, "b:53": SILENT, "r:53": NEW, "s:53": NEW}, True, "a:53"),
    ],
)
def test_dns_counts_when_nobody_answers_anything_else(
    found: dict[str, Answer], may_be_gone: bool, waited_for: str
) -> None:
    said = not_yet(DNS, found, ("198.51.100.13",), silent_may_be_gone=may_be_gone)
    assert waited_for in said if waited_for else not said


def test_a_cut_off_answer_of_a_place_is_no_sighting() -> None:
    assert parse_sightings("tcp:a:1 yes\ntcp:b:2 no\n", ["tcp:a:1", "tcp:b:2"], "app4") == {
        "tcp:a:1": True,
        "tcp:b:2": False,
    }
    with pytest.raises(NoDataError, match="tcp:b:2"):
        parse_sightings("tcp:a:1 yes\n", ["tcp:a:1", "tcp:b:2"], "app4")
