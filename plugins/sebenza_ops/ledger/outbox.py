"""The outbox: messages to people, kept until delivered.

Whoever learns of something worth telling enqueues a message; the unique key makes the second one to learn of
it do nothing. Senders claim messages for a short time, so that two never send the same one at once.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session, aliased

from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.errors import RecordUnknown
from sebenza_ops.ledger.masking import mask_object, mask_text
from sebenza_ops.ledger.models import MessageAttemptRow, MessageRow
from sebenza_ops.ledger.values import Message, MessageState, OutboxMessage

FIRST_RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 900.0
GIVE_UP_AFTER_SECONDS = 3 * 24 * 3600.0
CLAIM_SECONDS = 120.0

_UNIQUE = ["dag_id", "run_id", "clear_number", "channel", "kind"]


def retry_delay_seconds(attempts: int) -> float:
    """Return how long to wait after the given number of failed attempts: doubling, up to a quarter of an hour."""
    doublings = min(max(attempts - 1, 0), 30)
    return min(FIRST_RETRY_SECONDS * float(2**doublings), LONGEST_RETRY_SECONDS)


class Outbox:
    """Messages of all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enqueue(self, message: Message) -> bool:
        """Keep a message for delivery; False when this run, clear number, channel and kind has one already."""
        with self._database.writing() as session:
            now = self._database.now(session)
            values = {
                "dag_id": message.dag_id,
                "run_id": message.run_id,
                "clear_number": message.clear_number,
                "channel": message.channel,
                "kind": message.kind,
                "environment": message.environment,
                "subject": mask_text(message.subject),
                "body": mask_text(message.body),
                "severity": message.severity,
                "dedup_key": message.dedup_key,
                "conn_id": message.conn_id,
                "link": message.link,
                "details": mask_object(message.details),
                "created_at": now,
                "state": MessageState.PENDING.value,
                "attempts": 0,
                "next_attempt_at": now,
            }
            return self._database.insert_if_absent(session, MessageRow, values, _UNIQUE)

    def claim(
        self, now: datetime | None = None, limit: int = 20, claim_seconds: float = CLAIM_SECONDS
    ) -> list[OutboxMessage]:
        """Return messages that are due, oldest first, for the caller alone until `claim_seconds` from now.

        A message waits for the earlier ones of its channel and dedup key: a "resolved" never overtakes the
        failure that it resolves.
        """
        earlier = aliased(MessageRow)
        overtaken = exists().where(
            earlier.channel == MessageRow.channel,
            earlier.dedup_key == MessageRow.dedup_key,
            earlier.id < MessageRow.id,
            earlier.state == MessageState.PENDING.value,
        )
        with self._database.writing() as session:
            moment = now if now is not None else self._database.now(session)
            due = (
                select(MessageRow)
                .where(
                    MessageRow.state == MessageState.PENDING.value,
                    MessageRow.next_attempt_at <= moment,
                    or_(MessageRow.claimed_until.is_(None), MessageRow.claimed_until <= moment),
                    ~overtaken,
                )
                .order_by(MessageRow.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            rows = list(session.scalars(due))
            for row in rows:
                row.claimed_until = moment + timedelta(seconds=claim_seconds)
            return [_outbox_message(row) for row in rows]

    def delivered(self, message_id: int) -> None:
        """Record that a message was delivered. Raises RecordUnknown."""
        with self._database.writing() as session:
            row = _locked(session, message_id)
            now = self._database.now(session)
            _record_attempt(session, row, now, None)
            row.state, row.delivered_at, row.claimed_until = MessageState.DELIVERED.value, now, None

    def failed(self, message_id: int, error: str, retry_after_seconds: float | None = None) -> OutboxMessage:
        """Record a failed attempt and when to try next; give up after three days. Raises RecordUnknown.

        `retry_after_seconds` is what the receiver asked for, used when longer than our own delay.
        """
        with self._database.writing() as session:
            row = _locked(session, message_id)
            now = self._database.now(session)
            _record_attempt(session, row, now, mask_text(error))
            row.last_error, row.claimed_until = mask_text(error), None
            delay_seconds = max(retry_delay_seconds(row.attempts), retry_after_seconds or 0.0)
            row.next_attempt_at = now + timedelta(seconds=delay_seconds)
            if row.next_attempt_at - row.created_at > timedelta(seconds=GIVE_UP_AFTER_SECONDS):
                row.state = MessageState.ABANDONED.value
            return _outbox_message(row)

    def pending(self, limit: int = 100) -> list[OutboxMessage]:
        """Return the messages that are not delivered yet, oldest first."""
        return self._select(MessageRow.state == MessageState.PENDING.value, limit=limit)

    def of_run(self, dag_id: str, run_id: str) -> list[OutboxMessage]:
        """Return every message of a run, oldest first."""
        return self._select(MessageRow.dag_id == dag_id, MessageRow.run_id == run_id, limit=1000)

    def unresolved(self, dag_id: str, kinds: Collection[str], resolving_kind: str) -> list[OutboxMessage]:
        """Return a procedure's messages of these kinds that no later one of their channel and dedup key resolves.

        One a channel and dedup key, the newest; those that were given up are left out, as nobody got them.
        """
        later = aliased(MessageRow)
        superseded = exists().where(
            later.channel == MessageRow.channel,
            later.dedup_key == MessageRow.dedup_key,
            later.id > MessageRow.id,
            later.kind.in_([*kinds, resolving_kind]),
        )
        return self._select(
            MessageRow.dag_id == dag_id,
            MessageRow.kind.in_(kinds),
            MessageRow.state != MessageState.ABANDONED.value,
            ~superseded,
            limit=1000,
        )

    def attempts(self, message_id: int) -> list[tuple[datetime, str | None]]:
        """Return when delivery of a message was tried, each with its error, or None for success."""
        query = (
            select(MessageAttemptRow).where(MessageAttemptRow.message_id == message_id).order_by(MessageAttemptRow.id)
        )
        with self._database.reading() as session:
            return [(row.at, row.error) for row in session.scalars(query)]

    def _select(self, *conditions: Any, limit: int) -> list[OutboxMessage]:
        query = select(MessageRow).where(*conditions).order_by(MessageRow.id).limit(limit)
        with self._database.reading() as session:
            return [_outbox_message(row) for row in session.scalars(query)]


def _locked(session: Session, message_id: int) -> MessageRow:
    row = session.get(MessageRow, message_id, with_for_update=True)
    if row is None:
        raise RecordUnknown(f"The outbox has no message {message_id}.")
    return row


def _record_attempt(session: Session, row: MessageRow, at: datetime, error: str | None) -> None:
    row.attempts += 1
    session.add(MessageAttemptRow(message_id=row.id, at=at, error=error))


def _outbox_message(row: MessageRow) -> OutboxMessage:
    return OutboxMessage(
        id=row.id,
        message=Message(
            dag_id=row.dag_id,
            run_id=row.run_id,
            clear_number=row.clear_number,
            channel=row.channel,
            kind=row.kind,
            environment=row.environment,
            subject=row.subject,
            body=row.body,
            severity=row.severity,
            dedup_key=row.dedup_key,
            conn_id=row.conn_id,
            link=row.link,
            details=row.details,
        ),
        state=MessageState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        delivered_at=row.delivered_at,
        last_error=row.last_error,
    )
