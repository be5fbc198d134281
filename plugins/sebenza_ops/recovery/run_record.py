"""The record of a recovery's run in the ledger: its plan, how far it has come, and the lease that it works under."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment, Host, Role
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.systems.database_server import DatabaseServer
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.fencing import SeenToken, changed_hosts, parse_seen_token, raise_tokens, read_tokens
from sebenza_ops.systems.pgbackrest import JobStatus
from sebenza_ops.systems.ssh import HostSession, kept_sessions, on_hosts

POLL_SECONDS = 0.5
LEASE_TTL_SECONDS = 120.0
# Beyond the host's own end of a job.
JOB_GRACE_SECONDS = 120.0


class JobFailedError(Exception):
    """A job on a host has failed; the message has the end of its log."""


class RunRecord:
    """What one run keeps over kills.

    Args:
        run: The run.
        strategy: The procedure's name.
    """

    def __init__(self, run: ChangeRun, strategy: str) -> None:
        self.run, self.strategy = run, strategy

    def start(self, words: str) -> None:
        """Make the record, or find it; a run that was cleared after its end begins anew."""
        holder = self.run.holder
        self.run.ledger.deployments.start(
            self.run.environment.name, holder.dag_id, holder.run_id, holder.actor, words, None, self.strategy
        )

    def progress(self) -> dict[str, Any]:
        """How far it has come."""
        record = self.run.ledger.deployments.find(self.run.holder.dag_id, self.run.holder.run_id)
        return dict((record.progress if record is not None else {}).get(self.strategy) or {})

    def save(self, **values: Any) -> None:
        """Keep values."""
        holder = self.run.holder
        self.run.ledger.deployments.set_progress(
            holder.dag_id, holder.run_id, self.strategy, {**self.progress(), **values}
        )

    def keep_plan(self, plan: Mapping[str, Any]) -> None:
        """Keep the plan, for people who look at the run."""
        self.run.ledger.deployments.update(self.run.holder.dag_id, self.run.holder.run_id, plan=plan)

    def gate(self, name: str, wrong: list[str], good: str) -> bool:
        """Record a check as evidence. Returns whether it passed."""
        verdict, detail = ("fail", "; ".join(wrong)) if wrong else ("pass", good)
        self.run.record(
            [GateFact.model_validate({"name": name, "verdict": verdict, "detail": detail, "at": utc_now()})]
        )
        return not wrong


def job_key(run: ChangeRun) -> str:
    """A run as the name of what it makes on hosts. A run that was cleared from its beginning makes something else."""
    holder = run.holder
    return hashlib.sha256(f"{holder.dag_id}/{holder.run_id}/{run.clear_number}".encode()).hexdigest()[:32]


@kept_sessions()
def take_lease(run: ChangeRun, purpose: str) -> int:
    """Take the environment's lease with a token above every one that a host has seen, and tell the hosts.

    A freeze does not count: it stops no recovery. Returns the token. Raises ChangeRefusedError.
    """
    environment = run.environment
    databases = environment.hosts_with_role(Role.DATABASE)
    hosts: dict[str, Host] = {
        host.name: host
        for host in (*changed_hosts(environment), *environment.hosts_with_role(Role.DATABASE_ENDPOINT), *databases)
    }
    conn_id = environment.database.ssh_conn_id
    answers: list[object] = list(read_tokens(environment, hosts.values()).values())
    if conn_id is not None:
        answers += on_hosts(databases, conn_id, lambda session: _owner_token(environment, session)).values()
    seen = max((answer.token for answer in answers if isinstance(answer, SeenToken)), default=0)
    lease = run.acquire(purpose, LEASE_TTL_SECONDS, seen)
    told: dict[str, object] = dict(raise_tokens(environment, hosts.values(), run.fence))
    if conn_id is not None:
        as_owner = on_hosts(
            databases, conn_id, lambda session: DatabaseServer(environment, session).raise_token(run.fence)
        )
        told |= {f"{name} (as the owner of its cluster)": answer for name, answer in as_owner.items()}
    for name, answer in told.items():
        if isinstance(answer, FencedOffError):
            raise answer
        if isinstance(answer, OutsideSystemError):
            run.note(f"it could not be told the fencing token: {answer}", "warning", host=name.partition(" ")[0])
    run.note(f"{purpose}: lease taken by {run.holder.actor}, fencing token {lease.token}")
    return lease.token


def _owner_token(environment: Environment, session: HostSession) -> SeenToken:
    """The token that the owner of the cluster has seen, who keeps a fence of its own."""
    place = [session.host.path(environment.database.state_dir), environment.name]
    return parse_seen_token(session.host.name, session.run_script("fence_read", place, timeout_seconds=10).stdout)


def await_job(
    status: Callable[[], JobStatus],
    what: str,
    host: str,
    timeout_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> JobStatus:
    """Wait for the end of a job that was started. Raises JobFailedError."""
    give_up_at = time.monotonic() + timeout_seconds + JOB_GRACE_SECONDS
    while True:
        found = status()
        if found.state == "done":
            return found
        if found.state != "running":
            raise JobFailedError(f"{what} on {host} has failed: {found.log_tail or 'it was killed'}")
        if time.monotonic() > give_up_at:
            raise JobFailedError(f"{what} on {host} did not end in {timeout_seconds:g} s")
        sleep(POLL_SECONDS)


def excluded_people(run: ChangeRun) -> dict[str, str]:
    """Who may not approve: the requester, where the policy says so."""
    policy = run.environment.policies.approvals
    return {run.holder.actor: "requester"} if policy is not None and policy.exclude_requester else {}
