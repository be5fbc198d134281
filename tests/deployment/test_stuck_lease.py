"""What a person is shown before a lease is taken from its holder, and the end of a freeze as people type it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sebenza_ops.deployment.lease_operators import freeze_end
from sebenza_ops.deployment.stuck_lease import TIMELINE_SHOWN, describe_lease
from sebenza_ops.evidence.facts import TimelineEntry
from sebenza_ops.ledger import Deployment, Holder, Lease, LeaseKind

NOW = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
HOLDER = Holder("deploy_blue_green.production", "manual__1", "thandi")
LEASE = Lease("production", 42, HOLDER, "deploy_blue_green v1.1.0", LeaseKind.CHANGE, NOW, NOW)
DEPLOYMENT = Deployment(
    environment="production",
    holder=HOLDER,
    requested_version="v1.1.0",
    release_id="v1.1.0-bbbbbbbbbbbb",
    previous_release_id="v1.0.0-aaaaaaaaaaaa",
    strategy="blue_green",
    from_color="blue",
    to_color="green",
    phase=None,
    plan=None,
    progress={"phase": "baking"},
    outcome=None,
    detail=None,
    evidence_url=None,
    started_at=NOW,
    updated_at=NOW,
    finished_at=None,
)


def test_it_says_who_holds_what_and_what_that_run_did() -> None:
    timeline = [TimelineEntry(at=NOW, text=f"step {n}", host="app1" if n == 9 else None) for n in range(10)]
    text = describe_lease(LEASE, DEPLOYMENT, timeline, "all load balancers send to green")
    for part in ("thandi", "manual__1", "token 42", "all load balancers send to green", "v1.1.0-bbbbbbbbbbbb"):
        assert part in text
    assert "app1: step 9" in text
    assert text.count("step ") == TIMELINE_SHOWN


@pytest.mark.parametrize(("phase", "warns"), [("baking", True), ("switching", True), ("baked", False), (None, False)])
def test_a_release_that_has_not_passed_is_said_loudly(phase: str | None, warns: bool) -> None:
    text = describe_lease(LEASE, replace(DEPLOYMENT, progress={"phase": phase}), [], "unknown")
    assert ("has not passed" in text) is warns


def test_a_holder_that_is_no_deployment_is_described_too() -> None:
    assert "nothing that it noted" in describe_lease(LEASE, None, [], "unknown")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tomorrow", "no moment"),
        ("2026-03-02T02:00:00", "no time zone"),
        ("2026-03-01T02:00:00+00:00", "is over"),
        ("2026-12-24T16:00:00+02:00", "90 days"),
    ],
)
def test_an_end_of_a_freeze_that_can_not_be_is_refused_by_its_field(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"until: .*{problem}"):
        freeze_end(text, NOW)


def test_the_end_of_a_freeze_is_kept_in_utc() -> None:
    assert freeze_end("2026-03-01T18:00:00+02:00", NOW) == datetime(2026, 3, 1, 16, 0, tzinfo=UTC)
