"""What the programs that follow a run are told of its end: the run's own sentence first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from sebenza_ops.conclusion import PLAN, SENTENCE, TO_DO
from sebenza_ops.console.outcome import NOTHING_SAID, RETURNED, Kept, RunOutcome, conclude, judge
from sebenza_ops.console.runs import AirflowRun, TaskResult
from sebenza_ops.evidence.facts import OutcomeFact, record
from sebenza_ops.ledger import Holder, Ledger, LedgerUnavailable
from sebenza_ops.notify.runs import TASK_FAILED
from tests.console.conftest import Server
from tests.console.samples import DAG_ID, ROLLED_BACK_RUN

_STARTED = datetime(2026, 11, 23, 8, tzinfo=UTC)
_DAG, _RUN = "freeze.production", "manual__2026-11-23T08:00:00+00:00"
_FACT = OutcomeFact(outcome="rolled_back", summary="v2 was taken back", live_color="blue", at=_STARTED)


def _run(state: str = "success", clear_number: int = 0, **conf: Any) -> AirflowRun:
    return AirflowRun(_DAG, _RUN, state, _STARTED, _STARTED, "thandi", clear_number, conf)


def _returned(value: Any, task_id: str = "finish", key: str = RETURNED) -> TaskResult:
    return TaskResult(task_id, key, value)


def test_a_success_says_what_its_last_task_returned() -> None:
    told = judge(_run(), [_returned({"a": "plan"}, "plan"), _returned("production: v2 is live on green")], Kept())
    assert (told.outcome, told.title) == ("succeeded", "Succeeded")
    assert told.sentence == "production: v2 is live on green"
    assert told.is_told
    assert told.evidence == f"/sebenza/evidence/{_DAG}/{quote(_RUN, safe='')}"


@pytest.mark.parametrize(
    ("results", "kept", "sentence"),
    [
        # Its last task was skipped, and said why.
        ([_returned({}, "show"), _returned("nothing to hand back", "show", SENTENCE)], Kept(), "nothing to hand back"),
        ([_returned(7, "acquire_lease")], Kept(_FACT), "v2 was taken back"),
        ([], Kept(), NOTHING_SAID),
    ],
)
def test_a_success_whose_last_task_returned_nothing(results: list[TaskResult], kept: Kept, sentence: str) -> None:
    told = judge(_run(), results, kept)
    assert told.sentence == sentence
    assert told.is_told is (sentence != NOTHING_SAID)


def test_a_plan_is_shown_with_its_lines() -> None:
    plan = [_returned(["Plan for production:", "  app1: start v2"], "plan", PLAN), _returned("planned only")]
    assert judge(_run(plan_only=True), plan, Kept()).outcome == "planned"
    assert judge(_run(plan_only=True), plan, Kept()).plan == ("Plan for production:", "  app1: start v2")


@pytest.mark.parametrize(
    ("results", "kept", "expected"),
    [
        # What is recorded of the end comes before what tasks say on the way.
        ([_returned("text", "build")], Kept(_FACT, (("bake", "8% errors"),)), ("rolled_back", "v2 was taken back")),
        # The last task speaks for the run.
        ([], Kept(None, (("back_up", "no room"), ("end", "back_up failed"))), ("failed", "back_up failed")),
        ([], Kept(None, (("freeze", "until: is over"),), True), ("refused", "until: is over")),
        (
            [],
            Kept(None, (("freeze", "refused, nothing was changed: until"),)),
            ("refused", "refused, nothing was changed: until"),
        ),
        # Without a ledger: what it said before it failed.
        ([_returned("2 missing", "check", SENTENCE)], Kept(), ("failed", "2 missing")),
        ([_returned("not of the end", "build")], Kept(), ("failed", NOTHING_SAID)),
    ],
)
def test_a_failure(results: list[TaskResult], kept: Kept, expected: tuple[str, str]) -> None:
    told = judge(_run("failed"), results, kept)
    assert (told.outcome, told.sentence) == expected


def test_the_reasons_beside_the_sentence() -> None:
    told = judge(_run("failed"), [], Kept(None, (("back_up", "no room"), ("end", "back_up failed"))))
    assert told.why == ("back_up: no room",)


def test_what_is_to_be_done_is_what_was_said_last() -> None:
    lines = [_returned(["old"], "check", TO_DO), _returned(["app1, Node.js: missing"], "check", TO_DO)]
    assert judge(_run("failed"), lines, Kept()).to_do == ("app1, Node.js: missing",)


def test_a_run_that_goes_on_has_no_outcome() -> None:
    told = judge(_run("running"), [_returned("half way")], Kept(_FACT))
    assert (told.outcome, told.sentence, told.is_told) == (None, "the run goes on", False)


def _conclude(ledger: Ledger, run: AirflowRun) -> RunOutcome:
    return conclude(run, [], lambda: ledger)


def _failed(ledger: Ledger, task: str, error: str, clear_number: int = 0, chain: tuple[str, ...] = ()) -> None:
    payload = {
        "task": task, "clear_number": clear_number, "error_type": "Refused", "error_chain": list(chain), "error": error,
    }  # fmt: skip
    ledger.evidence.add(_DAG, _RUN, TASK_FAILED, payload)


def test_what_the_ledger_keeps_of_a_refusal(ledger: Ledger) -> None:
    ledger.leases.acquire("production", Holder("deploy.production", "other", "lerato"), "deployment", 60)
    _failed(ledger, "acquire_lease", "held by lerato until noon", chain=("LeaseHeld",))
    told = _conclude(ledger, _run("failed"))
    assert (told.outcome, told.sentence) == ("refused", "held by lerato until noon")
    assert "The lease is held by" in told.state_now


def test_of_a_run_that_was_cleared_only_its_last_attempt_counts(ledger: Ledger) -> None:
    early = OutcomeFact(outcome="failed", summary="the first attempt", at=_STARTED - timedelta(hours=1))
    record(ledger, _DAG, _RUN, early)
    _failed(ledger, "bake", "of the first attempt")
    _failed(ledger, "bake", "of the second", clear_number=1)
    assert _conclude(ledger, _run("failed", clear_number=1)).sentence == "of the second"


def test_without_a_ledger_the_runs_own_words_are_left() -> None:
    def down() -> Ledger:
        raise LedgerUnavailable("connection refused")

    told = conclude(_run("failed"), [_returned("2 missing", "check", SENTENCE)], down)
    assert told.sentence == "2 missing"
    assert told.state_now == "the ledger can't be reached"


@pytest.fixture(scope="module")
def ended(server: Server) -> Iterator[str]:
    """A run that has ended, with what the ledger's sample keeps of it."""
    with server.client("thandi") as client:
        body = {"logical_date": None, "dag_run_id": ROLLED_BACK_RUN}
        assert client.post(f"/api/v2/dags/{DAG_ID}/dagRuns", json=body).is_success
        run = f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(ROLLED_BACK_RUN)}"
        assert client.patch(run, json={"state": "failed"}).is_success
        yield f"/sebenza/outcome/{DAG_ID}/{quote(ROLLED_BACK_RUN)}"
        client.delete(run)


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.slow
def test_who_may_ask_for_an_outcome(server: Server, ended: str) -> None:
    for user, status in ((None, 401), ("stranger", 403), ("lerato", 200)):
        with server.client(user) as client:
            assert client.get(ended).status_code == status
    with server.client("lerato") as client:
        assert client.get(f"/sebenza/outcome/{DAG_ID}/never").status_code == 404


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.slow
def test_an_outcome_over_the_api(server: Server, ended: str) -> None:
    with server.client("lerato") as client:
        told = client.get(ended).json()
        assert told["state"] == "failed"
        assert told["evidence"] == f"/sebenza/evidence/{DAG_ID}/{quote(ROLLED_BACK_RUN, safe='')}"
        assert client.get(told["evidence"]).status_code == 200
