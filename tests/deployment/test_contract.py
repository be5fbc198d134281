"""What a contract migration asks before it takes anything away, and how such a run ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.contract import (
    ContractPlan,
    ContractRefusedError,
    NothingToContractError,
    due_migrations,
    releases_in_use,
    rollback_target,
)
from sebenza_ops.deployment.contract_finish import judge_contract
from sebenza_ops.ledger import Holder, Ledger, Outcome
from sebenza_ops.ledger import Release as ReleaseRecord
from tests.deployment.estate import NEW as LIVE
from tests.deployment.estate import OLD, host, production
from tests.deployment.test_schema_gate import DROP, NEW, NEWER, Phase, schema

ENVIRONMENT = production()
HOLDER = Holder("migrate_contract.production", "manual__1", "thandi")
THREE: tuple[tuple[int, Phase, str], ...] = (1, "expand", "applied"), (2, "expand", "applied"), (3, "expand", "applied")


def test_due_is_what_the_database_has_not() -> None:
    assert due_migrations(NEW, schema(*THREE)) == (DROP,)


def test_one_that_was_interrupted_is_still_due() -> None:
    assert due_migrations(NEW, schema(*THREE, (4, "contract", "half-applied"))) == (DROP,)


def test_nothing_due_is_no_failure_of_its_own() -> None:
    with pytest.raises(NothingToContractError):
        due_migrations(NEW, schema(*THREE, (4, "contract", "applied")))


def test_a_release_that_was_not_expanded_to_is_refused() -> None:
    with pytest.raises(ContractRefusedError, match="expand migration 6"):
        due_migrations(NEWER, schema(*THREE))


def test_every_color_of_every_host_counts() -> None:
    hosts = {
        "app1": host("app1", ENVIRONMENT, green=LIVE, blue=OLD),
        "app2": host("app2", ENVIRONMENT, green=LIVE),
        "app3": host("app3", ENVIRONMENT, blue="v0.9.0-cccccccccccc"),
    }
    found = dict(releases_in_use(ENVIRONMENT.application, hosts, LIVE, "v0.8.0-dddddddddddd"))
    assert found == {
        OLD: "runs on app1 in blue",
        LIVE: "runs on app1 in green, app2 in green",
        "v0.9.0-cccccccccccc": "runs on app3 in blue",
        "v0.8.0-dddddddddddd": "is what a rollback would go back to",
    }


@pytest.mark.parametrize(
    ("status", "counts"), [("launching", True), ("waiting restart", True), ("stopped", False), ("errored", False)]
)
def test_what_may_start_again_counts(status: str, counts: bool) -> None:
    state = host("app1", ENVIRONMENT, blue=OLD)
    assert state.processes is not None
    state = replace(state, processes=tuple(replace(process, status=status) for process in state.processes))
    found = dict(releases_in_use(ENVIRONMENT.application, {"app1": state}, LIVE, None))
    assert (OLD in found) is counts
    assert found[LIVE] == "is live"


def test_other_applications_of_the_host_are_none_of_ours() -> None:
    state = host("app1", ENVIRONMENT, blue=OLD)
    assert state.processes is not None
    state = replace(state, processes=tuple(replace(process, name="grafana") for process in state.processes))
    assert dict(releases_in_use(ENVIRONMENT.application, {"app1": state}, LIVE, None)) == {LIVE: "is live"}


@pytest.fixture
def run(tmp_path: Path) -> ChangeRun:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    return ChangeRun(ledger, ENVIRONMENT, HOLDER)


def known_good(run: ChangeRun, *release_ids: str) -> None:
    for number, release_id in enumerate(release_ids):
        version, _, sha = release_id.rpartition("-")
        run.ledger.releases.record(
            ReleaseRecord(
                release_id=release_id,
                version=version,
                sha=sha.ljust(40, "0"),
                artifact_key="a",
                artifact_sha256=release_id,
                size_bytes=1,
                node_version="20",
                schema_revision="1",
                expand_only=True,
                built_at=datetime.now(UTC),
                built_by=HOLDER,
                manifest={},
            )
        )
        run.ledger.releases.set_last_known_good("production", release_id, Holder("deploy", f"{number}", "thandi"))


def test_the_rollback_target_is_the_one_that_a_rollback_would_choose(run: ChangeRun) -> None:
    assert rollback_target(run, LIVE) is None
    known_good(run, "v0.9.0-cccccccccccc", OLD, LIVE)
    assert rollback_target(run, LIVE) == OLD
    run.ledger.releases.mark_bad("production", OLD, "it lost orders", HOLDER)
    assert rollback_target(run, LIVE) == "v0.9.0-cccccccccccc"


def test_what_ran_before_the_first_good_release_is_a_target_too(run: ChangeRun) -> None:
    deployments = run.ledger.deployments
    deployments.start("production", "deploy", "1", "thandi", "v1", LIVE, "blue_green")
    deployments.update("deploy", "1", previous_release_id=OLD)
    assert rollback_target(run, LIVE) is None, "that deployment has not succeeded"
    deployments.finish("deploy", "1", Outcome.SUCCEEDED, "live")
    assert rollback_target(run, LIVE) == OLD


def test_the_question_says_what_can_not_be_undone() -> None:
    plan = ContractPlan.model_validate(
        {
            "environment": "production",
            "release": NEW,
            "color": "green",
            "host": "app1",
            "revision": 3,
            "migrations": [DROP],
            "checked": [f"{NEW.release_id} runs on app1 in green"],
        }
    )
    for part in ("4 drop_amount", NEW.release_id, "revision 3", "can't be undone", "runs on app1 in green", "none:"):
        assert part in plan.text()


DONE = ["migration 4 drop_amount"]


@pytest.mark.parametrize(
    ("failed", "applied", "plan_only", "has_begun", "outcome", "text"),
    [
        ([], DONE, False, False, Outcome.SUCCEEDED, "contracted by migration 4 drop_amount"),
        ([], [], False, False, Outcome.SUCCEEDED, "nothing to do"),
        ([], [], True, False, Outcome.PLANNED, "planned only"),
        (["plan_contract"], [], False, False, Outcome.REFUSED, "before the schema was changed"),
        (["decide"], [], False, False, Outcome.REFUSED, "before the schema was changed"),
        (["apply_contract"], [], False, True, Outcome.FAILED, "no contract migration was finished"),
        (["apply_contract"], DONE, False, True, Outcome.FAILED, "the database has now: migration 4"),
        (["finish"], DONE, False, False, Outcome.FAILED, "the database has now"),
    ],
)
def test_how_a_run_ended(
    failed: list[str], applied: list[str], plan_only: bool, has_begun: bool, outcome: Outcome, text: str
) -> None:
    found, summary = judge_contract("production", failed, applied, plan_only=plan_only, has_begun=has_begun)
    assert found is outcome
    assert text in summary
