"""What the overview says about environments, from a real ledger."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sebenza_ops.console.overview import build_overview, deployment_row, lease_sentence, live_state
from sebenza_ops.console.runs import AirflowRun
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.evidence.facts import OutcomeFact, record, utc_now
from sebenza_ops.ledger import Ledger, Outcome
from tests.console.samples import DAG_ID, RUNNING_RUN, deploy, fill

READABLE = {"deploy_blue_green.production", "deploy_blue_green.staging"}


def running(run_id: str) -> dict[tuple[str, str], AirflowRun]:
    return {(DAG_ID, run_id): AirflowRun(DAG_ID, run_id, "running", utc_now(), None, "thandi")}


def test_the_page_tells_what_is_live_who_works_and_what_happened(ledger: Ledger) -> None:
    fill(ledger)
    page = build_overview(load_inventory(), ledger, READABLE, running(RUNNING_RUN), utc_now())
    assert [environment.name for environment in page.environments] == ["production", "staging"]
    production, staging = page.environments
    assert (production.live.color, production.live.release_id) == ("blue", "v1.0.0-0a1b2c3d4e5f")
    assert "v1.1.0 is being deployed since" in production.live.note
    assert production.lease_is_held
    assert production.lease.startswith("deployment of v1.1.0, by thandi with deploy_blue_green.production, for 0.")
    words = [(row["version"], row["word"]) for row in production.deployments]
    assert words == [
        ("v1.1.0", "In progress"),
        ("v1.1.0-late-5xx", "Rolled back"),
        ("v1.0.0", "Succeeded"),
        ("v9.9.9", "Refused"),
    ]
    assert not staging.lease_is_held
    assert staging.lease == "Free: nobody is changing it"


def test_environments_without_a_readable_dag_are_left_out(ledger: Ledger) -> None:
    fill(ledger)
    page = build_overview(load_inventory(), ledger, {"deploy_blue_green.staging"}, {}, utc_now())
    assert [environment.name for environment in page.environments] == ["staging"]
    assert build_overview(load_inventory(), ledger, set(), {}, utc_now()).environments == []


def test_deployments_of_dags_that_are_not_readable_are_left_out(ledger: Ledger) -> None:
    fill(ledger)
    page = build_overview(load_inventory(), ledger, {"check_environment.production"}, {}, utc_now())
    assert page.environments[0].deployments == []


@pytest.mark.parametrize(
    ("outcome", "color", "release_id"),
    [
        (Outcome.SUCCEEDED, "green", "v2-9f31c02ab7de"),
        (Outcome.ROLLED_BACK, "blue", "v1.0.0-0a1b2c3d4e5f"),
        (Outcome.PLANNED, "green", "v1-9f31c02ab7de"),
        (Outcome.REFUSED, "green", "v1-9f31c02ab7de"),
        (Outcome.FAILED, None, None),
        (Outcome.SPLIT, None, None),
    ],
)
def test_what_is_live_after_an_outcome(
    ledger: Ledger, outcome: Outcome, color: str | None, release_id: str | None
) -> None:
    deploy(ledger, "one", "v1", Outcome.SUCCEEDED)
    deploy(ledger, "two", "v2", outcome, "because")
    live = live_state("production", ledger, {})
    assert (live.color, live.release_id) == (color, release_id)
    if color is None:
        assert live.sentence == "Not known"
        assert "Run check_environment.production." in live.note


def test_a_failed_deployment_that_says_what_it_left_is_believed(ledger: Ledger) -> None:
    deploy(ledger, "one", "v1", Outcome.FAILED, "idle color never became healthy")
    fact = OutcomeFact(outcome="failed", summary="x", live_color="blue", live_release="v1.0.0-0a1b2c3d4e5f")
    record(ledger, DAG_ID, "one", fact)
    assert live_state("production", ledger, {}).color == "blue"


def test_a_failed_deployment_says_why_the_task_failed(ledger: Ledger) -> None:
    deploy(ledger, "two", "v1.1.0", Outcome.FAILED, "production: deploy_to_idle_color failed")
    for clear_number, error in ((0, "of the try before"), (1, "app1: no disk space left"), (1, "lease lost")):
        payload = {"task": "deploy_to_idle_color", "clear_number": clear_number, "error": error}
        ledger.evidence.add(DAG_ID, "two", "task_failed", payload)
    [production, _] = build_overview(load_inventory(), ledger, READABLE, {}, utc_now()).environments
    [row] = production.deployments
    assert row["detail"] == "production: deploy_to_idle_color failed. app1: no disk space left"


def test_a_deployment_that_died_leaves_the_state_unknown(ledger: Ledger) -> None:
    deploy(ledger, "one", "v1", Outcome.SUCCEEDED)
    deploy(ledger, "two", "v2")
    assert live_state("production", ledger, running("two")).color == "green"
    assert live_state("production", ledger, {}).sentence == "Not known"
    row = deployment_row(ledger.deployments.get(DAG_ID, "two"), None)
    assert (row["word"], row["tone"]) == ("Outcome not recorded", "error")


def change(ledger: Ledger, dag_id: str, outcome: Outcome | None = Outcome.SUCCEEDED, detail: str = "") -> None:
    procedure = dag_id.partition(".")[0]
    ledger.deployments.start("production", dag_id, dag_id, "thandi", procedure.replace("_", " "), None, procedure)
    if outcome is not None:
        ledger.deployments.finish(dag_id, dag_id, outcome, detail)


def test_what_moves_no_release_does_not_make_the_live_one_unknown(ledger: Ledger) -> None:
    deploy(ledger, "one", "v1", Outcome.SUCCEEDED)
    for outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
        change(ledger, f"restore_database.production_{outcome.value}", outcome)
    change(ledger, "switch_database_primary.production")
    change(ledger, "disaster_recovery_drill.production", Outcome.FAILED)
    change(ledger, "restore_point_in_time.production", None)
    assert live_state("production", ledger, {}).color == "green"


def test_after_a_disaster_recovery_the_other_site_serves_until_the_failback(ledger: Ledger) -> None:
    deploy(ledger, "one", "v1", Outcome.SUCCEEDED)
    change(ledger, "disaster_recovery.production", detail="production is served from secondary (failover)")
    live = live_state("production", ledger, {})
    assert (live.sentence, live.color) == ("At the other site", None)
    assert "served from secondary (failover)" in live.note
    change(ledger, "failback.production")
    assert live_state("production", ledger, {}).color == "green"


def test_an_expired_lease_blocks_nobody(ledger: Ledger) -> None:
    fill(ledger)
    lease = ledger.leases.history("production")[0]
    assert "so it blocks nobody" in lease_sentence(lease, lease.expires_at + timedelta(seconds=1))
