from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sebenza_ops.ledger import (
    UNSETTLED,
    Deployment,
    Holder,
    Ledger,
    Outcome,
    RecordUnknown,
    Release,
    ReleaseConflict,
)
from tests.ledger.conftest import SettableClock

RUN = Holder("deploy_blue_green.production", "manual__1", "thandi")
OTHER_RUN = Holder("deploy_blue_green.production", "manual__2", "sipho")
RELEASE = Release(
    release_id="v1.1.0-0a1b2c3d4e5f",
    version="v1.1.0",
    sha="0a1b2c3d4e5f" + "0" * 28,
    artifact_key="releases/v1.1.0-0a1b2c3d4e5f.tar.gz",
    artifact_sha256="ab" * 32,
    size_bytes=5_000_000_000,
    node_version="v20.19.0",
    schema_revision="003",
    expand_only=True,
    built_at=datetime(2026, 3, 1, 1, 0, tzinfo=UTC),
    built_by=Holder("build_release", "manual__1", "ci"),
    manifest={"files": 1200},
)


def test_release_is_kept_and_the_same_again_is_no_second(ledger: Ledger) -> None:
    assert ledger.releases.record(RELEASE) == RELEASE
    later = replace(RELEASE, built_at=RELEASE.built_at + timedelta(hours=1))
    assert ledger.releases.record(later) == RELEASE
    assert ledger.releases.get(RELEASE.release_id) == RELEASE
    assert ledger.releases.by_sha(RELEASE.sha) == RELEASE
    assert len(ledger.audit.entries(action="release.recorded")) == 1


def test_release_is_immutable(ledger: Ledger) -> None:
    ledger.releases.record(RELEASE)
    with pytest.raises(ReleaseConflict, match=r"v1\.1\.0-0a1b2c3d4e5f"):
        ledger.releases.record(replace(RELEASE, artifact_sha256="cd" * 32))


def test_unknown_release(ledger: Ledger) -> None:
    assert ledger.releases.find("v9") is None
    with pytest.raises(RecordUnknown, match="build_release"):
        ledger.releases.get("v9")


def test_bad_release_is_bad_in_its_environment_until_forgiven(ledger: Ledger, clock: SettableClock) -> None:
    ledger.releases.mark_bad("production", RELEASE.release_id, "error ratio 8%", RUN)
    clock.advance(60)
    ledger.releases.mark_bad("production", RELEASE.release_id, "again", OTHER_RUN)
    bad = ledger.releases.bad("production", RELEASE.release_id)
    assert bad is not None
    assert (bad.reason, bad.marked_by) == ("error ratio 8%", RUN)
    assert ledger.releases.bad("staging", RELEASE.release_id) is None
    assert ledger.releases.forgive("production", RELEASE.release_id, "the cache was cold", OTHER_RUN) is True
    assert ledger.releases.bad("production", RELEASE.release_id) is None
    assert ledger.releases.forgive("production", RELEASE.release_id, "twice", OTHER_RUN) is False
    ledger.releases.mark_bad("production", RELEASE.release_id, "error ratio 9%", RUN)
    assert ledger.releases.bad("production", RELEASE.release_id) is not None


def test_last_known_good_is_the_newest(ledger: Ledger) -> None:
    assert ledger.releases.last_known_good("production") is None
    ledger.releases.set_last_known_good("production", "v1.0.0-1", RUN)
    ledger.releases.set_last_known_good("production", "v1.1.0-2", OTHER_RUN)
    ledger.releases.set_last_known_good("production", "v1.1.0-2", OTHER_RUN)
    ledger.releases.set_last_known_good("staging", "v1.2.0-3", OTHER_RUN)
    good = ledger.releases.last_known_good("production")
    assert good is not None
    assert (good.release_id, good.set_by) == ("v1.1.0-2", OTHER_RUN)
    assert len(ledger.audit.entries(environment="production", action="release.known_good")) == 2


def _start(ledger: Ledger, run: Holder = RUN, release_id: str | None = None) -> Deployment:
    return ledger.deployments.start("production", run.dag_id, run.run_id, run.actor, "v1.1.0", release_id, "blue_green")


def test_deployment_from_start_to_finish(ledger: Ledger, clock: SettableClock) -> None:
    _start(ledger)
    ledger.deployments.update(
        RUN.dag_id, RUN.run_id, release_id="v1.1.0-1", phase="bake", to_color="green", plan={"a": 1}
    )
    clock.advance(300)
    ledger.deployments.finish(RUN.dag_id, RUN.run_id, Outcome.SUCCEEDED, "live on green")
    ledger.deployments.finish(RUN.dag_id, RUN.run_id, Outcome.SUCCEEDED, "live on green")
    found = ledger.deployments.get(RUN.dag_id, RUN.run_id)
    assert (found.release_id, found.phase, found.to_color, found.plan) == ("v1.1.0-1", "bake", "green", {"a": 1})
    assert (found.outcome, found.detail) == (Outcome.SUCCEEDED, "live on green")
    assert found.finished_at == found.started_at + timedelta(seconds=300)
    assert ledger.deployments.latest("production") == found
    assert ledger.deployments.latest("staging") is None
    assert len(ledger.audit.entries(action="deployment.finished")) == 1


def test_progress_survives_a_retry_but_not_a_new_beginning(ledger: Ledger) -> None:
    _start(ledger)
    ledger.deployments.set_progress(RUN.dag_id, RUN.run_id, "bake_until", "2026-03-01T02:05:00+00:00")
    ledger.deployments.set_progress(RUN.dag_id, RUN.run_id, "switched", ["lb1"])
    _start(ledger)
    assert ledger.deployments.progress(RUN.dag_id, RUN.run_id) == {
        "bake_until": "2026-03-01T02:05:00+00:00",
        "switched": ["lb1"],
    }
    ledger.deployments.finish(RUN.dag_id, RUN.run_id, Outcome.FAILED, "lb2 unreachable")
    _start(ledger)
    again = ledger.deployments.get(RUN.dag_id, RUN.run_id)
    assert (again.progress, again.outcome, again.finished_at) == ({}, None, None)


def test_what_was_left_unsettled_is_gone_on_with(ledger: Ledger) -> None:
    _start(ledger)
    ledger.deployments.set_progress(RUN.dag_id, RUN.run_id, "phase", "undoing")
    ledger.deployments.set_progress(RUN.dag_id, RUN.run_id, UNSETTLED, True)
    ledger.deployments.finish(RUN.dag_id, RUN.run_id, Outcome.FAILED, "app1 can't be reached")
    again = _start(ledger)
    assert (again.progress, again.outcome) == ({"phase": "undoing", UNSETTLED: True}, None)
    ledger.deployments.set_progress(RUN.dag_id, RUN.run_id, UNSETTLED, False)
    ledger.deployments.finish(RUN.dag_id, RUN.run_id, Outcome.ROLLED_BACK, "all hosts are back")
    assert _start(ledger).progress == {}


def test_unknown_deployment_and_unknown_field(ledger: Ledger) -> None:
    with pytest.raises(RecordUnknown, match="manual__1"):
        ledger.deployments.set_progress(RUN.dag_id, RUN.run_id, "a", 1)
    with pytest.raises(ValueError, match="no field colour"):
        ledger.deployments.update(RUN.dag_id, RUN.run_id, colour="green")  # type: ignore[call-arg]


def test_latest_deployment_is_the_one_that_started_last(ledger: Ledger, clock: SettableClock) -> None:
    _start(ledger)
    clock.advance(1)
    _start(ledger, OTHER_RUN)
    assert [found.holder.run_id for found in ledger.deployments.recent("production")] == ["manual__2", "manual__1"]


def test_evidence_comes_in_the_order_of_observation(ledger: Ledger, clock: SettableClock) -> None:
    clock.advance(10)
    ledger.evidence.add(RUN.dag_id, RUN.run_id, "proof", {"requests": 40, "failed": 0})
    ledger.evidence.add(RUN.dag_id, RUN.run_id, "plan", {"hosts": ["app1"]}, at=clock.moment - timedelta(seconds=5))
    ledger.evidence.add(OTHER_RUN.dag_id, OTHER_RUN.run_id, "plan", {})
    assert [entry.kind for entry in ledger.evidence.entries(RUN.dag_id, RUN.run_id)] == ["plan", "proof"]
    assert ledger.evidence.entries(RUN.dag_id, RUN.run_id, "proof")[0].payload == {"requests": 40, "failed": 0}


def test_naive_times_are_refused(ledger: Ledger) -> None:
    with pytest.raises(Exception, match="aware times only"):
        ledger.evidence.add("d", "r", "k", {}, at=datetime(2026, 3, 1))  # noqa: DTZ001


def test_audit_can_be_narrowed(ledger: Ledger) -> None:
    ledger.audit.append("freeze", "lerato", "production", "audit week")
    ledger.audit.append("freeze", "lerato", "staging", "audit week")
    newest = ledger.audit.append("thaw", "lerato", "production", "audit over")
    assert [entry.action for entry in ledger.audit.entries(environment="production")] == ["thaw", "freeze"]
    assert ledger.audit.entries(after_id=newest.id) == []


def test_secrets_do_not_reach_any_record(ledger: Ledger) -> None:
    _start(ledger)
    ledger.deployments.set_progress(RUN.dag_id, RUN.run_id, "database", {"password": "hunter2"})
    ledger.deployments.finish(RUN.dag_id, RUN.run_id, Outcome.FAILED, "can't connect to postgres://app:hunter2@db1/x")
    ledger.evidence.add(RUN.dag_id, RUN.run_id, "env", {"settings": [{"api_key": "hunter2"}]})
    ledger.audit.append("test", "thandi", None, "redis://:hunter2@cache", {"private_key": "hunter2"})
    with ledger.engine.connect() as connection:
        for table in ("deployments", "evidence_entries", "audit_entries"):
            for row in connection.exec_driver_sql(f"SELECT * FROM {table}"):
                assert "hunter2" not in str(row)
