"""What a drill makes of its measures: met, or a finding with an owner and a failure; and the mean over drills."""

from __future__ import annotations

from typing import Any

import pytest

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Color
from sebenza_ops.ledger import Holder, Ledger, Outcome
from sebenza_ops.recovery.disaster_drill import FINDING_SUBJECT, DrillMissedError, DrillPlan, isolated, judge_drill
from sebenza_ops.recovery.disaster_finish import FINDING_ACTION
from sebenza_ops.recovery.disaster_measures import DRILLED_ACTION
from sebenza_ops.recovery.disaster_record import start_record
from sebenza_ops.recovery.drill_finish import finish_drill
from sebenza_ops.systems.drill_instance import RestoredCopy
from tests.systems.estates import changed

COPY = RestoredCopy(20.0, 2.0, last_commit_at=990.0, restored_bytes=10**9, system_identifier="7")


def plan(**values: Any) -> DrillPlan:
    given: dict[str, Any] = {
        "environment": "production",
        "site": "secondary",
        "database_host": "db3",
        "application_host": "app4",
        "release_id": "v1",
        "color": Color.GREEN,
        "port": 5499,
        "size_bytes": 1,
        "started_at": 1000.0,
        "known_commit_at": 992.0,
    }
    return DrillPlan(**(given | values))


def run(ledger: Ledger, number: int = 1, **objectives: float) -> ChangeRun:
    shipped = changed("production")
    promised = shipped.policies.objectives.model_copy(update=objectives)
    policies = shipped.policies.model_copy(update={"objectives": promised})
    holder = Holder("disaster_recovery_drill.production", f"scheduled__{number}", "scheduler")
    made = ChangeRun(ledger, shipped.model_copy(update={"policies": policies}), holder)
    start_record(made, "drill")
    return made


def findings(ledger: Ledger) -> list[dict[str, Any]]:
    return [dict(entry.detail) for entry in ledger.audit.entries(environment="production", action=FINDING_ACTION)]


def test_what_is_met_is_no_finding_and_the_loss_is_what_the_standby_had_more(ledger: Ledger) -> None:
    text = judge_drill(run(ledger), plan(), COPY, served_at=1060.0)
    assert "RTO from the declared start: 60.0 s, objective 14400 s: met" in text
    assert "RPO: 2.0 s" in text
    assert findings(ledger) == []
    drilled = ledger.audit.entries(environment="production", action=DRILLED_ACTION)[0].detail
    assert (drilled["rto_seconds"], drilled["rpo_seconds"], drilled["restored_bytes"]) == (60.0, 2.0, 10**9)


def test_a_miss_fails_loudly_once_with_an_owner(ledger: Ledger) -> None:
    slow = run(ledger, rto_seconds=30)
    for _ in range(2):
        with pytest.raises(DrillMissedError, match=r"RTO from the last good probe: 60\.0 s, objective 30 s: MISSED"):
            judge_drill(slow, plan(), COPY, served_at=1060.0)
    assert [(each["owner"], "MISSED" in each["finding"]) for each in findings(ledger)] == [("devops", True)]
    assert len(ledger.audit.entries(environment="production", action=DRILLED_ACTION)) == 1, "it counts once"
    assert ledger.audit.entries(action=FINDING_ACTION)[0].subject == FINDING_SUBJECT


def test_the_mean_is_over_all_drills(ledger: Ledger) -> None:
    judge_drill(run(ledger, 1), plan(), COPY, served_at=1100.0)
    with pytest.raises(DrillMissedError, match=r"MTTR: 80\.0 s, objective 70 s: MISSED"):
        judge_drill(run(ledger, 2, mttr_seconds=70), plan(), COPY, served_at=1060.0)


def test_what_the_standby_does_not_tell_is_measured_from_the_start(ledger: Ledger) -> None:
    assert "RPO: 10.0 s" in judge_drill(run(ledger), plan(known_commit_at=None), COPY, served_at=1060.0)


def test_a_step_that_fails_is_a_finding_too(ledger: Ledger) -> None:
    failed = run(ledger)
    assert "THE DRILL HAS FAILED at restore_copy" in finish_drill(failed, ["restore_copy"])
    assert ledger.deployments.get(failed.holder.dag_id, failed.holder.run_id).outcome is Outcome.FAILED
    assert findings(ledger)[0]["owner"] == "devops"
    # One that was refused before it began says nothing about the site.
    assert "nothing was touched" in finish_drill(run(ledger, 2), ["plan_drill"])
    assert len(findings(ledger)) == 1


def test_the_drills_application_sees_the_copy_and_alerts_nobody() -> None:
    placed = changed("production").at_site("secondary")
    alone = isolated(placed, plan())
    assert alone.database.endpoint == "198.51.100.33:5499"
    assert alone.alerts_webhook_conn_id is None
