"""Messages about runs: queued in the ledger's outbox once, delivered until delivered.

Queueing costs one small transaction a channel and no network. Delivery never raises for a message that
can't be delivered: that is recorded with the message, and the next delivery tries again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sebenza_ops.notify import email, pagerduty, slack, webhook
from sebenza_ops.notify.errors import DeliveryError
from sebenza_ops.notify.messages import (
    FAILURE,
    HOLD,
    RESOLVED,
    failure_messages,
    hold_messages,
    notice_messages,
    question_messages,
    resolved_message,
    success_messages,
    warning_messages,
)
from sebenza_ops.notify.routing import Severity, channels_for, channels_of, failure_severity
from sebenza_ops.notify.runs import facts_without_ledger, gather_facts

if TYPE_CHECKING:
    from sebenza_ops.environments.policies import Channel, Channels
    from sebenza_ops.ledger import Ledger, Message, OutboxMessage
    from sebenza_ops.notify.runs import Run, RunFacts

log = logging.getLogger(__name__)

Sender = Callable[["Message"], None]
SENDERS: Mapping[str, Sender] = {
    "slack": slack.send,
    "pagerduty": pagerduty.send,
    "email": email.send,
    "webhook": webhook.send,
}
# Few, so that a slow receiver does not keep the claim on many others' messages.
_BATCH = 5


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What one delivery did; `failed` has an error for each message that has to be tried again."""

    delivered: int
    failed: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.delivered} delivered, {len(self.failed)} to be tried again" + "".join(
            f"\n{error}" for error in self.failed
        )


def queue_failure(
    ledger: Ledger,
    run: Run,
    failed_tasks: Iterable[str] = (),
    reason: str = "",
    channels: Channels | None = None,
) -> list[str]:
    """Queue one message a channel about a failed run; return the channels that had none yet.

    Args:
        ledger: the operations database.
        run: the run, with how often it was cleared.
        failed_tasks: ids of the tasks that failed, as far as known.
        reason: Airflow's reason, or a person's.
        channels: whom to tell; the environment's own when None.

    Raises LedgerUnavailable; `tell_directly` is what is left then.
    """
    facts = gather_facts(ledger, run, failed_tasks, reason)
    severity = failure_severity(facts.run.procedure, facts.refused)
    if _reported_as_failed(ledger, run, Severity.CRITICAL):
        # A run that is marked failed by hand is told of before its last task knows that it had touched nothing:
        # with its second, milder severity other channels would hear of the same failure again.
        severity = Severity.CRITICAL
    return _queue(ledger, failure_messages(facts, severity, _channels(run, severity, channels)))


def queue_hold(ledger: Ledger, run: Run, reason: str, channels: Channels | None = None) -> list[str]:
    """Queue one message a channel that a run holds traffic, for example because it has no data.

    Returns the channels that had none yet; repeat it as often as you like. Follow with
    `deliver_in_background`, as nothing else delivers within the minute.
    """
    facts = gather_facts(ledger, run)
    return _queue(ledger, hold_messages(facts, reason, Severity.CRITICAL, _channels(run, Severity.CRITICAL, channels)))


def queue_notice(ledger: Ledger, run: Run, text: str, channels: Channels | None = None) -> list[str]:
    """Queue one message a channel about what is coming; return the channels that had none yet."""
    facts = gather_facts(ledger, run)
    return _queue(ledger, notice_messages(facts, text, _channels(run, Severity.INFO, channels)))


def queue_warning(ledger: Ledger, run: Run, text: str, channels: Channels | None = None, about: str = "") -> list[str]:
    """Queue one message a channel about what is amiss in a run that goes on; return the channels that had none yet.

    What it is `about` is told once a run.
    """
    facts = gather_facts(ledger, run)
    return _queue(ledger, warning_messages(facts, text, _channels(run, Severity.WARNING, channels), about))


def queue_question(ledger: Ledger, run: Run, question: str, channels: Channels | None = None) -> list[str]:
    """Queue one message a channel that a run waits for an answer; return the channels that had none yet.

    A run that asks a second question is told of at its first: people look at the run.
    """
    facts = gather_facts(ledger, run)
    return _queue(ledger, question_messages(facts, question, _channels(run, Severity.WARNING, channels)))


def queue_success(
    ledger: Ledger, run: Run, failed_tasks: Iterable[str] = (), channels: Channels | None = None
) -> list[str]:
    """Queue the resolution of the procedure's open failures, each to those who were told of it.

    A run that ended as a success although a task failed is reported as a failure instead: a run that is marked
    failed by hand ends like that once its teardown is through. Nothing is queued when this very attempt was
    reported as failed already, when its deployment did not succeed, or when it only planned.
    """
    failed = list(failed_tasks)
    if failed:
        return queue_failure(ledger, run, failed, "the run ended as a success although tasks failed", channels)
    if _reported_as_failed(ledger, run) or not _changed_for_good(ledger, run):
        return []
    facts = gather_facts(ledger, run)
    open_failures = ledger.outbox.unresolved(run.dag_id, [FAILURE, HOLD], RESOLVED)
    informed = success_messages(facts, _channels(run, Severity.INFO, channels))
    return _queue(ledger, [*(resolved_message(failure, facts) for failure in open_failures), *informed])


def deliver_pending(ledger: Ledger, limit: int = 200) -> DeliveryReport:
    """Deliver every message that is due. Safe to run beside itself.

    Raises LedgerUnavailable when the outbox can't be read; never because of a message.
    """
    delivered = 0
    errors: list[str] = []
    while delivered + len(errors) < limit and (batch := ledger.outbox.claim(limit=_BATCH)):
        for item in batch:
            error = _deliver(ledger, item)
            if error is None:
                delivered += 1
            else:
                errors.append(error)
    return DeliveryReport(delivered, tuple(errors))


def deliver_in_background(ledger: Ledger) -> threading.Thread:
    """Deliver in a thread, for a caller that must not wait for other people's servers."""
    thread = threading.Thread(target=_deliver_and_log, args=(ledger,), name="sebenza-ops-delivery", daemon=True)
    thread.start()
    return thread


def tell_directly(run: Run, failed_tasks: Iterable[str] = (), reason: str = "") -> list[str]:
    """Send the messages of a failed run without the ledger, once; return the errors.

    For the hour in which the ledger itself is down: people hear of the failure, at worst twice.
    """
    facts: RunFacts = facts_without_ledger(run, failed_tasks, reason)
    severity = failure_severity(facts.run.procedure, facts.refused)
    errors = []
    for message in failure_messages(facts, severity, _channels(run, severity, None)):
        error = _try_to_send(message)
        if error is not None:
            log.error("not delivered, and the ledger can't keep it: %s", error)
            errors.append(str(error))
    return errors


def _channels(run: Run, severity: Severity, channels: Channels | None) -> tuple[Channel, ...]:
    from sebenza_ops.environments.inventory import load_inventory

    known = channels if channels is not None else channels_of(load_inventory(), run.environment)
    if known is None:
        log.error("nobody is told about %s %s: no environment has channels", run.dag_id, run.run_id)
        return ()
    return channels_for(known, severity)


def _queue(ledger: Ledger, messages: Iterable[Message]) -> list[str]:
    return [message.channel for message in messages if ledger.outbox.enqueue(message)]


def _reported_as_failed(ledger: Ledger, run: Run, severity: Severity | None = None) -> bool:
    return any(
        item.message.kind == FAILURE
        and item.message.clear_number == run.clear_number
        and severity in (None, item.message.severity)
        for item in ledger.outbox.of_run(run.dag_id, run.run_id)
    )


def _changed_for_good(ledger: Ledger, run: Run) -> bool:
    if run.conf.get("plan_only"):
        return False
    deployment = ledger.deployments.find(run.dag_id, run.run_id)
    return deployment is None or deployment.outcome is None or deployment.outcome.value == "succeeded"


def _deliver(ledger: Ledger, item: OutboxMessage) -> str | None:
    error = _try_to_send(item.message)
    if error is None:
        ledger.outbox.delivered(item.id)
        return None
    kept = ledger.outbox.failed(item.id, str(error), error.retry_after_seconds)
    log.warning(
        "message %d of %s %s not delivered (attempt %d, %s, next %s): %s",
        item.id, item.message.dag_id, item.message.run_id, kept.attempts, kept.state, kept.next_attempt_at, error,
    )  # fmt: skip
    return str(error)


def _try_to_send(message: Message) -> DeliveryError | None:
    kind = message.channel.partition(":")[0]
    sender = SENDERS.get(kind)
    if sender is None:
        return DeliveryError(kind, f"no such channel type; there are {', '.join(SENDERS)}")
    try:
        sender(message)
    except DeliveryError as error:
        return error
    # Whatever a provider raises, a missing connection included, is about this message, not about its sender.
    except Exception as error:
        return DeliveryError(kind, f"connection {message.conn_id}: {type(error).__name__}: {error}")
    return None


def _deliver_and_log(ledger: Ledger) -> None:
    try:
        log.info("delivery: %s", deliver_pending(ledger))
    # A thread has nobody to raise to; the messages stay in the outbox for the scheduled sender.
    except Exception:
        log.exception("delivery in the background failed; the scheduled sender tries again")
