"""What is known about a run when people are told about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sebenza_ops.ledger.masking import mask_text
from sebenza_ops.notify.text import fit, one_line

if TYPE_CHECKING:
    from sebenza_ops.ledger import Deployment, EvidenceEntry, Lease, Ledger

# The kind of evidence in which a failed task leaves its error, for a message written by another process.
TASK_FAILED = "task_failed"
# What a task may keep as progress to say in its own words how the environment was left.
STATE_NOW = "state_now"

# Of an error inside a sentence; the run's timeline has all of it.
_SHORT_CHARACTERS = 300

# Errors of a run that stops before it has touched anything; chapters raise them, so here they are names.
_REFUSALS = frozenset(
    {
        "EnvironmentFrozen",
        "LeaseHeld",
        "ReservationHeld",
        "RunSuperseded",
        "ChangeRefusedError",
        "ReleaseRefusedError",
        "RollbackRefusedError",
        "DecisionRejectedError",
        "DecisionMissingError",
    }
)


@dataclass(frozen=True, slots=True)
class Run:
    """A run, identified: `clear_number` counts how often it was cleared."""

    dag_id: str
    run_id: str
    clear_number: int
    requested_by: str | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)

    @property
    def procedure(self) -> str:
        """The procedure's name: the DAG id without its environment."""
        return self.dag_id.rpartition(".")[0] or self.dag_id

    @property
    def environment(self) -> str:
        """The environment's name, or `all environments` for a procedure that serves all."""
        procedure, _, environment = self.dag_id.rpartition(".")
        return environment if procedure else "all environments"

    @property
    def dedup_key(self) -> str:
        """What all messages about this run share, so that a resolution finds its page.

        PagerDuty takes at most 255 characters: https://developer.pagerduty.com/docs/send-alert-event
        """
        return f"sebenza-ops/{self.dag_id}/{self.run_id}"[:255]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a message says about a run."""

    run: Run
    release: str
    what_failed: str
    state_now: str
    link: str | None
    refused: bool = False
    plan_only: bool = False


def gather_facts(ledger: Ledger, run: Run, failed_tasks: Iterable[str] = (), reason: str = "") -> RunFacts:
    """Collect from the ledger what a message about the run says.

    Args:
        ledger: the operations database.
        run: the run.
        failed_tasks: ids of the tasks that Airflow knows to have failed.
        reason: Airflow's reason for the run's end, used when no task left an error.
    """
    deployment = ledger.deployments.find(run.dag_id, run.run_id)
    errors = _task_errors(ledger, run)
    lease = ledger.leases.current(run.environment)
    return RunFacts(
        run=run,
        release=_release(run, deployment),
        what_failed=describe_failure(_texts(errors), failed_tasks, reason),
        state_now=describe_state(deployment, lease, run),
        link=run_link(run.dag_id, run.run_id),
        refused=_is_refused(deployment, errors),
        plan_only=bool(run.conf.get("plan_only")),
    )


def facts_without_ledger(run: Run, failed_tasks: Iterable[str] = (), reason: str = "") -> RunFacts:
    """Return what can be said about a run while the ledger can't be reached."""
    return RunFacts(
        run=run,
        release=_release(run, None),
        what_failed=describe_failure({}, failed_tasks, reason),
        state_now="unknown: the ledger can't be reached; ask the load balancers",
        link=run_link(run.dag_id, run.run_id),
    )


def describe_failure(errors: Mapping[str, str], failed_tasks: Iterable[str], reason: str) -> str:
    """Say which tasks failed with which error, one line a task, the first to fail first."""
    lines = [f"{task_id}: {mask_text(error)}" for task_id, error in errors.items()]
    lines += [f"{task_id}: no error was recorded; see its log" for task_id in failed_tasks if task_id not in errors]
    return "\n".join(lines) or mask_text(reason) or "no task; the run was ended from outside"


def describe_state(deployment: Deployment | None, lease: Lease | None, run: Run) -> str:
    """Say how the run left the environment, as far as the ledger knows."""
    if lease is None:
        held = "The lease is free."
    else:
        holder = "this run" if (lease.holder.dag_id, lease.holder.run_id) == (run.dag_id, run.run_id) else lease.holder
        held = f"The lease is held by {holder} until {lease.expires_at.isoformat(timespec='seconds')}."
    if deployment is None:
        return f"The ledger has no change by this run. {held}"
    known = [str(deployment.progress.get(STATE_NOW) or "")]
    if deployment.outcome is not None:
        known.append(f"Outcome: {deployment.outcome.value}{f', {deployment.detail}' if deployment.detail else ''}.")
    elif deployment.phase:
        known.append(f"Last phase: {deployment.phase}.")
    return " ".join([*filter(None, known), held])


def run_link(dag_id: str, run_id: str) -> str | None:
    """Return the run's address in the Airflow UI, or None when `[api] base_url` is not configured."""
    from airflow.configuration import conf

    base_url = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    if not base_url:
        return None
    return f"{base_url}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def first_error(ledger: Ledger, dag_id: str, run_id: str) -> str:
    """What the task has said that failed first in a run, since it was cleared last: one line; empty when none has."""
    entries = ledger.evidence.entries(dag_id, run_id, TASK_FAILED)
    clearing = max((int(entry.payload["clear_number"]) for entry in entries), default=0)
    errors = [str(entry.payload["error"]) for entry in entries if entry.payload["clear_number"] == clearing]
    return fit(one_line(mask_text(errors[0])), _SHORT_CHARACTERS) if errors else ""


def error_chain(error: BaseException | None) -> list[str]:
    """Return the names of an error's types, the error's own first, then those that it was raised from."""
    chain: list[BaseException] = []
    # Python allows an error that was raised from itself; the callback must end all the same.
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__
    return [type(link).__name__ for link in chain]


def _task_errors(ledger: Ledger, run: Run) -> list[EvidenceEntry]:
    entries = ledger.evidence.entries(run.dag_id, run.run_id, TASK_FAILED)
    return [entry for entry in entries if entry.payload.get("clear_number") == run.clear_number]


def _texts(errors: Iterable[EvidenceEntry]) -> dict[str, str]:
    return {str(entry.payload["task"]): f"{entry.payload['error_type']}: {entry.payload['error']}" for entry in errors}


def _is_refused(deployment: Deployment | None, errors: list[EvidenceEntry]) -> bool:
    if (
        deployment is not None
        and deployment.outcome is not None
        and deployment.outcome.value in ("refused", "rejected")
    ):
        return True
    if not errors or not all(_REFUSALS & set(entry.payload.get("error_chain", ())) for entry in errors):
        return False
    if deployment is None:
        return True
    # A cleared run that is superseded has the record of its earlier attempt, which ended before the refusal.
    return deployment.finished_at is not None and deployment.finished_at < errors[0].at


def _release(run: Run, deployment: Deployment | None) -> str:
    if deployment is not None:
        return deployment.release_id or deployment.requested_version
    return str(run.conf.get("version") or "none")
