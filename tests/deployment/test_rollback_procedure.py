"""Rollbacks in Airflow, on the lab's staging, under load on production where it counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from lab import checker, paths, waiting
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from sebenza_ops.ledger import Holder, LeaseKind, Ledger
from tests.deployment.test_lease_procedures import ended

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]

DEPLOY, ROLLBACK = "deploy_blue_green.staging", "rollback.staging"
REASON = "orders are lost since the deployment"


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("operator") as client:
        yield client
    estate.reset("staging")


@pytest.fixture
def ledger(operator: AirflowClient, estate: Any) -> Iterator[Ledger]:
    """The lab's ledger, with v1.0.0 in blue, v1.1.0 not bad, and nobody's lease."""
    estate.reset("staging")
    found = Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")
    forgive(found)
    yield found
    forgive(found)
    lease = found.leases.current("staging")
    if lease is not None:
        found.leases.release("staging", lease.token, "the test is over", "tests")


def forgive(ledger: Ledger) -> None:
    for version in ("v1.0.0", "v1.1.0"):
        release = ledger.releases.by_version(version)
        if release is not None:
            ledger.releases.forgive("staging", release.release_id, "the test is over", Holder("tests", "1", "tests"))


def deploy(client: AirflowClient, version: str = "v1.1.0") -> None:
    assert ended(client, DEPLOY, {"version": version, "bake_seconds": 5})[0] == "success"


def live() -> tuple[str | None, str | None]:
    verdict = checker.check("staging")
    assert not verdict.problems, verdict.problems
    return verdict.live_color, str(verdict.release).rpartition("-")[0]


def test_a_release_that_had_passed_goes_back_to_the_warm_color(operator: AirflowClient, ledger: Ledger) -> None:
    deploy(operator)
    assert live() == ("green", "v1.1.0")

    state, tasks, run_id = ended(operator, ROLLBACK, {"reason": REASON})

    assert (state, live()) == ("success", ("blue", "v1.0.0"))
    assert tasks["start_release"] == "skipped"
    assert operator.xcom(ROLLBACK, run_id, "switch_back") > 0
    left = ledger.releases.by_version("v1.1.0")
    assert left is not None
    bad = ledger.releases.bad("staging", left.release_id)
    assert bad is not None
    assert REASON in bad.reason
    good = ledger.releases.last_known_good("staging")
    assert good is not None
    assert good.release_id.startswith("v1.0.0-")
    # A stop that the deployment has planned may have begun just then.
    held = ledger.leases.current("staging")
    assert held is None or held.kind is LeaseKind.HOUSEKEEPING
    # Again: nothing to do, and nothing is done.
    assert ended(operator, ROLLBACK, {"reason": REASON, "to": "v1.0.0"})[1]["switch_back"] == "skipped"
    assert live() == ("blue", "v1.0.0")


@pytest.mark.long
def test_a_color_that_was_stopped_is_started_before_traffic_moves(operator: AirflowClient, ledger: Ledger) -> None:
    deploy(operator)
    assert ended(operator, "stop_idle_color.staging", {"color": "blue"})[0] == "success"

    state, tasks, _ = ended(operator, ROLLBACK, {"reason": REASON, "mark_bad": False})

    assert (state, live()) == ("success", ("blue", "v1.0.0"))
    assert tasks["start_release"] == "success"
    left = ledger.releases.by_version("v1.1.0")
    assert left is not None
    assert ledger.releases.bad("staging", left.release_id) is None


def test_a_deployment_under_way_is_fenced_off(operator: AirflowClient, ledger: Ledger) -> None:
    deploying = operator.trigger(DEPLOY, {"version": "v1.1.0", "bake_seconds": 600})
    operator.await_state(DEPLOY, deploying, {"running"}, task_id="switch_prove_and_bake", timeout_seconds=120)
    waiting.until(
        lambda: ledger.deployments.get(DEPLOY, deploying).progress.get("phase") == "baking", "the deployment bakes", 60
    )

    assert ended(operator, ROLLBACK, {"reason": REASON})[0] == "success"

    assert live() == ("blue", "v1.0.0")
    assert operator.await_state(DEPLOY, deploying, timeout_seconds=120) == "failed"
    assert live() == ("blue", "v1.0.0"), "the run that was fenced off has changed something"
    taken = ledger.audit.entries(environment="staging", action="lease.taken_over")
    assert taken[0].detail["former_holder"].startswith(DEPLOY)


@pytest.mark.parametrize(
    ("conf", "text"),
    [
        ({"to": "v7.7.7"}, "is no release that the ledger or a host knows"),
        ({"to": "v1.1.0"}, "marked bad"),
    ],
)
@pytest.mark.long
def test_a_target_that_can_not_be_is_refused_and_traffic_stays(
    operator: AirflowClient, ledger: Ledger, conf: dict[str, Any], text: str
) -> None:
    release = ledger.releases.by_version("v1.1.0")
    assert release is not None
    ledger.releases.mark_bad("staging", release.release_id, "it lost orders", Holder("tests", "1", "tests"))

    state, tasks, run_id = ended(operator, ROLLBACK, {"reason": REASON, **conf})

    assert (state, tasks["plan_rollback"]) == ("failed", "failed")
    assert text in str(operator.logs(ROLLBACK, run_id, "plan_rollback"))
    assert live() == ("blue", "v1.0.0")
    assert ledger.leases.current("staging") is None


@pytest.mark.long
def test_a_plan_takes_nobodys_lease_and_changes_nothing(operator: AirflowClient, ledger: Ledger) -> None:
    deploy(operator)
    held = ledger.leases.acquire("staging", Holder(DEPLOY, f"manual__other_{uuid4().hex[:8]}", "thandi"), "deploy", 600)

    state, tasks, run_id = ended(operator, ROLLBACK, {"reason": REASON, "plan_only": True})

    assert (state, tasks["switch_back"]) == ("success", "skipped")
    assert operator.xcom(ROLLBACK, run_id, "plan_rollback")["release"]["version"] == "v1.0.0"
    current = ledger.leases.current("staging")
    assert current is not None
    assert current.token == held.token
    assert live() == ("green", "v1.1.0")
