from __future__ import annotations

from datetime import timedelta

import pytest

from sebenza_ops.ledger import Ledger, Message, MessageState, RecordUnknown
from sebenza_ops.ledger.outbox import GIVE_UP_AFTER_SECONDS, LONGEST_RETRY_SECONDS, retry_delay_seconds
from tests.ledger.conftest import SettableClock


def message(
    run_id: str = "manual__1",
    clear_number: int = 0,
    channel: str = "slack",
    kind: str = "failure",
    dedup_key: str | None = None,
) -> Message:
    return Message(
        dag_id="deploy_blue_green.production",
        run_id=run_id,
        clear_number=clear_number,
        channel=channel,
        kind=kind,
        environment="production",
        subject="failed",
        body="password=hunter2",
        severity="error",
        dedup_key=dedup_key or f"deploy_blue_green.production/{run_id}",
        link="https://ops.example/run",
        details={"release": "v1.1.0-1"},
    )


def test_one_message_by_run_clear_number_channel_and_kind(ledger: Ledger) -> None:
    assert ledger.outbox.enqueue(message()) is True
    assert ledger.outbox.enqueue(message()) is False
    assert ledger.outbox.enqueue(message(clear_number=1)) is True
    assert ledger.outbox.enqueue(message(channel="pagerduty")) is True
    assert ledger.outbox.enqueue(message(kind="hold")) is True
    assert ledger.outbox.enqueue(message(run_id="manual__2")) is True
    assert len(ledger.outbox.pending()) == 5
    assert len(ledger.outbox.of_run("deploy_blue_green.production", "manual__1")) == 4


def test_message_is_kept_whole_but_for_secrets(ledger: Ledger) -> None:
    ledger.outbox.enqueue(message())
    kept = ledger.outbox.pending()[0].message
    assert kept.body == "password=***"
    assert (kept.details, kept.link, kept.severity) == ({"release": "v1.1.0-1"}, "https://ops.example/run", "error")


def test_claimed_message_is_nobody_elses_until_the_claim_ends(ledger: Ledger, clock: SettableClock) -> None:
    ledger.outbox.enqueue(message())
    assert len(ledger.outbox.claim(claim_seconds=60)) == 1
    assert ledger.outbox.claim() == []
    clock.advance(60)
    assert len(ledger.outbox.claim()) == 1


def test_delivered_message_is_done(ledger: Ledger, clock: SettableClock) -> None:
    ledger.outbox.enqueue(message())
    [claimed] = ledger.outbox.claim()
    ledger.outbox.delivered(claimed.id)
    clock.advance(10_000)
    assert ledger.outbox.claim() == []
    assert ledger.outbox.pending() == []
    assert ledger.outbox.attempts(claimed.id) == [(clock.moment - timedelta(seconds=10_000), None)]


def test_failed_message_is_tried_again_later_and_later(ledger: Ledger, clock: SettableClock) -> None:
    ledger.outbox.enqueue(message())
    [claimed] = ledger.outbox.claim()
    for attempt, delay_seconds in enumerate((10, 20, 40), start=1):
        failed = ledger.outbox.failed(claimed.id, f"HTTP 500 from https://hooks.slack.com/services/T/B/x{attempt}")
        assert failed.next_attempt_at - clock.moment == timedelta(seconds=delay_seconds)
        clock.advance(delay_seconds - 1)
        assert ledger.outbox.claim() == []
        clock.advance(1)
        assert len(ledger.outbox.claim()) == 1
    errors = [error for _at, error in ledger.outbox.attempts(claimed.id)]
    assert errors == ["HTTP 500 from https://hooks.slack.com/services/***"] * 3


def test_receivers_wish_to_wait_longer_is_respected(ledger: Ledger, clock: SettableClock) -> None:
    ledger.outbox.enqueue(message())
    [claimed] = ledger.outbox.claim()
    failed = ledger.outbox.failed(claimed.id, "HTTP 429", retry_after_seconds=300)
    assert failed.next_attempt_at == clock.moment + timedelta(seconds=300)


def test_given_up_after_three_days_and_recorded(ledger: Ledger, clock: SettableClock) -> None:
    ledger.outbox.enqueue(message())
    [claimed] = ledger.outbox.claim()
    clock.advance(GIVE_UP_AFTER_SECONDS)
    assert ledger.outbox.failed(claimed.id, "HTTP 404").state is MessageState.ABANDONED
    clock.advance(LONGEST_RETRY_SECONDS)
    assert ledger.outbox.claim() == []
    [kept] = ledger.outbox.of_run("deploy_blue_green.production", "manual__1")
    assert kept.last_error == "HTTP 404"


def test_resolution_never_overtakes_the_failure(ledger: Ledger, clock: SettableClock) -> None:
    ledger.outbox.enqueue(message())
    ledger.outbox.enqueue(message(kind="resolved"))
    ledger.outbox.enqueue(message(channel="pagerduty", kind="resolved"))
    claimed = ledger.outbox.claim()
    assert [(item.message.channel, item.message.kind) for item in claimed] == [
        ("slack", "failure"),
        ("pagerduty", "resolved"),
    ]
    ledger.outbox.failed(claimed[0].id, "HTTP 500")
    assert ledger.outbox.claim() == []
    clock.advance(10)
    [again] = ledger.outbox.claim()
    ledger.outbox.delivered(again.id)
    assert [item.message.kind for item in ledger.outbox.claim()] == ["resolved"]


def test_unresolved_failures_of_a_procedure(ledger: Ledger) -> None:
    ledger.outbox.enqueue(message("manual__1"))
    ledger.outbox.enqueue(message("manual__1", clear_number=1))
    ledger.outbox.enqueue(message("manual__2"))
    ledger.outbox.enqueue(message("manual__2", kind="resolved"))
    open_failures = ledger.outbox.unresolved("deploy_blue_green.production", ["failure"], "resolved")
    assert [(item.message.run_id, item.message.clear_number) for item in open_failures] == [("manual__1", 1)]
    assert ledger.outbox.unresolved("rollback.production", ["failure"], "resolved") == []


def test_unknown_message(ledger: Ledger) -> None:
    with pytest.raises(RecordUnknown):
        ledger.outbox.delivered(404)


@pytest.mark.parametrize(("attempts", "seconds"), [(0, 10), (1, 10), (2, 20), (5, 160), (8, 900), (5000, 900)])
def test_retry_delay(attempts: int, seconds: float) -> None:
    assert retry_delay_seconds(attempts) == seconds
