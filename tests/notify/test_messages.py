from __future__ import annotations

from dataclasses import replace

from sebenza_ops.environments.policies import Channels
from sebenza_ops.ledger import Holder, Ledger, Message, Outcome
from sebenza_ops.notify import email, pagerduty, slack, webhook
from sebenza_ops.notify.messages import failure_messages, warning_messages
from sebenza_ops.notify.routing import Severity, channels_for
from sebenza_ops.notify.runs import STATE_NOW, TASK_FAILED, Run, gather_facts
from sebenza_ops.notify.text import fit
from tests.ledger.conftest import SettableClock

HUGE = "x" * 20_000


def _start(ledger: Ledger, run: Run) -> None:
    ledger.deployments.start("production", run.dag_id, run.run_id, "thandi", "v1.1.0", "v1.1.0-0a1b2c", "blue_green")


def _fail_task(ledger: Ledger, run: Run, task: str, error_type: str, error: str, clear_number: int = 0) -> None:
    payload = {
        "task": task,
        "clear_number": clear_number,
        "try_number": 1,
        "error_type": error_type,
        "error_chain": ["AirflowFailException", error_type],
        "error": error,
    }
    ledger.evidence.add(run.dag_id, run.run_id, TASK_FAILED, payload)


def _failure(ledger: Ledger, run: Run, channels: Channels) -> Message:
    facts = gather_facts(ledger, run, ["switch_prove_and_bake"])
    [_page, message, _email] = failure_messages(facts, Severity.CRITICAL, channels_for(channels, Severity.CRITICAL))
    return message


def test_failure_says_environment_release_what_failed_state_now_and_link(
    ledger: Ledger, run: Run, channels: Channels
) -> None:
    _start(ledger, run)
    _fail_task(ledger, run, "switch_prove_and_bake", "BakeFailed", "error ratio 8.1% over 5%")
    ledger.deployments.set_progress(run.dag_id, run.run_id, STATE_NOW, "All traffic is on blue again.")
    ledger.deployments.finish(run.dag_id, run.run_id, Outcome.ROLLED_BACK, "switched back in 2.1 s")
    ledger.leases.acquire("production", Holder(run.dag_id, run.run_id, "thandi"), "deploy", 120)
    message = _failure(ledger, run, channels)
    assert message.subject == "[production] deploy_blue_green failed: v1.1.0-0a1b2c"
    assert message.body.splitlines() == [
        "Environment: production",
        "Release: v1.1.0-0a1b2c",
        "What failed: switch_prove_and_bake: BakeFailed: error ratio 8.1% over 5%",
        "State now: All traffic is on blue again. Outcome: rolled_back, switched back in 2.1 s. "
        "The lease is held by this run until 2026-03-01T02:02:00+00:00.",
        "Run: deploy_blue_green.production manual__2026-03-01T02:00:00+00:00, started by thandi",
    ]
    assert message.link == (
        "https://ops.example/dags/deploy_blue_green.production/runs/manual__2026-03-01T02%3A00%3A00%2B00%3A00"
    )


def test_a_warning_says_what_is_amiss_and_pages_nobody(ledger: Ledger, channels: Channels) -> None:
    run = Run("backup_database.production", "scheduled__1", 0)
    text = "the recovery point is 7200 s, the objective is 3600 s"
    facts = gather_facts(ledger, run)
    told = warning_messages(facts, text, channels_for(channels, Severity.CRITICAL))
    assert told
    assert not [message for message in told if message.channel.startswith("pagerduty")]
    assert told[0].subject == f"[production] backup_database warns: {text}"
    assert f"What is amiss: {text}" in told[0].body


def test_errors_of_earlier_attempts_are_left_out(ledger: Ledger, run: Run, channels: Channels) -> None:
    _fail_task(ledger, run, "acquire_lease", "LeaseHeld", "old", clear_number=0)
    body = _failure(ledger, replace(run, clear_number=1), channels).body
    assert "old" not in body
    assert "switch_prove_and_bake: no error was recorded" in body
    assert "cleared once" in body


def test_run_that_was_refused_at_once(ledger: Ledger, run: Run) -> None:
    _fail_task(ledger, run, "acquire_lease", "LeaseHeld", "held by somebody")
    assert gather_facts(ledger, run).refused is True


def test_refusal_in_the_middle_of_a_change_is_a_failure(ledger: Ledger, run: Run) -> None:
    _start(ledger, run)
    _fail_task(ledger, run, "switch_prove_and_bake", "LeaseHeld", "taken over")
    assert gather_facts(ledger, run).refused is False


def test_superseded_run_that_was_cleared_is_refused(ledger: Ledger, clock: SettableClock, run: Run) -> None:
    _start(ledger, run)
    ledger.deployments.finish(run.dag_id, run.run_id, Outcome.SUCCEEDED, "live on green")
    clock.advance(3600)
    _fail_task(ledger, run, "acquire_lease", "RunSuperseded", "changed later", clear_number=1)
    assert gather_facts(ledger, replace(run, clear_number=1)).refused is True


def test_change_that_ended_after_its_error_is_a_failure(ledger: Ledger, clock: SettableClock, run: Run) -> None:
    _start(ledger, run)
    _fail_task(ledger, run, "switch_prove_and_bake", "ChangeRefusedError", "taken over")
    clock.advance(10)
    ledger.deployments.finish(run.dag_id, run.run_id, Outcome.FAILED, "switched back")
    assert gather_facts(ledger, run).refused is False


def test_procedure_that_serves_all_environments() -> None:
    run = Run("build_release", "manual__1", 0)
    assert (run.procedure, run.environment) == ("build_release", "all environments")


def _message(**changes: str) -> Message:
    message = Message(
        dag_id="deploy_blue_green.production",
        run_id="manual__1",
        clear_number=0,
        channel="email:oncall@example.com",
        kind="failure",
        environment="production",
        subject="subject",
        body="body",
        severity="critical",
        dedup_key="key",
        link="https://ops.example/runs/1",
        details={"what_failed": HUGE},
    )
    return replace(message, **changes)  # type: ignore[arg-type]


def test_slack_limits_and_escapes() -> None:
    payload = slack.render(_message(subject=HUGE, body="<!channel> & " + HUGE))
    header, body, link = (block["text"]["text"] for block in payload["blocks"])
    assert len(header) == slack.HEADER_LIMIT_CHARACTERS
    assert len(body) == slack.SECTION_LIMIT_CHARACTERS
    assert body.startswith("&lt;!channel&gt; &amp; x")
    assert body.endswith("(cut)")
    assert len(payload["text"]) == slack.TEXT_LIMIT_CHARACTERS
    assert link == "<https://ops.example/runs/1|Open the run>"


def test_pagerduty_limits() -> None:
    event = pagerduty.render(_message(subject=HUGE))
    assert len(event["summary"]) == pagerduty.SUMMARY_LIMIT_CHARACTERS
    assert len(event["custom_details"]["what_failed"]) == pagerduty.DETAIL_LIMIT_CHARACTERS
    assert event["action"] == "trigger"
    assert pagerduty.render(_message(kind="resolved"))["action"] == "resolve"


def test_dedup_key_fits_pagerduty() -> None:
    assert len(Run("deploy_blue_green.production", "r" * 400, 0).dedup_key) == 255


def test_email_escapes_html_and_addresses_the_target() -> None:
    mail = email.render(_message(body="<script>alert(1)</script>"))
    assert mail["to"] == "oncall@example.com"
    assert "<script>" not in mail["html_content"]
    assert len(email.render(_message(subject=HUGE))["subject"]) == email.SUBJECT_LIMIT_CHARACTERS


def test_webhook_document_names_the_run() -> None:
    document = webhook.render(_message())
    assert (document["dag_id"], document["run_id"], document["kind"]) == (
        "deploy_blue_green.production",
        "manual__1",
        "failure",
    )


def test_text_is_cut_only_when_too_long() -> None:
    assert fit("abc", 3) == "abc"
    assert fit("a" * 30, 20) == "a" * 12 + " … (cut)"
