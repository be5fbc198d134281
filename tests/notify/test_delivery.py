"""From a run's end to somebody's telephone, over the real protocols."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from lab.waiting import scaled
from sebenza_ops.environments.policies import Channels
from sebenza_ops.ledger import Ledger, Message, Outcome
from sebenza_ops.notify.outbox import (
    deliver_in_background,
    deliver_pending,
    queue_failure,
    queue_hold,
    queue_success,
    tell_directly,
)
from sebenza_ops.notify.runs import Run
from tests.ledger.conftest import SettableClock
from tests.notify.conftest import RunningMailbox, free_port

ALL = ["pagerduty:incidents", "slack:#alerts-critical", "email:oncall@example.com"]


def test_failure_arrives_once_over_every_channel(
    ledger: Ledger, run: Run, channels: Channels, mailbox: RunningMailbox
) -> None:
    assert queue_failure(ledger, run, ["switch"], channels=channels) == ALL
    assert queue_failure(ledger, run, ["switch"], "task_failure", channels=channels) == []
    report = deliver_pending(ledger)
    assert (report.delivered, report.failed) == (3, ())
    assert deliver_pending(ledger).delivered == 0
    [slack] = mailbox.messages("slack")
    [mail] = mailbox.messages("email")
    [page] = mailbox.messages("pagerduty")
    assert "[production] deploy_blue_green failed: v1.1.0" in slack["text"]
    assert "switch: no error was recorded" in slack["text"]
    assert "https://ops.example/dags/" in json.dumps(slack["payload"])
    assert mail["to"] == ["oncall@example.com"]
    assert mail["subject"] == "[production] deploy_blue_green failed: v1.1.0"
    assert (page["event_action"], page["severity"], page["dedup_key"]) == ("trigger", "critical", run.dedup_key)
    assert page["payload"]["payload"]["custom_details"]["release"] == "v1.1.0"
    assert mailbox.refusals() == []


def test_run_that_was_marked_failed_and_then_found_refused_is_told_once(
    ledger: Ledger, run: Run, channels: Channels
) -> None:
    ledger.deployments.start("production", run.dag_id, run.run_id, "thandi", "v1.1.0", None, "blue_green")
    assert queue_failure(ledger, run, ["plan_deployment"], "marked as failed by hand", channels=channels) == ALL
    ledger.deployments.finish(run.dag_id, run.run_id, Outcome.REFUSED, "failed before anything was changed")
    assert queue_failure(ledger, run, ["plan_deployment", "finish"], channels=channels) == []


def test_huge_message_is_taken_by_every_channel(
    ledger: Ledger, run: Run, channels: Channels, mailbox: RunningMailbox
) -> None:
    queue_failure(ledger, run, [], "<error> & " * 3000, channels=channels)
    assert deliver_pending(ledger).failed == ()
    assert mailbox.refusals() == []


@pytest.mark.parametrize(
    ("channel", "status", "first_pause_seconds"), [("slack", 500, 10), ("pagerduty", 500, 10), ("email", 451, 10)]
)
def test_error_answer_is_recorded_and_tried_again(
    ledger: Ledger,
    clock: SettableClock,
    run: Run,
    channels: Channels,
    mailbox: RunningMailbox,
    channel: str,
    status: int,
    first_pause_seconds: int,
) -> None:
    mailbox.fail_next(channel, status)  # type: ignore[arg-type]
    queue_failure(ledger, run, channels=channels)
    report = deliver_pending(ledger)
    assert report.delivered == 2
    assert len(report.failed) == 1
    assert str(status) in report.failed[0]
    [waiting] = ledger.outbox.pending()
    assert (waiting.attempts, waiting.message.channel.partition(":")[0]) == (1, channel)
    assert str(status) in (waiting.last_error or "")
    assert deliver_pending(ledger).delivered == 0
    clock.advance(first_pause_seconds)
    assert deliver_pending(ledger).delivered == 1
    assert len(mailbox.messages(channel)) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("channel", ["slack", "pagerduty"])
def test_rate_limit_is_left_to_the_outbox(
    ledger: Ledger, clock: SettableClock, run: Run, channels: Channels, mailbox: RunningMailbox, channel: str
) -> None:
    mailbox.fail_next(channel, 429)  # type: ignore[arg-type]
    queue_failure(ledger, run, channels=channels)
    [error] = deliver_pending(ledger).failed
    assert "HTTP 429" in error
    assert mailbox.messages(channel) == []  # type: ignore[arg-type]
    clock.advance(10)
    assert deliver_pending(ledger).delivered == 1


def test_nobody_listens(
    ledger: Ledger, clock: SettableClock, run: Run, channels: Channels, mailbox: RunningMailbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    port = free_port()
    closed = {
        "SEBENZA_SLACK": {"conn_type": "slackwebhook", "password": f"http://127.0.0.1:{port}/services/T/B/c"},
        "SEBENZA_PAGERDUTY": {"conn_type": "pagerduty_events", "password": "k", "host": f"http://127.0.0.1:{port}"},
        "SEBENZA_SMTP": {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": {"disable_ssl": True}},
    }
    with monkeypatch.context() as outage:
        for name, connection in closed.items():
            outage.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
        queue_failure(ledger, run, channels=channels)
        report = deliver_pending(ledger)
    assert report.delivered == 0
    assert len(report.failed) == 3
    assert "/services/T" not in str([item.last_error for item in ledger.outbox.pending()])
    clock.advance(10)
    assert deliver_pending(ledger).delivered == 3


def test_missing_connection_is_about_its_message_only(
    ledger: Ledger, run: Run, channels: Channels, mailbox: RunningMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_SEBENZA_PAGERDUTY")
    queue_failure(ledger, run, channels=channels)
    report = deliver_pending(ledger)
    assert report.delivered == 2
    assert "sebenza_pagerduty" in report.failed[0]


def test_integration_key_never_travels_unencrypted(
    ledger: Ledger, run: Run, channels: Channels, mailbox: RunningMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = {"conn_type": "pagerduty_events", "password": "k", "host": "http://events.pagerduty.example"}
    monkeypatch.setenv("AIRFLOW_CONN_SEBENZA_PAGERDUTY", json.dumps(remote))
    queue_failure(ledger, run, channels=channels)
    [error] = deliver_pending(ledger).failed
    assert "must be https://" in error


def test_webhook(ledger: Ledger, clock: SettableClock, run: Run, mailbox: RunningMailbox) -> None:
    hooked = Channels.model_validate(
        {"critical": [{"type": "webhook", "target": "status-board", "conn_id": "sebenza_webhook"}]}
    )
    mailbox.fail_next("webhook", 503)
    queue_failure(ledger, run, channels=hooked)
    [error] = deliver_pending(ledger).failed
    assert "HTTP 503" in error
    clock.advance(10)
    assert deliver_pending(ledger).delivered == 1
    [arrived] = mailbox.messages("webhook")
    assert arrived["payload"]["dag_id"] == run.dag_id


def test_unknown_channel_type_is_recorded(ledger: Ledger) -> None:
    ledger.outbox.enqueue(Message("d", "r", 0, "pigeon:home", "failure", "production", "s", "b", "critical", "k"))
    [error] = deliver_pending(ledger).failed
    assert "no such channel type" in error


def test_rerun_that_succeeds_resolves_the_page(
    ledger: Ledger, run: Run, channels: Channels, mailbox: RunningMailbox
) -> None:
    queue_failure(ledger, run, channels=channels)
    deliver_pending(ledger)
    assert queue_success(ledger, replace(run, clear_number=1), channels=channels) == ALL
    assert queue_success(ledger, replace(run, clear_number=1), channels=channels) == []
    deliver_pending(ledger)
    [incident] = mailbox.incidents()
    assert (incident["status"], incident["triggers"]) == ("resolved", 1)
    assert "succeeded again" in mailbox.messages("slack")[-1]["text"]


def test_run_that_failed_twice_is_one_incident_with_two_messages(
    ledger: Ledger, run: Run, channels: Channels, mailbox: RunningMailbox
) -> None:
    queue_failure(ledger, run, channels=channels)
    queue_failure(ledger, replace(run, clear_number=1), channels=channels)
    queue_success(ledger, replace(run, clear_number=2), channels=channels)
    deliver_pending(ledger)
    [incident] = mailbox.incidents()
    assert (incident["status"], incident["triggers"]) == ("resolved", 2)
    assert len(mailbox.messages("slack")) == 3


def test_next_run_of_the_procedure_resolves_the_page_of_the_last(
    ledger: Ledger, run: Run, channels: Channels, mailbox: RunningMailbox
) -> None:
    queue_failure(ledger, run, channels=channels)
    deliver_pending(ledger)
    queue_success(ledger, replace(run, run_id="manual__2"), channels=channels)
    queue_success(ledger, replace(run, dag_id="rollback.production", run_id="manual__3"), channels=channels)
    deliver_pending(ledger)
    [incident] = mailbox.incidents()
    assert incident["status"] == "resolved"


def test_resolution_waits_for_its_page(
    ledger: Ledger, clock: SettableClock, run: Run, channels: Channels, mailbox: RunningMailbox
) -> None:
    mailbox.fail_next("pagerduty", 500)
    queue_failure(ledger, run, channels=channels)
    queue_success(ledger, replace(run, clear_number=1), channels=channels)
    deliver_pending(ledger)
    assert mailbox.messages("pagerduty") == []
    clock.advance(10)
    deliver_pending(ledger)
    assert [event["event_action"] for event in mailbox.messages("pagerduty")] == ["trigger", "resolve"]


def test_first_success_pages_nobody(ledger: Ledger, run: Run, channels: Channels) -> None:
    assert queue_success(ledger, run, channels=channels) == []


def test_success_with_a_failed_task_is_told_as_a_failure(
    ledger: Ledger, run: Run, channels: Channels, mailbox: RunningMailbox
) -> None:
    assert queue_success(ledger, run, ["switch"], channels=channels) == ALL
    assert queue_failure(ledger, run, ["switch"], channels=channels) == []
    deliver_pending(ledger)
    [incident] = mailbox.incidents()
    assert incident["status"] == "triggered"


@pytest.mark.parametrize("trap", ["marked failed, ended as success by its teardown", "plan only", "rolled back"])
def test_success_that_is_none_resolves_nothing(ledger: Ledger, run: Run, channels: Channels, trap: str) -> None:
    queue_failure(ledger, replace(run, run_id="manual__0"), channels=channels)
    if trap == "plan only":
        run = replace(run, conf={"plan_only": True})
    elif trap == "rolled back":
        ledger.deployments.start("production", run.dag_id, run.run_id, "thandi", "v1.1.0", None, "blue_green")
        ledger.deployments.finish(run.dag_id, run.run_id, Outcome.ROLLED_BACK, "late errors")
    else:
        queue_failure(ledger, run, channels=channels)
    assert queue_success(ledger, run, channels=channels) == []


def test_hold_is_told_at_once_and_resolved_by_success(
    ledger: Ledger, run: Run, channels: Channels, mailbox: RunningMailbox
) -> None:
    assert queue_hold(ledger, run, "no data from Prometheus for 15 s", channels=channels) == ALL
    assert queue_hold(ledger, run, "no data from Prometheus for 16 s", channels=channels) == []
    deliver_in_background(ledger).join(timeout=scaled(30))
    assert "holds traffic" in mailbox.messages("slack")[0]["text"]
    assert "no data from Prometheus for 15 s" in mailbox.messages("slack")[0]["text"]
    queue_success(ledger, run, channels=channels)
    deliver_pending(ledger)
    [incident] = mailbox.incidents()
    assert incident["status"] == "resolved"


def test_background_delivery_survives_a_lost_ledger(caplog: pytest.LogCaptureFixture) -> None:
    thread = deliver_in_background(Ledger.open("postgresql://127.0.0.1:1/ledger"))
    assert isinstance(thread, threading.Thread)
    thread.join(timeout=scaled(30))
    assert "delivery in the background failed" in caplog.text


def test_people_are_told_without_the_ledger(run: Run, mailbox: RunningMailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEBENZA_ENVIRONMENTS", raising=False)
    assert tell_directly(run, ["switch"]) == []
    [page] = mailbox.messages("pagerduty")
    assert "the ledger can't be reached" in page["payload"]["payload"]["custom_details"]["state_now"]
