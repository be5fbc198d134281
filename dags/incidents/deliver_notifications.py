"""
# Deliver notifications

Sends what waits in the outbox: messages about runs that could not be delivered when they were written, because Slack,
PagerDuty, a mail server or a webhook did not answer or asked to wait. Before that it carries over into the ledger what
emergencies have kept in journals on this machine while the ledger was down.

## When to run

Every minute, by itself. Press it to try at once after an outage of a receiver. Its log says what was delivered and what
was not, with each receiver's answer.

## What it changes

Nothing but the ledger and its outbox. A message is tried again after 10 seconds, then after ever longer pauses up to
15 minutes, for three days; then it is given up, and stays in the ledger with every answer it got.

## How it undoes itself

A message that was sent can't be unsent. A sender that dies in the middle leaves its messages to the next one after two
minutes; a message may then arrive twice, PagerDuty joins the two by their key.

## What can't run beside it

Nothing: senders claim messages, so that several never send the same one at once.
"""

from datetime import timedelta

from airflow.sdk import dag, task

from sebenza_ops.procedures import procedure_defaults


@dag(
    dag_id="deliver_notifications",
    dag_display_name="Deliver notifications",
    doc_md=__doc__,
    **procedure_defaults(
        None,
        "incidents",
        schedule="* * * * *",
        execution_timeout=timedelta(minutes=4),
        dagrun_timeout=timedelta(minutes=5),
        # Paused, it would leave people untold; a failure of the sender itself can't be told by the sender.
        is_paused_upon_creation=False,
        on_failure_callback=None,
        on_success_callback=None,
        max_active_runs=1,
        tags=["housekeeping"],
    ),
)
def deliver_notifications() -> None:
    @task
    def deliver_pending_messages() -> str:
        from sebenza_ops.ledger import Ledger, reconcile_pending
        from sebenza_ops.notify.outbox import deliver_pending

        ledger = Ledger.from_connection()
        reconcile_pending(ledger)
        report = str(deliver_pending(ledger))
        print(report)
        return report

    deliver_pending_messages()


deliver_notifications()
