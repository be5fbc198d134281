"""The gates' rules, what a pipeline attests, the audit's report, and who may approve."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.attest import attestation_of
from sebenza_ops.decisions import refusal_of
from sebenza_ops.deployment.approval import briefing, moved_since
from sebenza_ops.deployment.attestation import (
    AttestationExpired,
    AttestationRefused,
    MalformedAttestation,
    OtherCommitAttested,
    UnsignedAttestation,
    sign,
    verify,
)
from sebenza_ops.deployment.audit_report import judge_audit
from sebenza_ops.deployment.gates import GATES, gates_table, judge_gates
from sebenza_ops.deployment.operators import failed_tasks
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.release import Release
from sebenza_ops.deployment.smoke import judge_answer
from sebenza_ops.environments.models import Color, SmokeTest
from sebenza_ops.evidence.facts import GateFact, GateVerdict

KEY, SHA, OTHER = "k" * 32, "a" * 40, "b" * 40
NOW = datetime.now(UTC) + timedelta(minutes=1)
SIGNED = sign(attestation_of(SHA), KEY)


def fact(name: str, verdict: GateVerdict = "pass", detail: str = "") -> GateFact:
    return GateFact(name=name, verdict=verdict, detail=detail)


def test_a_gate_without_a_verdict_has_no_data_and_stops_the_deployment() -> None:
    judged = judge_gates(GATES, [fact(name) for name in GATES if name != "tests_passed"])
    assert not judged.all_passed
    assert judged.waivable == {"tests_passed": "no verdict was recorded"}


@pytest.mark.parametrize("verdict", ["fail", "no_data", "skipped"])
def test_the_way_back_can_not_be_waived(verdict: GateVerdict) -> None:
    judged = judge_gates(GATES, [fact(name, verdict) for name in GATES])
    assert set(judged.final) == {"rollback_plan"}
    assert set(judged.waivable) == set(GATES) - {"rollback_plan"}


def test_the_newest_verdict_of_a_gate_counts() -> None:
    assert judge_gates(["tests_passed"], [fact("tests_passed", "fail"), fact("tests_passed", "waived")]).all_passed
    assert not judge_gates(["tests_passed"], [fact("tests_passed"), fact("tests_passed", "fail")]).all_passed


def test_a_gates_detail_can_not_break_the_table() -> None:
    table = gates_table(["tests_passed"], [fact("tests_passed", "fail", "a | b\n| c")])
    assert len(table.splitlines()) == 3
    assert "a \\| b \\| c" in table


def test_gates_that_were_judged_have_failed_for_nobody() -> None:
    states = {"gates.tests_passed": "failed", "judge_gates": "success", "waive_gates": "success", "finish": "running"}
    assert failed_tasks(states, "finish") == []
    assert failed_tasks({**states, "waive_gates": "failed"}, "finish") == ["waive_gates"]
    assert failed_tasks({**states, "judge_gates": "failed"}, "finish") == ["gates.tests_passed", "judge_gates"]


def test_an_attestation_counts_for_its_commit() -> None:
    assert verify(SIGNED, KEY, SHA, NOW).gates["tests_passed"].verdict == "pass"
    with pytest.raises(OtherCommitAttested, match="about commit aaaaaaaaaaaa, not bbbbbbbbbbbb"):
        verify(SIGNED, KEY, OTHER, NOW)


def test_an_attestation_expires_and_is_not_believed_before_its_time() -> None:
    with pytest.raises(AttestationExpired, match="run the pipeline again"):
        verify(SIGNED, KEY, SHA, NOW + timedelta(days=1))
    with pytest.raises(AttestationExpired, match="a clock is wrong"):
        verify(SIGNED, KEY, SHA, NOW - timedelta(hours=1))


def test_an_attestation_of_another_key_is_refused() -> None:
    with pytest.raises(UnsignedAttestation, match="not of our key"):
        verify(SIGNED, "x" * 32, SHA, NOW)
    with pytest.raises(ValueError, match="fewer than 32 bytes"):
        verify(SIGNED, "short", SHA, NOW)


@given(position=st.integers(0, len(SIGNED) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_never_changes_what_is_believed(position: int, byte: int) -> None:
    changed = SIGNED[:position] + bytes([byte]) + SIGNED[position + 1 :]
    try:
        believed = verify(changed, KEY, SHA, NOW)
    except AttestationRefused:
        return
    # White space between the envelope's fields, or another key's name beside ours, says nothing.
    assert believed == verify(SIGNED, KEY, SHA, NOW)


@given(st.binary(max_size=300))
def test_nonsense_is_refused_in_words(document: bytes) -> None:
    with pytest.raises(AttestationRefused):
        verify(document, KEY, SHA, NOW)


def test_a_signed_document_that_is_no_attestation_is_malformed() -> None:
    import base64
    import hashlib
    import hmac

    payload = json.dumps({"sha": SHA}).encode()
    signature = hmac.new(KEY.encode(), payload, hashlib.sha256).hexdigest()
    envelope = {"algorithm": "hmac-sha256", "payload": base64.b64encode(payload).decode(), "signature": signature}
    with pytest.raises(MalformedAttestation, match="issued_at: Field required"):
        verify(json.dumps(envelope).encode(), KEY, SHA, NOW)


def audit(**counts: int) -> str:
    found = {"info": 0, "low": 0, "moderate": 0, "high": 0, "critical": 0, **counts}
    names: dict[str, Any] = {"left-pad": {}} if any(counts.values()) else {}
    return json.dumps({"vulnerabilities": names, "metadata": {"vulnerabilities": found, "dependencies": {"prod": 80}}})


def test_the_audits_threshold() -> None:
    assert judge_audit(audit(), "high").verdict == "pass"
    assert judge_audit(audit(moderate=3), "high").detail.endswith("3 below it")
    assert judge_audit(audit(critical=1), "high").verdict == "fail"
    assert "left-pad" in judge_audit(audit(high=1), "high").detail
    assert judge_audit(audit(low=1), "low").verdict == "fail"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "npm error",
        '{"message": "405 Method Not Allowed"}',
        '{"metadata": {}}',
        '{"metadata": {"vulnerabilities": 7}}',
    ],
)
def test_a_registry_without_an_audit_is_no_data(text: str) -> None:
    assert judge_audit(text, "high").verdict == "no_data"


@pytest.mark.parametrize("name", ["naledi", "Naledi", "naledi@sebenza.example"])
def test_the_author_may_not_approve_under_any_spelling(name: str) -> None:
    assert "is the author" in str(refusal_of(name, {"naledi@sebenza.example": "author"}))


def test_others_may_approve() -> None:
    assert refusal_of("sipho", {"naledi": "author", "operator": "requester"}) is None
    assert refusal_of("sipho", {"": "author"}) is None


def plan(**changes: Any) -> DeploymentPlan:
    release = Release(
        version="v1.1.0",
        sha=SHA,
        release_id="v1.1.0-aaaaaaaaaaaa",
        sha256="c" * 64,
        size_bytes=1,
        node_version="20.0.0",
        schema_revision=2,
    )
    values: dict[str, Any] = {
        "environment": "production",
        "release": release,
        "from_color": Color.BLUE,
        "to_color": Color.GREEN,
        "from_release": "v1.0.0-dddddddddddd",
        "hosts": ("app1",),
        "load_balancers": ("lb1",),
        "bake_seconds": 1,
        "keep_warm_seconds": 1,
    }
    return DeploymentPlan(**(values | changes))


@pytest.mark.parametrize(
    ("now", "sha", "what"),
    [
        (plan(), SHA, None),
        (plan(), OTHER, "names bbbbbbbbbbbb now"),
        (plan(from_release="v1.2.0-eeeeeeeeeeee"), SHA, "v1.2.0-eeeeeeeeeeee is now"),
        (plan(from_color=Color.GREEN, to_color=Color.BLUE), SHA, "blue was live"),
        (plan(release=plan().release.model_copy(update={"sha256": "f" * 64})), SHA, "another one"),
    ],
)
def test_what_moved_since_the_approval(now: DeploymentPlan, sha: str, what: str | None) -> None:
    moved = moved_since(plan(), now, sha)
    assert moved is None if what is None else what in str(moved)


def test_the_briefing_has_what_is_needed_and_shows_commits_as_code() -> None:
    text = briefing(
        plan(),
        requested_by="operator",
        attested_people={"author": "naledi"},
        required_gates=["tests_passed"],
        gates=[fact("tests_passed", "waived", "waived by thandi: the runner is down")],
        commits=["1234567 Naledi: <script>alert(1)</script>\n# big"],
        first="- projects are listed: passed",
        excluded={"operator": "requester"},
    )
    for part in (
        SHA,
        "v1.0.0-dddddddddddd",
        "author naledi",
        "**waived**",
        "projects are listed",
        "rollback.production",
    ):
        assert part in text
    assert "    1234567 Naledi: <script>alert(1)</script> # big" in text
    assert "May not approve: operator (requester)." in text


@pytest.mark.parametrize(
    ("status", "release", "text", "seconds", "problem"),
    [
        (200, "r1", '{"total": 3}', 0.1, ""),
        (200, None, '{"total": 3}', 0.1, ""),
        (200, "r0", '{"total": 3}', 0.1, "r0 answered, not r1"),
        (503, "r1", "", 0.1, "HTTP 503, expected 200"),
        (200, "r1", "{}", 0.1, "the answer has no '\"total\"'"),
        (200, "r1", '{"total": 3}', 2.5, "took 2.5 s, more than 2 s"),
    ],
)
def test_smoke_answers(status: int, release: str | None, text: str, seconds: float, problem: str) -> None:
    test = SmokeTest(name="projects", path="/api/v1/projects", contains=('"total"',))
    assert judge_answer(test, "r1", status, release, text, seconds) == problem
