"""What people are told: subject and body of every message, the same over all channels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from sebenza_ops.ledger.values import Message
from sebenza_ops.notify.routing import Severity, channel_name
from sebenza_ops.notify.text import one_line

if TYPE_CHECKING:
    from sebenza_ops.environments.policies import Channel
    from sebenza_ops.ledger import OutboxMessage
    from sebenza_ops.notify.runs import Run, RunFacts

FAILURE: Final = "failure"
HOLD: Final = "hold"
RESOLVED: Final = "resolved"
SUCCESS: Final = "success"
NOTICE: Final = "notice"
QUESTION: Final = "question"
WARNING: Final = "warning"


def failure_messages(facts: RunFacts, severity: Severity, channels: Iterable[Channel]) -> list[Message]:
    """Say that a run failed: environment, release, what failed, the state now, the link."""
    verb = "was refused" if facts.refused else "failed"
    subject = f"[{facts.run.environment}] {facts.run.procedure} {verb}: {facts.release}"
    return _to_all(channels, FAILURE, facts, severity, subject, [("What failed", facts.what_failed)])


def hold_messages(facts: RunFacts, reason: str, severity: Severity, channels: Iterable[Channel]) -> list[Message]:
    """Say that a run waits without data, and until when it does."""
    subject = f"[{facts.run.environment}] {facts.run.procedure} holds traffic: {facts.release}"
    return _to_all(channels, HOLD, facts, severity, subject, [("Why", reason)])


def notice_messages(facts: RunFacts, text: str, channels: Iterable[Channel]) -> list[Message]:
    """Say what is about to happen, to those who want to know; nobody is paged for it."""
    subject = f"[{facts.run.environment}] {facts.run.procedure} is coming: {facts.release}"
    unpaged = [channel for channel in channels if channel.type != "pagerduty"]
    return _to_all(unpaged, NOTICE, facts, Severity.INFO, subject, [("What", text)])


def question_messages(facts: RunFacts, question: str, channels: Iterable[Channel]) -> list[Message]:
    """Say that a run waits for somebody's answer; nobody is paged for it."""
    subject = f"[{facts.run.environment}] {facts.run.procedure} waits for an answer: {facts.release}"
    unpaged = [channel for channel in channels if channel.type != "pagerduty"]
    return _to_all(unpaged, QUESTION, facts, Severity.WARNING, subject, [("Question", question)])


def warning_messages(facts: RunFacts, text: str, channels: Iterable[Channel], about: str = "") -> list[Message]:
    """Say that something is amiss although the run goes on; nobody is paged for it.

    A run tells of each thing (`about`) once.
    """
    subject = f"[{facts.run.environment}] {facts.run.procedure} warns: {text}"
    unpaged = [channel for channel in channels if channel.type != "pagerduty"]
    kind = f"{WARNING}.{about}" if about else WARNING
    return _to_all(unpaged, kind, facts, Severity.WARNING, subject, [("What is amiss", text)])


def success_messages(facts: RunFacts, channels: Iterable[Channel]) -> list[Message]:
    """Say that a run succeeded, to those who want to know; nobody is paged for it."""
    subject = f"[{facts.run.environment}] {facts.run.procedure} succeeded: {facts.release}"
    unpaged = [channel for channel in channels if channel.type != "pagerduty"]
    return _to_all(unpaged, SUCCESS, facts, Severity.INFO, subject, [])


def resolved_message(failure: OutboxMessage, facts: RunFacts) -> Message:
    """Say to those who were told of a failure that it is over, under that failure's key."""
    told = failure.message
    subject = f"[{told.environment}] {facts.run.procedure} succeeded again: {facts.release}"
    what = f"Resolves: {told.subject} (run {told.run_id})"
    return Message(
        dag_id=told.dag_id,
        run_id=told.run_id,
        clear_number=told.clear_number,
        channel=told.channel,
        kind=RESOLVED,
        environment=told.environment,
        subject=one_line(subject),
        body="\n".join([what, *_lines(facts, [])]),
        severity=Severity.INFO.value,
        dedup_key=told.dedup_key,
        conn_id=told.conn_id,
        link=facts.link,
        details=_details(facts, []),
    )


def _to_all(
    channels: Iterable[Channel],
    kind: str,
    facts: RunFacts,
    severity: Severity,
    subject: str,
    middle: list[tuple[str, str]],
) -> list[Message]:
    run = facts.run
    return [
        Message(
            dag_id=run.dag_id,
            run_id=run.run_id,
            clear_number=run.clear_number,
            channel=channel_name(channel),
            kind=kind,
            environment=run.environment,
            subject=one_line(subject),
            body="\n".join(_lines(facts, middle)),
            severity=severity.value,
            dedup_key=run.dedup_key,
            conn_id=channel.conn_id,
            link=facts.link,
            details=_details(facts, middle),
        )
        for channel in channels
    ]


def _fields(facts: RunFacts, middle: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [
        ("Environment", facts.run.environment),
        ("Release", facts.release),
        *middle,
        ("State now", facts.state_now),
        ("Run", _run_line(facts.run)),
    ]


def _run_line(run: Run) -> str:
    cleared = f", cleared {run.clear_number} times" if run.clear_number > 1 else ", cleared once"
    started = f", started by {run.requested_by}" if run.requested_by else ""
    return f"{run.dag_id} {run.run_id}{cleared if run.clear_number else ''}{started}"


def _lines(facts: RunFacts, middle: list[tuple[str, str]]) -> list[str]:
    return [f"{label}: {value}" for label, value in _fields(facts, middle)]


def _details(facts: RunFacts, middle: list[tuple[str, str]]) -> dict[str, str]:
    return {label.lower().replace(" ", "_"): value for label, value in _fields(facts, middle)}
