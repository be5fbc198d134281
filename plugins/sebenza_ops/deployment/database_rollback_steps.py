"""The steps of a database rollback on the estate; the operators call these."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.deployment.backup_before import MANIFEST, PREFIX, ChangeBackup, LogicalDump, is_whole, parse_backup
from sebenza_ops.deployment.briefs import excluded_people
from sebenza_ops.deployment.contract import AUDIT_ACTION as CONTRACTED
from sebenza_ops.deployment.database_rollback import (
    DatabaseRollbackPlan,
    DatabaseRollbackRefusedError,
    choose_backup,
    find_change,
    find_differences,
    find_loss,
    moment,
    names_beside,
    question,
    refuse_copy,
    refuse_without_restoring,
    summed_up,
)
from sebenza_ops.deployment.migrations import DatabaseSchema, read_schema
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.set_before import SetNotMadeError, dump_of_set
from sebenza_ops.environments.env_file import render_env_file
from sebenza_ops.environments.models import Environment, Host, Role
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.application_migrations import STATUS_TIMEOUT_SECONDS, KnownMigration, parse_known
from sebenza_ops.systems.application_secrets import leading_to, resolve_secrets
from sebenza_ops.systems.database_copy import DatabaseCopy, RestoreStatus
from sebenza_ops.systems.database_dump import DatabaseLogin, DumpResult
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.ssh import HostSession, on_hosts, open_session

POLL_INTERVAL_SECONDS = 1.0
GATE = "database_rollback"
# Under this the run's progress has the names, which stay over retries, and how far it has come.
PROGRESS = "database_rollback"


class RestoredCopy(BaseModel):
    """A restored copy that passed the gate: its oid, its description, and the question about it."""

    model_config = ConfigDict(frozen=True)

    oid: int
    description: str
    counted_at: str
    lost: str
    text: str
    excluded: dict[str, str]


def progress_of(run: ChangeRun) -> dict[str, Any]:
    """How far the database rollback of this run has come: `state`, `names`, `reason` and what the steps add."""
    found = run.ledger.deployments.progress(run.holder.dag_id, run.holder.run_id).get(PROGRESS)
    return dict(found or {})


def save_progress(run: ChangeRun, **values: Any) -> None:
    """Keep values over kills."""
    holder = run.holder
    run.ledger.deployments.set_progress(holder.dag_id, holder.run_id, PROGRESS, {**progress_of(run), **values})


def refused(run: ChangeRun, release_id: str, error: Exception) -> str:
    """Record why the database stays; the sentence for people."""
    run.record([GateFact(name=GATE, verdict="fail", detail=str(error), at=utc_now())])
    if progress_of(run).get("state") != "exchanged":
        save_progress(run, state="refused", reason=str(error))
    text = f"the database stays as it is: {error}"
    run.note(f"traffic is back on {release_id}; {text}", "error")
    return text


def refuse_exchanged(run: ChangeRun) -> None:
    """A run exchanges the database once. Raises DatabaseRollbackRefusedError when it has."""
    known = progress_of(run)
    if known.get("state") == "exchanged":
        raise DatabaseRollbackRefusedError(
            f"this run has exchanged it already, what was is kept as {known['names'][1]}: start a new run"
        )


def plan_database_rollback(run: ChangeRun, rollback: DeploymentPlan) -> DatabaseRollbackPlan:
    """Find the backup from before the change, and whether the schema allows it. Changes nothing but the ledger.

    Raises DatabaseRollbackRefusedError; OutsideSystemError when object storage does not answer.
    """
    environment, ledger = run.environment, run.ledger
    release = rollback.release
    known = progress_of(run)
    refuse_exchanged(run)
    change, left_release = find_change(
        ledger.deployments.recent(environment.name, limit=50), rollback.from_release, release.release_id, run.holder
    )
    backup = choose_backup(verified_backups(run), environment.name, environment.database.name, change)
    entries = ledger.audit.entries(environment=environment.name, action=CONTRACTED)
    # The newest first: of a migration that ran in a database that was moved aside since, the last time counts.
    refuse_without_restoring(release, backup, {entry.subject: entry.at for entry in reversed(entries)})
    restored, aside = known.get("names") or names_beside(environment.database.name, datetime.now(UTC))
    plan = DatabaseRollbackPlan(
        environment=environment.name,
        database=environment.database.name,
        restored=restored,
        aside=aside,
        backup=backup,
        change=str(change.holder),
        change_at=change.started_at,
        release=release,
        color=rollback.to_color,
        left_release=left_release,
    )
    save_progress(run, state="planned", reason="", names=[restored, aside])
    run.note(
        f"database rollback: from the backup of {moment(backup.made_at)} (schema revision {backup.schema_revision}, "
        f"{backup.size_bytes} bytes, {backup.key}), from before {plan.change}"
    )
    return plan


def verified_backups(run: ChangeRun) -> list[ChangeBackup]:
    """The environment's backups before changes that are still whole. Raises OutsideSystemError."""
    name, storage = run.environment.name, ObjectStorage(run.environment.object_store)
    found = []
    for key in storage.keys(PREFIX):
        dag_id = key.removeprefix(PREFIX).partition("/")[0]
        if not key.endswith(f"/{MANIFEST}") or dag_id.rpartition(".")[2] != name:
            continue
        backup = parse_backup(storage.get_json(key))
        if backup is not None and is_whole(run, storage, backup):
            found.append(backup)
    return found


@contextmanager
def copy_of(environment: Environment, restored: str, aside: str) -> Iterator[DatabaseCopy]:
    """The run's copy, from the database host on which it was begun, or the first that answers.

    Raises OutsideSystemError.
    """
    with open_session(_host(environment, restored, aside), environment.ssh_conn_id) as session:
        yield DatabaseCopy(environment, session, restored, aside)


def _host(environment: Environment, restored: str, aside: str) -> Host:
    first: Host | None = None
    reasons = []
    for host in environment.hosts_with_role(Role.DATABASE):
        try:
            with open_session(host, environment.ssh_conn_id) as session:
                state = DatabaseCopy(environment, session, restored, aside).status().state
        except OutsideSystemError as error:
            reasons.append(str(error))
            continue
        if state in {"running", "done"}:
            return host
        first = first or host
    if first is None:
        reason = "; ".join(reasons) or "the inventory has no database host"
        raise OutsideSystemError(f"no database host answers: {reason}", host=environment.name)
    return first


def login_of(environment: Environment) -> DatabaseLogin:
    """Who works on the database: the application's role, which owns it."""
    return DatabaseLogin.from_connection(environment.database.conn_id)


def restore_beside(run: ChangeRun, plan: DatabaseRollbackPlan) -> RestoredCopy:
    """Restore the backup into a new database beside, hold it against the gate, and count what would be lost.

    Raises:
        DatabaseRollbackRefusedError: It can't be restored, or its schema does not fit; the database is untouched.
        OutsideSystemError: A host does not answer.
    """
    environment, login = run.environment, login_of(run.environment)
    refuse_exchanged(run)
    with copy_of(environment, plan.restored, plan.aside) as copy:
        status = _restored(run, plan, copy, login)
        then = copy.describe(login, plan.restored)
        if then.oid != status.oid:
            raise DatabaseRollbackRefusedError(f"{plan.restored} is not the database that was restored")
        now = copy.describe(login, plan.database, then.text)
        host = copy.host
    refuse_copy(plan.release, plan.backup, read_schema(environment), _schema_of(environment, plan))
    loss, differences = find_loss(now, then), find_differences(now, then)
    run.note(f"the backup is restored into {plan.restored} in {status.seconds:.0f} s", "success", host=host)
    lost = summed_up(loss)
    run.note(f"would be lost, of what was written since: {lost}", "warning")
    detail = f"backup of {moment(plan.backup.made_at)} restored; no contract migration since; lost would be: {lost}"
    run.record([GateFact(name=GATE, verdict="pass", detail=detail, at=utc_now())])
    save_progress(run, state="restored", lost=lost)
    excluded = excluded_people(run, {})
    text = question(
        plan,
        loss,
        differences,
        counted_at=now.at,
        reason=str(run.conf.get("reason", "")),
        requested_by=run.holder.actor,
        excluded=excluded,
    )
    return RestoredCopy(oid=then.oid, description=then.text, counted_at=now.at, lost=lost, text=text, excluded=excluded)


def _restored(run: ChangeRun, plan: DatabaseRollbackPlan, copy: DatabaseCopy, login: DatabaseLogin) -> RestoreStatus:
    """Start the restore, or find it, and wait for its end."""
    timeout_seconds = run.environment.policies.backup_before_change.timeout_seconds
    until = time.monotonic() + timeout_seconds
    backup = plan.backup
    if copy.status().state not in {"running", "done"}:
        key, dump = _dump(run, backup)
        copy.start(login, ObjectStorage(run.environment.object_store), key, dump.sha256, dump.size_bytes)
    while True:
        status = copy.status()
        if status.state == "done":
            return status
        if status.state != "running":
            reason = status.log_tail or "it was killed"
            raise DatabaseRollbackRefusedError(f"the backup {backup.key} could not be restored beside it: {reason}")
        if time.monotonic() >= until:
            raise DatabaseRollbackRefusedError(f"restoring the backup did not end within {timeout_seconds} s")
        time.sleep(POLL_INTERVAL_SECONDS)


def _dump(run: ChangeRun, backup: ChangeBackup) -> tuple[str, LogicalDump | DumpResult]:
    """The backup as a dump in object storage; a set is restored and dumped first."""
    if isinstance(backup, LogicalDump):
        return backup.key, backup
    try:
        return dump_of_set(run, backup)
    except (SetNotMadeError, ChangeRefusedError) as error:
        raise DatabaseRollbackRefusedError(str(error)) from error


def _schema_of(environment: Environment, plan: DatabaseRollbackPlan) -> DatabaseSchema:
    """What the copy really has, told by the release that is live again. Raises OutsideSystemError."""
    secrets = leading_to(resolve_secrets(environment), plan.restored)
    hosts = environment.hosts_with_role(Role.APPLICATION)
    release_id = plan.release.release_id
    settings = {host.name: render_env_file(environment, plan.color, host, release_id, secrets) for host in hosts}

    def ask(session: HostSession) -> tuple[KnownMigration, ...]:
        host = ApplicationHost(environment, session)
        arguments = [host.release_dir(release_id), environment.application.node_bin_dir]
        name = session.host.name
        result = session.run_script(
            "restored_schema", arguments, stdin=settings[name], timeout_seconds=STATUS_TIMEOUT_SECONDS
        )
        return parse_known(name, result.stdout)

    reasons = []
    for host in hosts:
        answer = on_hosts([host], environment.ssh_conn_id, ask)[host.name]
        if not isinstance(answer, OutsideSystemError):
            return DatabaseSchema(tuple(found for found in answer if found.state != "pending"))
        reasons.append(str(answer))
    raise OutsideSystemError(f"no application host tells the copy's schema: {'; '.join(reasons)}")


def settle_database(run: ChangeRun) -> None:
    """At the run's end: users are let in whatever happened, and a copy that was not used is removed."""
    known = progress_of(run)
    if not known.get("names"):
        return
    restored, aside = known["names"]
    try:
        with copy_of(run.environment, restored, aside) as copy:
            exchanged, done = copy.settle(login_of(run.environment), run.fence)
            copy.discard_files()
    except OutsideSystemError as error:
        run.note(
            f"whether {run.environment.database.name} lets users in could not be seen to: {error}. Look at once; "
            f"{restored} may be left there",
            "error",
        )
        return
    if exchanged and known.get("state") != "exchanged":
        save_progress(run, state="exchanged")
    elif not exchanged and known.get("state") == "exchanging":
        save_progress(run, state="not exchanged")
    for line in done:
        run.note(line, "warning", host=copy.host)
