"""A ledger after some days of work in production."""

from __future__ import annotations

from sebenza_ops.evidence.facts import Fact, record, record_all, utc_now
from sebenza_ops.ledger import BackupKind, BackupSet, Holder, Ledger, Outcome
from sebenza_ops.ledger.findings import OPENED
from sebenza_ops.recovery.disaster_measures import DRILLED_ACTION
from tests.evidence import samples

DAG_ID = samples.DAG_ID
FINISHED_RUN = "manual__2026-11-23T08:00:00+00:00"
ROLLED_BACK_RUN = "manual__2026-11-23T08:30:00+00:00"
RUNNING_RUN = "manual__2026-11-23T08:57:30+00:00"
SERIES = ("traffic", "latency")


def deploy(
    ledger: Ledger,
    run_id: str,
    version: str,
    outcome: Outcome | None = None,
    detail: str = "",
    environment: str = "production",
    from_color: str = "blue",
    to_color: str = "green",
) -> None:
    dag_id = f"deploy_blue_green.{environment}"
    ledger.deployments.start(environment, dag_id, run_id, "thandi", version, f"{version}-9f31c02ab7de", "blue_green")
    ledger.deployments.update(
        dag_id,
        run_id,
        from_color=from_color,
        to_color=to_color,
        previous_release_id="v1.0.0-0a1b2c3d4e5f",
        phase="baking",
    )
    if outcome is not None:
        ledger.deployments.finish(dag_id, run_id, outcome, detail)


def fill(ledger: Ledger) -> None:
    """Two finished deployments with evidence, one refused, one under way with its lease; one in staging."""
    deploy(ledger, "manual__2026-11-22T14:00:00+00:00", "v9.9.9", Outcome.REFUSED, "v9.9.9 is no tag of the repository")
    deploy(
        ledger, FINISHED_RUN, "v1.0.0", Outcome.SUCCEEDED, "v1.0.0 is live on blue", from_color="green", to_color="blue"
    )
    deploy(ledger, ROLLED_BACK_RUN, "v1.1.0-late-5xx", Outcome.ROLLED_BACK, "8.1% errors on green, limit 5.0%")
    keep(ledger, ROLLED_BACK_RUN, samples.rolled_back_facts())
    deploy(ledger, RUNNING_RUN, "v1.1.0")
    keep(ledger, RUNNING_RUN, samples.in_progress_facts())
    ledger.leases.acquire("production", Holder(DAG_ID, RUNNING_RUN, "thandi"), "deployment of v1.1.0", 120)
    keep_recovery(ledger)
    deploy(ledger, "ci__77", "v1.1.0", Outcome.SUCCEEDED, "v1.1.0 is live on green", environment="staging")


def keep_recovery(ledger: Ledger) -> None:
    """What is known of production's recovery: a loss, a set that was restored, a drill and what it has found."""
    watch = Holder("watch_recovery_point.production", "scheduled__1", "scheduler")
    ledger.recovery_points.record("production", 42.0, "nothing waits", 3600, watch)
    made = BackupSet(
        "production",
        BackupKind.PHYSICAL,
        "20261122-003000F",
        "full",
        utc_now(),
        utc_now(),
        1_200_000_000,
        400_000_000,
        detail={
            "restore_test": {
                "restore_seconds": 22.0,
                "replay_seconds": 3.0,
                "projection": {"seconds": 5400.0, "low_seconds": 4200.0, "high_seconds": 7000.0, "basis": []},
            }
        },
    )
    ledger.backup_sets.record(made)
    ledger.backup_sets.mark_restored("production", made.kind, made.label)
    drill = "disaster_recovery_drill.production/scheduled__1"
    measured = {"run": drill, "rto_from_start_seconds": 31.8, "rpo_seconds": 4000.0}
    ledger.audit.append(DRILLED_ACTION, "scheduler", "production", "secondary", measured)
    finding = {"run": drill, "owner": "devops", "finding": "RPO: 4000 s, objective 3600 s: MISSED"}
    ledger.audit.append(OPENED, "scheduler", "production", "RPO", finding)


def keep(ledger: Ledger, run_id: str, facts: list[Fact]) -> None:
    for fact in facts:
        if fact.kind not in SERIES:
            record(ledger, DAG_ID, run_id, fact)
    record_all(ledger, DAG_ID, run_id, [fact for fact in facts if fact.kind in SERIES])
