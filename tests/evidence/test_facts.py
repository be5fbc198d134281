"""Facts survive the ledger, and what can't be read is stated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from sebenza_ops.evidence.facts import FACTS, ProofFact, TimelineEntry, load, record, record_all
from sebenza_ops.ledger import Ledger
from tests.evidence import samples


def test_every_kind_of_fact_survives_the_ledger(ledger: Ledger) -> None:
    facts = samples.succeeded_facts()
    assert {type(fact) for fact in facts} == set(FACTS)
    for fact in facts:
        if fact.kind not in ("traffic", "latency"):
            record(ledger, samples.DAG_ID, samples.RUN_ID, fact)
    record_all(ledger, samples.DAG_ID, samples.RUN_ID, [fact for fact in facts if fact.kind in ("traffic", "latency")])

    found = load(ledger, samples.DAG_ID, samples.RUN_ID)

    expected = samples.collect(facts)
    assert found.traffic == expected.traffic
    assert found.latency == expected.latency
    assert sorted(found.timeline, key=lambda entry: entry.at) == sorted(expected.timeline, key=lambda entry: entry.at)
    assert set(map(repr, found.proofs)) == set(map(repr, expected.proofs))
    assert found.plan == expected.plan
    assert found.outcome == expected.outcome
    assert not found.unreadable


def test_samples_of_one_call_are_one_entry_a_kind(ledger: Ledger) -> None:
    samples_only = [fact for fact in samples.in_progress_facts() if fact.kind in ("traffic", "latency")]
    record_all(ledger, "d.production", "r", samples_only)
    assert len(ledger.evidence.entries("d.production", "r")) == 2


def test_runs_do_not_see_each_other(ledger: Ledger) -> None:
    record(ledger, "d.production", "one", TimelineEntry(at=samples.START, text="mine"))
    assert load(ledger, "d.production", "two").is_empty
    assert [entry.text for entry in load(ledger, "d.production", "one").timeline] == ["mine"]


def test_an_error_of_a_task_is_told_once(ledger: Ledger) -> None:
    for number, error in enumerate(("app1: no disk space left", "lb2 does not answer")):
        payload = {"task": f"step_{number}", "error_type": "OutsideSystemError", "error": error}
        ledger.evidence.add("d.production", "r", "task_failed", payload)
    record(ledger, "d.production", "r", TimelineEntry(at=samples.START, text="lb2 does not answer", level="error"))
    found = load(ledger, "d.production", "r")
    assert [(entry.text, entry.level) for entry in found.timeline] == [
        ("lb2 does not answer", "error"),
        ("step_0 failed: app1: no disk space left", "error"),
    ]
    assert not found.unreadable


@pytest.mark.parametrize(
    ("kind", "payload", "problem"),
    [
        ("weather", {"sun": True}, "does not know this kind"),
        ("proof", {"load_balancer": "lb1"}, "source: Field required"),
        ("timeline", {"at": "2026-11-23T08:57:31", "text": "naive"}, "at: Input should have timezone info"),
        ("gate", {"name": "g", "verdict": "pass", "mood": "good"}, "mood: Extra inputs are not permitted"),
    ],
)
def test_an_entry_that_can_not_be_read_is_kept_as_such(
    ledger: Ledger, kind: str, payload: dict[str, object], problem: str
) -> None:
    ledger.evidence.add("d.production", "r", kind, payload)
    (unreadable,) = load(ledger, "d.production", "r").unreadable
    assert unreadable.kind == kind
    assert problem in unreadable.problem


def test_moments_are_utc_and_never_naive() -> None:
    johannesburg = timezone(timedelta(hours=2))
    entry = TimelineEntry(at=datetime(2026, 11, 23, 10, 57, 31, tzinfo=johannesburg), text="x")
    assert entry.at == samples.START
    assert entry.at.tzinfo is UTC
    with pytest.raises(ValidationError, match="timezone"):
        TimelineEntry(at=datetime(2026, 11, 23), text="x")  # noqa: DTZ001 - naive on purpose


def test_facts_can_not_be_changed() -> None:
    proof = ProofFact(source="requests", load_balancer="lb1", passed=False, expected_color="green")
    with pytest.raises(ValidationError):
        proof.passed = True  # type: ignore[misc]
